"""When a caller that found every place taken is likely to find one free.

As long as the engine is busy, turns end at some rate, and so fast do places become free: that is measured over the
latest ends, not computed from limits, which answers rarely reach, and remembered over idle hours. Each refused caller
is told the time of a place of its own, one after the other: those who come back when they were told don't find the same
place. Before there is a rate, the running turns' speed and the length that turns typically have must do.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass

LONGEST_RETRY_AFTER = 600
UNMEASURED_RETRY_AFTER = 10
"""Seconds."""

ENDS_MEASURED = 32
FEWEST_ENDS = 4
WEIGHT_OF_LAST = 0.2


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a running turn is: tokens so far, over how many seconds of decoding, of at most `max_tokens`."""

    generated_tokens: int
    decode_seconds: float
    max_tokens: int


class RetryAfter:
    """Told of every turn that ends. `clock`: seconds, monotonic."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._ends: deque[float] = deque(maxlen=ENDS_MEASURED)
        self._interval: float | None = None
        self._promised = 0.0
        self._typical_tokens: float | None = None

    def ended(self, *, busy: bool, completion_tokens: int | None = None) -> None:
        """A turn has ended. `busy`: others had to wait for its sequence; without that its end tells nothing of how fast
        turns can end. `completion_tokens`: how long its answer was, where it completed.
        """
        if busy:
            self._ends.append(self._clock())
            self._measure()
        else:
            self._ends.clear()
            self._promised = 0.0
        if completion_tokens is not None:
            before = completion_tokens if self._typical_tokens is None else self._typical_tokens
            self._typical_tokens = WEIGHT_OF_LAST * completion_tokens + (1 - WEIGHT_OF_LAST) * before

    def seconds(self, running: Iterable[Progress]) -> int:
        """For a caller that is refused now: when to come back."""
        self._measure()
        if self._interval is None:
            return max(1, math.ceil(first_estimate(running, self._typical_tokens)))
        now = self._clock()
        self._promised = min(max(now, self._promised) + self._interval, now + LONGEST_RETRY_AFTER)
        return max(1, math.ceil(self._promised - now))

    def _measure(self) -> None:
        """How far apart places become free. What it was when the engine was last busy is a better guess than none."""
        if len(self._ends) >= FEWEST_ENDS:
            self._interval = (self._clock() - self._ends[0]) / (len(self._ends) - 1)


def first_estimate(running: Iterable[Progress], typical_tokens: float | None) -> float:
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
    return min(LONGEST_RETRY_AFTER, *estimates)
