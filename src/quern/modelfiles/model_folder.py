"""What a model's folder in Hugging Face's layout says about the model.

Only JSON and the chat template are read. Nothing in the folder is ever run, whatever `auto_map` or a .py file wants.
`tokenizer.json` becomes the same values as the vocabulary of a GGUF file, so that text is tokenised in one way.
"""

from __future__ import annotations

from itertools import chain
from pathlib import Path
from typing import TypeVar

from pydantic import ValidationError

from quern.errors import ModelCorrupt, ModelLoadError
from quern.modelfiles.facts import ModelDescription, ModelFacts
from quern.modelfiles.folder_json import (
    AddedToken,
    ConfigFile,
    GenerationConfigFile,
    JsonFile,
    PreTokenizer,
    TokenizerConfigFile,
    TokenizerFile,
)
from quern.modelfiles.pretokenizers import HUGGING_FACE_NAMES
from quern.modelfiles.vocabulary import TokenType, Vocabulary

MOST_BYTES = 64 * 2**20
"""Of one file; the largest, Qwen's `tokenizer.json`, has 11 MB."""

ARCHITECTURES = {"qwen3_moe": "qwen3moe"}
"""`model_type` to GGUF's name, where the two differ."""

FLOATS = {"bfloat16": "BF16", "float16": "F16", "float32": "F32"}
QWEN3_HEAD_LENGTH = 128
"""Where `config.json` does not say it, as in Transformers; other models divide their width by their heads."""

File = TypeVar("File", bound=JsonFile)


def read_model_folder(folder: Path) -> ModelDescription:
    """Read a model's folder; below half a second for a Qwen model.

    Raises ModelCorrupt, and ModelLoadError where a file is missing or the model is of a kind that can't be served.
    """
    config = _read(folder / "config.json", ConfigFile)
    tokenizer_config = _read_if_there(folder / "tokenizer_config.json", TokenizerConfigFile)
    vocabulary = _vocabulary(
        folder,
        config,
        _read(folder / "tokenizer.json", TokenizerFile),
        tokenizer_config,
        _read_if_there(folder / "generation_config.json", GenerationConfigFile),
    )
    return ModelDescription(_facts(folder, config), vocabulary, _chat_template(folder, tokenizer_config))


def _facts(folder: Path, config: ConfigFile) -> ModelFacts:
    architecture = ARCHITECTURES.get(config.model_type, config.model_type)
    heads = config.num_attention_heads
    head_length = config.head_dim or (QWEN3_HEAD_LENGTH if architecture == "qwen3" else config.hidden_size // heads)
    floats = config.dtype or config.torch_dtype or "float32"
    return ModelFacts(
        architecture=architecture,
        name=folder.name,
        quantisation=config.quantization_config.quant_method.upper()
        if config.quantization_config
        else FLOATS.get(floats, floats),
        context_length=config.max_position_embeddings,
        vocabulary_size=config.vocab_size,
        head_count=heads,
        kv_heads=(config.num_key_value_heads or heads,) * config.num_hidden_layers,
        key_length=head_length,
        value_length=head_length,
    )


def _vocabulary(
    folder: Path,
    config: ConfigFile,
    tokenizer: TokenizerFile,
    tokenizer_config: TokenizerConfigFile,
    generation: GenerationConfigFile,
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
    return Vocabulary(
        tokens=tokens,
        types=types,
        merges=[_pair(merge) for merge in model.merges],
        pretokenizer=_pretokenizer_name(tokenizer.pre_tokenizer),
        bos_id=ids.get(_text(tokenizer_config.bos_token)),
        eos_id=ids.get(_text(tokenizer_config.eos_token)),
        padding_id=ids.get(_text(tokenizer_config.pad_token)),
        end_ids=end_ids,
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
    """A file of its own goes first, as in Transformers."""
    file = folder / "chat_template.jinja"
    data = _bytes(file)
    if data is not None:
        try:
            return data.decode()
        except UnicodeDecodeError as error:
            raise ModelCorrupt(f"The file {file} is no UTF-8 text ({error}). Fetch it again.") from error
    template = config.chat_template
    if isinstance(template, list):
        template = next((named.template for named in template if named.name == "default"), None)
    if not template:
        raise ModelLoadError(
            f"The model folder {folder} has no chat template, neither in tokenizer_config.json nor in "
            f"chat_template.jinja, so Quern can't tell it a conversation: it is probably a base model. Use the "
            f"model's instruct version."
        )
    return template


def _read(path: Path, shape: type[File]) -> File:
    data = _bytes(path)
    if data is None:
        raise ModelLoadError(
            f"The model folder {path.parent} has no {path.name}, so the model can't be served. Fetch the whole folder "
            f"again."
        )
    return _parse(path, data, shape)


def _read_if_there(path: Path, shape: type[File]) -> File:
    data = _bytes(path)
    return shape() if data is None else _parse(path, data, shape)


def _parse(path: Path, data: bytes, shape: type[File]) -> File:
    try:
        return shape.model_validate_json(data)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        place = ".".join(map(str, first["loc"]))
        where = f"its value {place} is not as it should be" if place else "it is not the JSON that it should be"
        raise ModelCorrupt(
            f"The file {path} is damaged or of a kind that Quern does not know: {where} ({first['msg']}). Fetch it "
            f"again."
        ) from error


def _bytes(path: Path) -> bytes | None:
    """A small regular file's bytes; None where there is no such file."""
    try:
        if path.exists() and not path.is_file():
            raise ModelLoadError(f"{path} is not a regular file. Fetch the model's folder again.")
        with path.open("rb") as file:
            data = file.read(MOST_BYTES + 1)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise ModelLoadError(f"The file {path} can't be read: {error.strerror}. Make it readable.") from error
    if len(data) > MOST_BYTES:
        raise ModelCorrupt(
            f"The file {path} has more than {MOST_BYTES} bytes, so it is not what its name says. Fetch the model's "
            f"folder again."
        )
    return data
