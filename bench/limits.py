"""What a machine could do at most with a model: the bytes it has to read and the operations it has to do.

A step takes at least the longer of two times: reading every weight and cached key it needs once at the measured
bandwidth, and multiplying at the measured peaks (weights in 8 bits, attention in BF16). No engine can be faster with
this file; how near one comes is its share of the limit.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from math import prod
from pathlib import Path
from typing import Self

from gguf_tensors import read_tensors
from quern.engine.cpu import _native
from quern.modelfiles.description import ModelFacts
from quern.modelfiles.gguf import read_gguf
from quern.modelfiles.gguf_header import read_metadata
from quern.modelfiles.sizes import kv_cache_bytes
from workloads import STEP_TOKENS, Measure, Workload

BUFFER_BYTES = 2**30  # many times any last-level cache


@dataclass(frozen=True, slots=True)
class Peaks:
    """Bytes and operations per second; `threads` threads reached them together."""

    threads: int
    bandwidth: float
    int8: float
    bf16: float

    @classmethod
    def measure(cls, threads: int, seconds: float = 1.0) -> Self:
        """The best of three attempts each: anything else that runs can only make a peak look lower."""
        return cls(
            threads,
            max(_native.read_bandwidth(threads, BUFFER_BYTES, seconds) for _ in range(3)),
            max(_native.int8_peak(threads, seconds) for _ in range(3)),
            max(_native.bf16_peak(threads, seconds) for _ in range(3)),
        )

    def __str__(self) -> str:
        return (
            f"{self.threads} threads: read {self.bandwidth / 1e9:.1f} GB/s, 8-bit {self.int8 / 1e12:.2f} TOPS, "
            f"BF16 {self.bf16 / 1e12:.2f} TFLOPS"
        )

    def as_dict(self) -> dict[str, float]:
        """For the results' JSON."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Weight:
    """One matrix, or one for each expert. `type` is GGUF's, such as `Q4_K`."""

    name: str
    type: str
    outputs: int
    inputs: int
    experts: int
    bytes: int

    @property
    def operations(self) -> int:
        """Operations for one token and one expert."""
        return 2 * self.outputs * self.inputs


def read_weights(path: Path) -> list[Weight]:
    """Every matrix that a forward pass multiplies by; the embeddings only where they are the output matrix too."""
    tensors = {tensor.name: tensor for tensor in read_tensors(path) if len(tensor.shape) > 1}
    if "output.weight" in tensors:
        del tensors["token_embd.weight"]
    return [
        Weight(name, tensor.type, tensor.shape[1], tensor.shape[0], prod(tensor.shape[2:]), tensor.bytes)
        for name, tensor in tensors.items()
    ]


class Limits:
    """The limits of one model file on one machine."""

    def __init__(self, path: Path, peaks: Peaks) -> None:
        self.peaks = peaks
        self._weights = read_weights(path)
        self._facts: ModelFacts = read_gguf(path).facts
        used = read_metadata(path).integer(f"{self._facts.architecture}.expert_used_count")
        self._experts_used = used or 1

    def weight_bytes(self, tokens: int) -> float:
        """Weights that a step of so many tokens reads; of the experts, those that so many random choices hit."""
        return sum(weight.bytes * self._share_read(weight, tokens) for weight in self._weights)

    def speed(self, measure: Measure) -> float:
        """The most tokens per second that a measure could have."""
        work = measure.workload
        if measure.phase == "decode":
            return work.sequences / self._decode_step_seconds(work)
        return work.sequences * work.prompt / self._prefill_seconds(work)

    def _share_read(self, weight: Weight, tokens: int) -> float:
        if weight.experts == 1:
            return 1.0
        return 1 - (1 - self._experts_used / weight.experts) ** tokens

    def _multiply_seconds(self, tokens: int, outputs: int) -> float:
        """For `tokens` through every block, `outputs` of them through the output matrix as well."""
        operations = 0
        for weight in self._weights:
            rows = tokens if weight.name.startswith("blk.") else outputs
            operations += rows * weight.operations * min(self._experts_used, weight.experts)
        return operations / self.peaks.int8

    def _attention_seconds(self, pairs: float) -> float:
        """For so many pairs of a query's token and a key's."""
        facts = self._facts
        lengths = facts.key_length + facts.value_length
        return 2 * pairs * facts.head_count * lengths * len(facts.kv_heads) / self.peaks.bf16

    def _decode_step_seconds(self, work: Workload) -> float:
        context = work.sequences * (work.prompt + work.generated / 2)
        read = self.weight_bytes(work.sequences) + context * kv_cache_bytes(self._facts.kv_shape, tokens=1)
        multiply = self._multiply_seconds(work.sequences, work.sequences) + self._attention_seconds(context)
        return max(read / self.peaks.bandwidth, multiply)

    def _prefill_seconds(self, work: Workload) -> float:
        tokens = work.sequences * work.prompt
        steps = -(-tokens // STEP_TOKENS)
        read = steps * self.weight_bytes(min(tokens, STEP_TOKENS))
        pairs = work.sequences * work.prompt**2 / 2
        multiply = self._multiply_seconds(tokens, work.sequences) + self._attention_seconds(pairs)
        return max(read / self.peaks.bandwidth, multiply)
