"""The shapes of models that are measured with random weights, for speed and memory do not depend on what they are."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class MoeShape:
    """A mixture-of-experts network of the architecture `qwen3_moe`. Its matrices have no biases."""

    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head_length: int
    experts: int
    experts_used: int
    expert_hidden: int
    vocabulary: int
    context: int
    rope_base: float = 1e7
    norm_epsilon: float = 1e-6

    @property
    def layer_values(self) -> int:
        """Numbers in the matrices of one layer."""
        attention = self.hidden * self.head_length * (2 * self.heads + 2 * self.kv_heads)
        return attention + self.hidden * self.experts * (1 + 3 * self.expert_hidden)

    @property
    def values(self) -> int:
        """Numbers in all matrices, embedding and head among them."""
        return self.layers * self.layer_values + 2 * self.hidden * self.vocabulary


QWEN3_CODER_30B_A3B = MoeShape(
    layers=48,
    hidden=2048,
    heads=32,
    kv_heads=4,
    head_length=128,
    experts=128,
    experts_used=8,
    expert_hidden=768,
    vocabulary=151936,
    context=262144,
)
"""Source: `config.json` of Qwen/Qwen3-Coder-30B-A3B-Instruct."""

TINY = MoeShape(
    layers=2,
    hidden=256,
    heads=4,
    kv_heads=2,
    head_length=64,
    experts=8,
    experts_used=2,
    expert_hidden=128,
    vocabulary=4096,
    context=4096,
)
"""The same architecture for a check without a GPU."""
