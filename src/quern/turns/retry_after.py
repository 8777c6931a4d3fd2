"""When a caller that found every place taken is to come back, and that a place is kept for it then.

As long as the engine is busy, turns end at some rate, and so fast do places become free: that is measured over the
latest ends, not computed from limits, which answers rarely reach, and remembered over idle hours. Each refused caller
is told the time of a place of its own, one after the other. When that time comes the place is its own: those who ask
for the first time don't get it, or whoever asks again at once would always be served before those who do as they are
told. A caller is known again by its request, so who never comes back costs others a short wait at most. Before there
is a rate, the running turns' speed and the length that turns typically have must do.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass

LONGEST_RETRY_AFTER = 600
UNMEASURED_RETRY_AFTER = 10
LONGEST_DELAY = 2.0
"""Seconds. A place is kept so much longer than its time: clients are as late as networks are."""

MOST_PROMISES = 4096
"""Places that are kept at once; who is refused beyond that is told a time only."""

ENDS_MEASURED = 32
FEWEST_ENDS = 4
WEIGHT_OF_LAST = 0.2


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a running turn is: tokens so far, over how many seconds of decoding, of at most `max_tokens`."""

    generated_tokens: int
    decode_seconds: float
    max_tokens: int


@dataclass(slots=True)
class _Promise:
    """`due`: the time that was promised first; the earlier, the sooner it is somebody's turn. `back`: when the caller
    was told to come, the last time. `lapses`: when it is taken for gone.
    """

    due: float
    back: float
    lapses: float


class RetryAfter:
    """Of one kind of places. Told of every turn that ends. `running`: those that run now; `clock`: seconds, monotonic.

    Callers are any hashable values, equal where the same one asks for the same again; None is nobody in particular.
    """

    def __init__(
        self, running: Callable[[], Iterable[Progress]] = tuple[Progress], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._running = running
        self._clock = clock
        self._ends: deque[float] = deque(maxlen=ENDS_MEASURED)
        self._interval: float | None = None
        self._typical_tokens: float | None = None
        self._promises: dict[Hashable, _Promise] = {}

    @property
    def interval(self) -> float | None:
        """Seconds from one place that becomes free to the next; None where that was never measured."""
        return self._interval

    def ended(self, *, others: int, parallel: int, completion_tokens: int | None = None) -> None:
        """A turn has ended, beside so many `others` that run or wait for the engine's `parallel` sequences. Unless one
        waited for its sequence, its end tells nothing of how fast turns can end. `completion_tokens`: how long its
        answer was, where it completed.
        """
        if others >= parallel:
            self._ends.append(self._clock())
            self._measure()
        else:
            self._ends.clear()
        if not others:
            self._promises.clear()
        if completion_tokens is not None:
            before = completion_tokens if self._typical_tokens is None else self._typical_tokens
            self._typical_tokens = WEIGHT_OF_LAST * completion_tokens + (1 - WEIGHT_OF_LAST) * before

    def refuse(self, caller: Hashable | None) -> int:
        """The seconds after which a caller that is refused now is to come back. One that comes when it was told, and in
        vain, is before all that were told a later time.
        """
        self._measure()
        self._drop_lapsed()
        now = self._clock()
        promise = self._promises.get(caller)
        if promise is None:
            promise = _Promise(now + self._after_the_last(now), 0.0, 0.0)
        wait = promise.due - now
        if wait <= 0:
            before = sum(other.due < promise.due for other in self._promises.values())
            wait = (1 + before) * (self._interval or 0.0)
        seconds = max(1, math.ceil(wait))
        promise.back = now + seconds
        promise.lapses = promise.back + max(LONGEST_DELAY, seconds / 4)
        if caller is not None and (caller in self._promises or len(self._promises) < MOST_PROMISES):
            self._promises[caller] = promise
        return seconds

    def kept(self, caller: Hashable | None, free: int) -> int:
        """How many of the `free` places are kept for others: for those before this one who are to come before so many
        more are free.
        """
        self._drop_lapsed()
        own = self._promises[caller].due if caller in self._promises else math.inf
        soon = self._clock() + max(1.0, free * (self._interval or 0.0))
        return sum(promise.back <= soon and promise.due < own for promise in self._promises.values())

    def admitted(self, caller: Hashable | None) -> None:
        """A caller has its place."""
        self._promises.pop(caller, None)

    def _after_the_last(self, now: float) -> float:
        """Seconds until the place after all that are promised. Where nothing is measured everybody is told the same."""
        if self._interval is None:
            return first_estimate(self._running(), self._typical_tokens)
        last = max((promise.due for promise in self._promises.values()), default=now)
        return min(max(now, last) + self._interval - now, LONGEST_RETRY_AFTER)

    def _measure(self) -> None:
        """How far apart places become free. What it was when the engine was last busy is a better guess than none."""
        if len(self._ends) >= FEWEST_ENDS:
            self._interval = (self._clock() - self._ends[0]) / (len(self._ends) - 1)

    def _drop_lapsed(self) -> None:
        now = self._clock()
        for caller in [caller for caller, promise in self._promises.items() if promise.lapses < now]:
            del self._promises[caller]


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
