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
    """A model in numbers. `context_length` is in tokens; `kv_heads` has one entry for each transformer block."""

    architecture: str
    name: str
    quantisation: str
    context_length: int
    vocabulary_size: int
    head_count: int
    kv_heads: tuple[int, ...]
    key_length: int
    value_length: int

    @property
    def kv_shape(self) -> KvShape:
        """What one token leaves in the KV cache."""
        return KvShape(sum(self.kv_heads), self.key_length, self.value_length)


@dataclass(frozen=True, slots=True)
class ModelDescription:
    """Everything that a model's files say of it, but for the weights."""

    facts: ModelFacts
    vocabulary: Vocabulary
    chat_template: str
