"""A model as plain values, whichever way it lies on the disk."""

from __future__ import annotations

from dataclasses import dataclass

from quern.modelfiles.vocabulary import Vocabulary


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """A model in numbers. `context_length` is in tokens; `kv_heads` has one entry for each block."""

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
    def block_count(self) -> int:
        """Transformer blocks."""
        return len(self.kv_heads)

    def kv_bytes_per_token(self, bytes_per_value: float = 2) -> int:
        """Memory that one token takes in the KV cache, in bytes; two bytes a value is f16, llama.cpp's default."""
        return round(sum(self.kv_heads) * (self.key_length + self.value_length) * bytes_per_value)


@dataclass(frozen=True, slots=True)
class ModelDescription:
    """Everything a prompt needs to know of a model."""

    facts: ModelFacts
    vocabulary: Vocabulary
    chat_template: str
