"""A model's folder in Hugging Face's layout: what must be in it, and what it says of the model.

Only JSON and the chat template are read. Nothing in the folder is ever run, whatever `auto_map` or a .py file wants.
`tokenizer.json` becomes the same values as the vocabulary of a GGUF file, so that text is tokenised in one way.
"""

from __future__ import annotations

from itertools import chain
from pathlib import Path

from quern.errors import ModelCorrupt, ModelLoadError, ModelNotFound
from quern.modelfiles.description import ModelDescription, ModelFacts
from quern.modelfiles.embedding import folder_embeds, folder_ending
from quern.modelfiles.file_types import DTYPES
from quern.modelfiles.folder_json import (
    AddedToken,
    ConfigFile,
    GenerationConfigFile,
    PreTokenizer,
    TokenizerConfigFile,
    TokenizerFile,
    read_bytes,
    read_file,
    read_if_there,
)
from quern.modelfiles.pretokenizers import HUGGING_FACE_NAMES
from quern.modelfiles.vocabulary import TokenType, Vocabulary

CONFIG = "config.json"
WEIGHTS = "model*.safetensors"

ARCHITECTURES = {"qwen3_moe": "qwen3moe"}
"""`model_type` to GGUF's name, where the two differ."""

QWEN3_HEAD_LENGTH = 128
"""Where `config.json` does not say it, as in Transformers; other models divide their width by their heads."""


def read_folder(folder: Path) -> ModelDescription:
    """Read a model's folder; below half a second for a Qwen model.

    Raises ModelCorrupt, and ModelLoadError where a file is missing or the model is of a kind that can't be served.
    """
    config = read_file(folder / CONFIG, ConfigFile)
    tokenizer_config = read_if_there(folder / "tokenizer_config.json", TokenizerConfigFile)
    embeds = folder_embeds(folder, config)
    vocabulary = _vocabulary(
        folder,
        config,
        read_file(folder / "tokenizer.json", TokenizerFile),
        tokenizer_config,
        read_if_there(folder / "generation_config.json", GenerationConfigFile),
        embeds=embeds,
    )
    template = _chat_template(folder, tokenizer_config)
    if not template and not embeds:
        raise ModelLoadError(
            f"The model folder {folder} has no chat template, neither in tokenizer_config.json nor in "
            f"chat_template.jinja, so Quern can't tell it a conversation: it is probably a base model. Use the "
            f"model's instruct version."
        )
    return ModelDescription(_facts(folder, config, embeds=embeds), vocabulary, template)


def weight_files(folder: Path) -> list[Path]:
    """The files that hold the weights."""
    return sorted(folder.glob(WEIGHTS))


def check_folder(folder: Path) -> None:
    """Raise ModelNotFound, saying what is missing, unless a model in Hugging Face's layout is in `folder`."""
    weights = weight_files(folder)
    if weights and (folder / CONFIG).is_file():
        return
    if weights or (folder / CONFIG).exists():
        missing = CONFIG if weights else f"weights ({WEIGHTS})"
        raise ModelNotFound(
            f"{folder} is a model's folder in Hugging Face's layout, but there is no {missing} in it. Fetch the whole "
            f"folder again; weights in files of another kind can't be read."
        )
    inside = sorted(file.name for file in folder.glob("*.gguf"))
    hint = f"one of the files in it: {', '.join(inside)}" if inside else "a .gguf file; there is none in it"
    raise ModelNotFound(f"{folder} is a directory without a model in Hugging Face's layout. Give the path of {hint}.")


