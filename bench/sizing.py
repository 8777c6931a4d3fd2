"""The sums of docs/sizing.md: how many users, tokens and cards. Arithmetic, no measurement; prints the page's tables.

python bench/sizing.py
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from quern.modelfiles.sizes import kv_cache_bytes
from quern.models.catalog import find
from shapes import QWEN3_CODER_30B_A3B

BANDWIDTH_SHARE = 0.6
"""Of a card's bandwidth that a step of decoding reaches."""
COMPUTE_SHARE = 0.4
"""Of a card's BF16 arithmetic that a prompt reaches."""
STEP_SECONDS = 0.002
"""Of a step, beside reading: scheduling, sampling, launches."""
RESERVED = 2e9
"""Bytes of a card for activations and graphs."""
MEMORY_SHARE = 0.92
"""Of a card's memory that is used at all (`engine.vllm.gpu_memory_utilization`)."""
FP8, FOUR_BITS = 1.0, 4.25 / 8
"""Bytes of a quantised weight; of four bits with a scale of 16 bits and a zero of 16 for 128."""


@dataclass(frozen=True, slots=True)
class Card:
    """`memory` as the driver counts it, in bytes; `bandwidth` in bytes and `flops` (dense, BF16) per second."""

    name: str
    memory: float
    bandwidth: float
    flops: float


@dataclass(frozen=True, slots=True)
class Model:
    """`dense`: numbers that every token reads, without the embedding; `expert`: of one expert in all layers; `floats`:
    numbers that stay BF16 where the rest is quantised (embedding and head); `attention`: floating-point operations for
    a token and each one before it.
    """

    name: str
    dense: float
    floats: float
    attention: float
    expert: float = 0
    experts: int = 0
    used: int = 0

    @property
    def values(self) -> float:
        """All numbers."""
        return self.dense + self.floats / 2 + self.experts * self.expert

    @property
    def active(self) -> float:
        """Numbers that a token is multiplied with."""
        return self.dense + self.used * self.expert

    def weights(self, quantised: float = 2.0) -> float:
        """Bytes, `quantised` for each number but `floats`."""
        return (self.values - self.floats) * quantised + self.floats * 2

    def read(self, sequences: int | float, quantised: float) -> float:
        """Bytes of weights that a step reads: of the experts those that its tokens hit, each choosing at random."""
        hit = self.experts * (1 - (1 - self.used / self.experts) ** sequences) if self.experts else 0
        return (self.dense - self.floats / 2 + hit * self.expert) * quantised + self.floats

    def kv_bytes(self, tokens: float, numbers: float = 2.0) -> float:
        """Bytes of the KV cache."""
        return kv_cache_bytes(find(self.name).kv_shape, 1) * tokens * numbers / 2


def _dense(name: str, billions: float, hidden: int, vocabulary: int) -> Model:
    """A Qwen2.5-Coder by its published number of parameters, its width and its vocabulary, untied."""
    entry, floats = find(name), 2.0 * hidden * vocabulary
    return Model(name, billions * 1e9 - floats / 2, floats, 4.0 * entry.layers * hidden)


def _mixture() -> Model:
    shape = QWEN3_CODER_30B_A3B
    floats, expert = 2.0 * shape.hidden * shape.vocabulary, 3.0 * shape.layers * shape.hidden * shape.expert_hidden
    dense = shape.values - floats / 2 - shape.experts * expert
    attention = 4.0 * shape.layers * shape.heads * shape.head_length
    return Model("qwen3-coder-30b-a3b", dense, floats, attention, expert, shape.experts, shape.experts_used)


MODELS = (
    _dense("qwen2.5-coder-7b", 7.62, 3584, 152064),
    _dense("qwen2.5-coder-14b", 14.77, 5120, 152064),
    _dense("qwen2.5-coder-32b", 32.76, 5120, 152064),
    _mixture(),
)
QWEN3_CODER = MODELS[-1]
H100 = Card("80 GB (H100)", 85.0e9, 3.35e12, 989e12)
A100 = Card("80 GB (A100)", 85.0e9, 2.04e12, 312e12)
RTX4090 = Card("24 GB (RTX 4090)", 25.4e9, 1.01e12, 165e12)
L4 = Card("24 GB (L4)", 23.7e9, 0.30e12, 121e12)
CARDS = (H100, A100, RTX4090, L4)


@dataclass(frozen=True, slots=True)
class Fit:
    """A model on a card, with bytes of its weights' and its cache's numbers."""

    card: Card
    model: Model
    weight: float
    kv: float

    @property
    def tokens(self) -> float:
        """Tokens of the KV cache; less than none where the weights don't fit."""
        left = self.card.memory * MEMORY_SHARE - RESERVED - self.model.weights(self.weight)
        return left / self.model.kv_bytes(1, self.kv)

    def step(self, sequences: float, context: float) -> float:
        """Seconds of a step of decoding."""
        read = self.model.read(sequences, self.weight) + self.model.kv_bytes(sequences * context, self.kv)
        return read / (self.card.bandwidth * BANDWIDTH_SHARE) + STEP_SECONDS

    def prefill(self, new: float, before: float = 0) -> float:
        """Seconds to compute `new` tokens after `before` others."""
        work = new * (2 * self.model.active + self.model.attention * (before + new / 2))
        return work / (self.card.flops * COMPUTE_SHARE)


