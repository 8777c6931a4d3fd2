"""What the engine benchmarks measure: workloads, and the measures that are read off them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

STEP_TOKENS = 512
"""Most prompt tokens in one step: llama.cpp's default for `-ub`, and what ours gets too."""


@dataclass(frozen=True, slots=True)
class Workload:
    """`sequences` prompts of `prompt` tokens each, then `generated` steps of one token for each sequence."""

    prompt: int
    generated: int
    sequences: int = 1


@dataclass(frozen=True, slots=True)
class Speeds:
    """Tokens per second over all sequences, prompt and generation apart."""

    prefill: float
    decode: float


@dataclass(frozen=True, slots=True)
class Measure:
    """One row of the result. `bar`: the least ratio to llama.cpp that the engine is meant to reach."""

    name: str
    title: str
    workload: Workload
    phase: Literal["prefill", "decode"]
    bar: float | None = None

    def of(self, speeds: Speeds) -> float:
        """This measure's value, in tokens per second."""
        return speeds.prefill if self.phase == "prefill" else speeds.decode


LONG = Workload(prompt=4096, generated=64)

ENGINE_MEASURES = (
    Measure("prefill512", "prefill, 512 tokens", Workload(prompt=512, generated=1), "prefill", 2.5),
    Measure("decode1", "decode, 1 sequence", Workload(64, 64, 1), "decode", 1.15),
    Measure("decode4", "decode, 4 sequences", Workload(64, 64, 4), "decode", 3.2),
    Measure("decode8", "decode, 8 sequences", Workload(64, 64, 8), "decode", 4.0),
    Measure("decode16", "decode, 16 sequences", Workload(64, 64, 16), "decode", 2.6),
    Measure("prefill4096", "prefill, 4096 tokens", LONG, "prefill", 2.2),
    Measure("decode4096", "decode after 4096 tokens", LONG, "decode", 1.15),
)

FULL_SIZE_MEASURES = (
    Measure("prefill512", "prefill, 512 tokens", Workload(prompt=512, generated=1), "prefill"),
    Measure("decode1", "decode, 1 sequence", Workload(64, 32, 1), "decode"),
    Measure("decode4", "decode, 4 sequences", Workload(64, 32, 4), "decode"),
    Measure("decode8", "decode, 8 sequences", Workload(64, 32, 8), "decode"),
)


def chosen(measures: Sequence[Measure], names: Sequence[str]) -> list[Measure]:
    """The measures of these names, or all. Raises ValueError for a name that there isn't."""
    known = [measure.name for measure in measures]
    if unknown := [name for name in names if name not in known]:
        msg = f"no measure is called {', '.join(unknown)}; there are {', '.join(known)}"
        raise ValueError(msg)
    return [measure for measure in measures if not names or measure.name in names]


def prefill_steps(lengths: Sequence[int], budget: int = STEP_TOKENS) -> Iterator[list[tuple[int, int, int]]]:
    """Cut prompts into steps of at most `budget` tokens: lists of (sequence, first token, token after the last)."""
    step: list[tuple[int, int, int]] = []
    room = budget
    for sequence, length in enumerate(lengths):
        start = 0
        while start < length:
            stop = min(length, start + room)
            step.append((sequence, start, stop))
            room -= stop - start
            start = stop
            if not room:
                yield step
                step, room = [], budget
    if step:
        yield step