def _facts(folder: Path, config: ConfigFile, *, embeds: bool) -> ModelFacts:
    architecture = _architecture(config)
    heads = config.num_attention_heads
    head_length = config.head_dim or (QWEN3_HEAD_LENGTH if architecture == "qwen3" else config.hidden_size // heads)
    floats = config.dtype or config.torch_dtype or "float32"
    return ModelFacts(
        architecture=architecture,
        name=folder.name,
        quantisation=config.quantization_config.quant_method.upper()
        if config.quantization_config
        else DTYPES.get(floats, floats),
        context_length=config.max_position_embeddings,
        vocabulary_size=config.vocab_size,
        head_count=heads,
        kv_heads=(config.num_key_value_heads or heads,) * config.num_hidden_layers,
        key_length=head_length,
        value_length=head_length,
        embedding_length=config.hidden_size if embeds else 0,
    )


def _architecture(config: ConfigFile) -> str:
    return ARCHITECTURES.get(config.model_type, config.model_type)


def _vocabulary(
    folder: Path,
    config: ConfigFile,
    tokenizer: TokenizerFile,
    tokenizer_config: TokenizerConfigFile,
    generation: GenerationConfigFile,
    *,
    embeds: bool,
) -> Vocabulary:
    model = tokenizer.model
    if model.type != "BPE" or model.ignore_merges or model.continuing_subword_prefix or model.end_of_word_suffix:
        raise ModelLoadError(
            f"The model folder {folder} has a tokenizer of a kind that no Qwen model has ({model.type}); Quern reads "
            f"byte-level BPE. Use a Qwen-Coder model."
        )
    ids = {**model.vocab, **{token.content: token.id for token in tokenizer.added_tokens}}
    ends = config.eos_token_id if generation.eos_token_id is None else generation.eos_token_id
    end_ids = [ends] if isinstance(ends, int) else ends or []
    outside = [token_id for token_id in (*ids.values(), *end_ids) if not 0 <= token_id < config.vocab_size]
    if outside:
        raise ModelCorrupt(
            f"The JSON files in {folder} do not belong together: there is a token with the id {outside[0]} in a "
            f"vocabulary of {config.vocab_size} (vocab_size). Fetch the whole folder again."
        )
    tokens, types = _tokens(config.vocab_size, tokenizer)
    ending = folder_ending(folder, _architecture(config), tokenizer.post_processor) if embeds else None
    return Vocabulary(
        tokens=tokens,
        types=types,
        merges=[_pair(merge) for merge in model.merges],
        pretokenizer=_pretokenizer_name(tokenizer.pre_tokenizer),
        bos_id=ids.get(_text(tokenizer_config.bos_token)),
        eos_id=ids.get(_text(tokenizer_config.eos_token)),
        padding_id=ids.get(_text(tokenizer_config.pad_token)),
        end_ids=end_ids,
        ending_id=None if ending is None else ids.get(ending),
    )


def _tokens(size: int, tokenizer: TokenizerFile) -> tuple[list[str], list[int]]:
    """Texts and types by id. The weights have room for more tokens than there are: those ids are unused."""
    tokens, types = [""] * size, [int(TokenType.UNUSED)] * size
    normal = ((text, token_id, TokenType.NORMAL) for text, token_id in tokenizer.model.vocab.items())
    added = (
        (token.content, token.id, TokenType.CONTROL if token.special else TokenType.USER_DEFINED)
        for token in tokenizer.added_tokens
    )
    for text, token_id, kind in chain(normal, added):
        tokens[token_id], types[token_id] = text, int(kind)
    return tokens, types


def _pair(merge: str | tuple[str, str]) -> tuple[str, str]:
    """Older files have both texts in one string."""
    if isinstance(merge, tuple):
        return merge
    left, _, right = merge.partition(" ")
    return left, right


def _pretokenizer_name(pre_tokenizer: PreTokenizer | None) -> str:
    """Our name of it; where we have none, the pattern itself, so that the refusal shows it."""
    parts = [] if pre_tokenizer is None else pre_tokenizer.pretokenizers or [pre_tokenizer]
    patterns = [part.pattern.regex for part in parts if part.pattern is not None]
    others = {part.type for part in parts if part.pattern is None}
    if len(patterns) == 1 and others == {"ByteLevel"}:
        return HUGGING_FACE_NAMES.get(patterns[0], patterns[0])
    return ", ".join(part.type for part in parts)


def _text(token: str | AddedToken | None) -> str:
    return token.content if isinstance(token, AddedToken) else token or ""


def _chat_template(folder: Path, config: TokenizerConfigFile) -> str:
    """A file of its own goes first, as in Transformers. Empty where there is none."""
    file = folder / "chat_template.jinja"
    data = read_bytes(file)
    if data is not None:
        try:
            return data.decode()
        except UnicodeDecodeError as error:
            raise ModelCorrupt(f"The file {file} is no UTF-8 text ({error}). Fetch it again.") from error
    template = config.chat_template
    if isinstance(template, list):
        template = next((named.template for named in template if named.name == "default"), None)
    return template or ""
