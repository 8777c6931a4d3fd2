"""What fits: a request into the context, a turn into the queue. Pure arithmetic on counts."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from quern.errors import ContextExceeded

LONGEST_RETRY_AFTER = 600
UNMEASURED_RETRY_AFTER = 10


LEAST_ANSWER = 256
"""Tokens. Less room than that for a fitted answer means that the prompt fills the context: no answer comes of it."""


def room_for_answer(prompt_tokens: int, max_tokens: int, context_length: int, *, fit: bool) -> int:
    """How many tokens the answer may have. Raises ContextExceeded unless the prompt and the whole answer fit; with
    `fit`, unless a shorter one does.
    """
    room = context_length - prompt_tokens
    needed = min(max_tokens, LEAST_ANSWER) if fit else max_tokens
    if needed > room:
        raise ContextExceeded(prompt_tokens, needed, context_length)
    return min(max_tokens, room)


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a running turn is: tokens so far, over how many seconds of decoding, of at most `max_tokens`."""

    generated_tokens: int
    decode_seconds: float
    max_tokens: int


class TurnLengths:
    """A running mean of how many tokens completed turns had: what a turn is likely to need."""

    WEIGHT = 0.2

    def __init__(self) -> None:
        self._mean: float | None = None

    def add(self, completion_tokens: int) -> None:
        """Count a completed turn."""
        self._mean = (
            completion_tokens
            if self._mean is None
            else self.WEIGHT * completion_tokens + (1 - self.WEIGHT) * self._mean
        )

    @property
    def typical(self) -> float | None:
        """Tokens; None until a turn was completed."""
        return self._mean


def retry_after(running: Iterable[Progress], typical_tokens: float | None) -> int:
    """Seconds until a place is likely to be free, from the running turns' measured speed.

    A turn is expected to reach the typical length (or, where it is past that already or nothing is known, its own
    max_tokens); the first one to get there frees a place.
    """
    estimates: list[float] = []
    for turn in running:
        if turn.generated_tokens < 2 or turn.decode_seconds <= 0:
            continue
        speed = turn.generated_tokens / turn.decode_seconds
        expected = typical_tokens if typical_tokens and typical_tokens > turn.generated_tokens else turn.max_tokens
        estimates.append((min(expected, turn.max_tokens) - turn.generated_tokens) / speed)
    if not estimates:
        return UNMEASURED_RETRY_AFTER
    return max(1, min(LONGEST_RETRY_AFTER, math.ceil(min(estimates))))