@dataclass(frozen=True, slots=True)
class Load:
    """What agents do: tokens of a prompt, those of them that no cache has, tokens of an answer, seconds between turns;
    and the share of developers who have one at work in the busiest hour.
    """

    prompt: float = 30000
    new: float = 1800
    answer: float = 500
    pause: float = 5
    at_work: float = 0.2


@dataclass(frozen=True, slots=True)
class Busy:
    """One card under a load. `writing`: answers at once; of each, `turn`: seconds, `pace`: tokens per second, `first`:
    seconds to the first token.
    """

    writing: float
    turn: float
    pace: float
    first: float


def busy(fit: Fit, agents: float, load: Load) -> Busy:
    """Where `agents` share one card: each waits for its prompt and its answer, then its tools run. Prompts take the
    card's time from those that write; what is found is the point at which all of that agrees.
    """
    prefill = fit.prefill(load.new, load.prompt - load.new)
    found, prompts = Busy(agents, 0.0, 0.0, 0.0), 0.0
    for _ in range(200):
        pace = (1 - prompts) / fit.step(max(found.writing, 1), load.prompt)
        answer, first = load.answer / pace, prefill / max(1 - prompts, 0.05)
        rate = agents / (first + answer + load.pause)
        prompts = (prompts + min(rate * prefill, 0.9)) / 2
        found = Busy((found.writing + rate * answer) / 2, first + answer, pace, first)
    return found


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    return "\n".join(f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *rows))


def weights_table() -> str:
    """Bytes by model."""
    head = ("model", "parameters", "read for a token", "BF16", "FP8", "4 bits", "KV of a token", "the same in FP8")
    return _table(
        head,
        (
            (
                f"`{model.name}`",
                f"{model.values / 1e9:.1f}B",
                f"{model.active / 1e9:.1f}B",
                *(f"{model.weights(size) / 1e9:.1f} GB" for size in (2.0, FP8, FOUR_BITS)),
                *(f"{model.kv_bytes(1, size):.0f} B" for size in (2.0, 1.0)),
            )
            for model in MODELS
        ),
    )


FITS = (
    Fit(H100, QWEN3_CODER, 2.0, 2.0),
    Fit(H100, QWEN3_CODER, FP8, 2.0),
    Fit(H100, QWEN3_CODER, FP8, 1.0),
    Fit(A100, QWEN3_CODER, 2.0, 2.0),
    Fit(H100, MODELS[2], FP8, 2.0),
    Fit(RTX4090, QWEN3_CODER, FOUR_BITS, 1.0),
    Fit(RTX4090, MODELS[0], 2.0, 2.0),
    Fit(L4, MODELS[0], FP8, 1.0),
)
NUMBERS = {2.0: "BF16", 1.0: "FP8", FOUR_BITS: "4 bits"}


def _name(fit: Fit) -> str:
    return f"`{fit.model.name}` in {NUMBERS[fit.weight]}"


def cards_table() -> str:
    """What fits, and how fast it is at most."""
    head = (
        *("card", "model", "KV", "tokens of KV", "contexts of 32k"),
        *(f"tokens/s each, {count} at once" for count in (1, 8, 32)),
        "prompt of 30k",
    )
    rows = (
        (
            fit.card.name,
            _name(fit),
            NUMBERS[fit.kv],
            f"{fit.tokens / 1000:.0f}k",
            f"{fit.tokens / 32768:.0f}",
            *(f"{1 / fit.step(count, 8192):.0f}" if count * 8192 < fit.tokens else "no room" for count in (1, 8, 32)),
            f"{fit.prefill(30000):.1f} s",
        )
        for fit in FITS
    )
    return _table(head, rows)


TEAMS = (10, 50, 200)
LEAST_PACE = 30.0
KEPT = 1.5
"""Contexts in the cache for each agent at work: its own, and half of one that waits for its developer."""


def teams_table(load: Load) -> str:
    """Cards by developers."""
    rows = list[Sequence[str]]()
    for developers in TEAMS:
        agents = developers * load.at_work
        for fit in (FITS[2], FITS[5]):
            cards = next(
                count
                for count in range(1, 1000)
                if agents / count * KEPT * load.prompt <= fit.tokens
                and busy(fit, agents / count, load).pace >= LEAST_PACE
            )
            found = busy(fit, agents / cards, load)
            rows.append(
                (
                    str(developers),
                    f"{agents:.0f}",
                    f"{agents * KEPT * load.prompt / 1000:.0f}k",
                    f"{fit.card.name}, {NUMBERS[fit.weight]}",
                    str(cards),
                    f"{found.writing:.1f}",
                    f"{found.first:.1f} s",
                    f"{found.pace:.0f}",
                    f"{found.turn:.0f} s",
                )
            )
    head = (
        *("developers", "agents at work", "tokens of KV", "card", "cards", "answers at once on each"),
        *("first token after", "tokens/s each", "a turn"),
    )
    return _table(head, rows)


def main() -> None:
    """Print the tables."""
    print(weights_table(), cards_table(), teams_table(Load()), sep="\n\n")


if __name__ == "__main__":
    main()
