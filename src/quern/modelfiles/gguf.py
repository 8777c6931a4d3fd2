"""What a GGUF file says of its model: its facts, its vocabulary, its chat template.

The keys: "Standardized key-value pairs" in docs/gguf.md of ggml.
"""

from __future__ import annotations

from pathlib import Path

from quern.errors import ModelCorrupt, ModelLoadError
from quern.modelfiles.description import ModelDescription, ModelFacts
from quern.modelfiles.embedding import gguf_embeds, gguf_ending
from quern.modelfiles.file_types import LLAMA_FILE_TYPES
from quern.modelfiles.gguf_header import Metadata, read_metadata
from quern.modelfiles.vocabulary import TokenType, Vocabulary


def read_gguf(path: Path) -> ModelDescription:
    """Read a GGUF file; about 0.2 seconds for a Qwen model.

    Raises ModelNotFound, ModelCorrupt, and ModelLoadError where the model is of a kind that can't be served.
    """
    metadata = read_metadata(path)
    embeds = gguf_embeds(metadata, metadata.text("general.architecture"))
    vocabulary = _vocabulary(metadata, embeds=embeds)
    template = metadata.text("tokenizer.chat_template")
    if not template and not embeds:
        raise ModelLoadError(
            f"The model file {path} has no chat template, so Quern can't tell it a conversation: it is probably a base "
            f"model. Use the model's instruct version."
        )
    return ModelDescription(_facts(metadata, len(vocabulary.tokens), embeds=embeds), vocabulary, template)


def _facts(metadata: Metadata, vocabulary_size: int, *, embeds: bool) -> ModelFacts:
    architecture = metadata.text("general.architecture")
    attention = f"{architecture}.attention"
    blocks = _required(metadata, f"{architecture}.block_count")
    heads = max(metadata.integers(f"{attention}.head_count"), default=0)
    kv_heads = metadata.integers(f"{attention}.head_count_kv") or [heads]
    width = _required(metadata, f"{architecture}.embedding_length")
    head_length = width // max(heads, 1)
    return ModelFacts(
        architecture=architecture,
        name=metadata.text("general.name", metadata.path.stem),
        quantisation=LLAMA_FILE_TYPES.get(metadata.integer("general.file_type") or 0, "unknown"),
        context_length=_required(metadata, f"{architecture}.context_length"),
        vocabulary_size=vocabulary_size,
        head_count=heads,
        kv_heads=tuple(kv_heads * blocks if len(kv_heads) == 1 else kv_heads),
        key_length=metadata.integer(f"{attention}.key_length") or head_length,
        value_length=metadata.integer(f"{attention}.value_length") or head_length,
        embedding_length=width if embeds else 0,
    )


def _vocabulary(metadata: Metadata, *, embeds: bool) -> Vocabulary:
    tokens = metadata.texts("tokenizer.ggml.tokens")
    if not tokens:
        raise _incomplete(metadata, "tokenizer.ggml.tokens")
    kind = metadata.text("tokenizer.ggml.model")
    if kind != "gpt2":
        raise ModelLoadError(
            f"The model file {metadata.path} has a tokenizer of the kind {kind!r}; Quern reads byte-level BPE "
            f"('gpt2'), as all Qwen models have it. Use a Qwen-Coder model."
        )
    types = metadata.integers("tokenizer.ggml.token_type") or [int(TokenType.NORMAL)] * len(tokens)
    if len(types) != len(tokens):
        raise _damaged(metadata, f"it has {len(tokens)} tokens but {len(types)} token types")
    eos_id = _token_id(metadata, "eos", len(tokens))
    architecture = metadata.text("general.architecture")
    return Vocabulary(
        tokens=tokens,
        types=types,
        merges=[
            (left, right)
            for left, _, right in (line.partition(" ") for line in metadata.texts("tokenizer.ggml.merges"))
        ],
        pretokenizer=metadata.text("tokenizer.ggml.pre"),
        bos_id=_token_id(metadata, "bos", len(tokens)),
        eos_id=eos_id,
        eot_id=_token_id(metadata, "eot", len(tokens)),
        padding_id=_token_id(metadata, "padding", len(tokens)),
        ending_id=gguf_ending(metadata, architecture, tokens, eos_id) if embeds else None,
    )


def _token_id(metadata: Metadata, role: str, vocabulary_size: int) -> int | None:
    token_id = metadata.integer(f"tokenizer.ggml.{role}_token_id")
    if token_id is not None and not 0 <= token_id < vocabulary_size:
        raise _damaged(metadata, f"its {role} token {token_id} is not one of its {vocabulary_size} tokens")
    return token_id


def _required(metadata: Metadata, key: str) -> int:
    value = metadata.integer(key)
    if value is None:
        raise _incomplete(metadata, key)
    if value <= 0:
        raise _damaged(metadata, f"its metadata value {key} is {value}")
    return value


def _incomplete(metadata: Metadata, key: str) -> ModelLoadError:
    return ModelLoadError(
        f"The model file {metadata.path} has no metadata value {key}, so it is not a whole language model. Where a "
        f"model is split over several files, give the first one."
    )


def _damaged(metadata: Metadata, what: str) -> ModelCorrupt:
    return ModelCorrupt(f"The model file {metadata.path} is damaged: {what}. Fetch the file again.")
