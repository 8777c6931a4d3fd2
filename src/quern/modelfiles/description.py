"""A model as plain values, whichever way it lies on the disk."""

from __future__ import annotations

from dataclasses import dataclass

from quern.modelfiles.vocabulary import Vocabulary


@dataclass(frozen=True, slots=True)
class KvShape:
    """What one token leaves in the KV cache: a key and a value in each of `heads` KV heads, counted over all blocks.

    The lengths are in numbers, not bytes; `sizes.kv_cache_bytes` turns all of it to bytes.
    """

    heads: int
    key_length: int
    value_length: int


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """A model in numbers. `context_length` is in tokens; `kv_heads` has one entry for each transformer block.

    `embedding_length`: the numbers in a vector of a model that makes embeddings; 0 for one that writes text.
    """

    architecture: str
    name: str
    quantisation: str
    context_length: int
    vocabulary_size: int
    head_count: int
    kv_heads: tuple[int, ...]
    key_length: int
    value_length: int
    embedding_length: int = 0

    @property
    def embeds(self) -> bool:
        """Whether it makes embeddings, and writes no text."""
        return self.embedding_length > 0

    @property
    def kv_shape(self) -> KvShape:
        """What one token leaves in the KV cache."""
        return KvShape(sum(self.kv_heads), self.key_length, self.value_length)


@dataclass(frozen=True, slots=True)
class ModelDescription:
    """Everything that a model's files say of it, but for the weights. A model that makes embeddings may have no chat
    template.
    """

    facts: ModelFacts
    vocabulary: Vocabulary
    chat_template: str
