"""Whether a model's files are those of a model for embeddings, and which token ends what such a model reads.

What is known here are networks that attend to what came before, whose vector is the hidden state of the last token:
Qwen3-Embedding and models that were trained like it. Others are refused, for their vectors would come out wrong.

Sources: `{arch}.pooling_type` and `tokenizer.ggml.add_eos_token` as convert_hf_to_gguf.py of llama.cpp writes them;
`modules.json` and the pooling's `config.json` of Sentence Transformers; `TemplateProcessing` of Hugging Face's
Tokenizers.
"""

from __future__ import annotations

from pathlib import Path

from quern.errors import ModelLoadError
from quern.modelfiles.folder_json import ConfigFile, ModulesFile, PoolingFile, PostProcessor, read_file, read_if_there
from quern.modelfiles.gguf_header import Metadata

POOLINGS = ("none", "mean", "cls", "last", "rank")
"""`{arch}.pooling_type` of a GGUF file: llama.cpp's `llama_pooling_type`."""

LAST = "last"
MODULES = "modules.json"
USUAL_POOLING = "1_Pooling"
MODULES_KNOWN = frozenset({"Transformer", "Pooling", "Normalize"})

END_OF_TEXT = "<|endoftext|>"
"""What ends a text for Qwen3-Embedding. Its first files do not say it, and people had to write it themselves."""

ENDED_WITHOUT_A_WORD = frozenset({"qwen3"})


def gguf_embeds(metadata: Metadata, architecture: str) -> bool:
    """Whether the model makes embeddings. Raises ModelLoadError where it does so in a way that is not known here."""
    number = metadata.integer(f"{architecture}.pooling_type") or 0
    pooling = POOLINGS[number] if 0 <= number < len(POOLINGS) else str(number)
    if pooling == POOLINGS[0]:
        return False
    causal = metadata.boolean(f"{architecture}.attention.causal")
    if pooling != LAST or causal is False:
        how = f"of the pooling {pooling!r}" if pooling != LAST else "whose tokens look ahead"
        raise _unknown(metadata.path, how)
    return True


def gguf_ending(metadata: Metadata, architecture: str, tokens: list[str], eos_id: int | None) -> int | None:
    """The id after every text that is embedded, None where nothing comes after it."""
    adds = metadata.boolean("tokenizer.ggml.add_eos_token")
    if adds is None and architecture in ENDED_WITHOUT_A_WORD and END_OF_TEXT in tokens:
        return tokens.index(END_OF_TEXT)
    return eos_id if adds else None


def folder_embeds(folder: Path, config: ConfigFile) -> bool:
    """Whether the model makes embeddings. Raises ModelLoadError where it does so in a way that is not known here, and
    ModelCorrupt.
    """
    modules = read_if_there(folder / MODULES, ModulesFile).root
    poolings = [module.path for module in modules if module.kind == "Pooling"] or [USUAL_POOLING]
    others = [module.kind for module in modules if module.kind not in MODULES_KNOWN]
    if others:
        raise _unknown(folder, f"with a module {others[0]!r}")
    if any(Path(path).name != path for path in poolings):
        raise _unknown(folder, f"whose {MODULES} names a place outside of it")
    file = folder / poolings[0] / "config.json"
    if modules and not file.is_file():
        raise ModelLoadError(
            f"The model folder {folder} has no {poolings[0]}/config.json. Fetch the whole folder again."
        )
    if not file.is_file():
        return bool(config.architectures) and all(name.endswith("Model") for name in config.architectures)
    modes = read_file(file, PoolingFile).modes
    if modes != {"lasttoken"}:
        raise _unknown(folder, f"of the pooling {', '.join(sorted(modes)) or 'none'!r}")
    return True


def folder_ending(folder: Path, architecture: str, post_processor: PostProcessor | None) -> str | None:
    """The text of the token after every text that is embedded, None where nothing comes after it.

    Raises ModelLoadError where more than one token is put around a text.
    """
    parts = [] if post_processor is None else [post_processor, *post_processor.processors]
    template = next((part.single for part in parts if part.type == "TemplateProcessing"), None)
    if template is None:
        return END_OF_TEXT if architecture in ENDED_WITHOUT_A_WORD else None
    added = [piece.special.id for piece in template if piece.special is not None]
    if len(added) > 1 or (added and template[-1].special is None):
        raise _unknown(folder, f"whose tokenizer puts {' '.join(added)} around a text")
    return added[0] if added else None


def _unknown(path: Path, how: str) -> ModelLoadError:
    return ModelLoadError(
        f"{path} is a model for embeddings or for ranking {how}, which Quern doesn't know, so its numbers would come "
        f"out wrong. Use Qwen3-Embedding, whose vector is the last token's."
    )
