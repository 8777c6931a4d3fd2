"""Who may begin a turn now: a bounded number at once, of everybody's and of each owner's."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Collection, Generator, Hashable, Iterable
from contextlib import contextmanager
from functools import partial

from quern.access.principal import Principal
from quern.access.usage import UsageMeter
from quern.engine.base import Priority
from quern.errors import LimitExceeded, QueueFull
from quern.turns.request import Caller
from quern.turns.retry_after import Progress, RetryAfter
from quern.turns.turn import Turn

KEPT_PART = 4
"""One place in so many is kept, beside the others, for owners that have few."""


class Places:
    """Counts turns that are being admitted with those that are active. `running`: how far those are that run, of one
    owner or of all; `clock`: seconds, monotonic.

    Each priority has places of its own, so that what is urgent is not refused because of long chats, and nobody because
    of what runs in the background. What became a background turn since nobody reads it any more counts with the others
    where there are more of those than places.

    Nobody can take all places from others: when they are taken, an owner that has less than its equal part of them may
    still have one of those that are kept for that, a quarter more. And an owner may be limited to so many itself.
    """

    def __init__(
        self,
        usage: UsageMeter,
        running: Callable[[str | None], Iterable[Progress]],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._usage = usage
        self._running = running
        self._clock = clock
        self._retry = {priority: RetryAfter(partial(running, None), clock) for priority in Priority}
        self._retry_of: dict[str, RetryAfter] = {}
        self._starting: Counter[Priority] = Counter()
        self._starting_of: Counter[str] = Counter()

    @contextmanager
    def place(
        self, caller: Caller, priority: Priority, active: Collection[Turn], *, parallel: int, max_queued: int
    ) -> Generator[None]:
        """Hold a place while a turn is being admitted, beside those that are active; `parallel` of them run at once and
        `max_queued` may wait. Raises LimitExceeded where its owner has too many, QueueFull where all have.
        """
        owner = caller.owner
        self._check_own(caller.principal, caller.known_by, active, parallel)
        self._check_all(caller, priority, active, parallel, parallel + max_queued)
        self._starting[priority] += 1
        self._starting_of[owner] += 1
        try:
            yield
        finally:
            self._starting[priority] -= 1
            self._starting_of[owner] -= 1
            if not self._starting_of[owner]:
                del self._starting_of[owner]

    def wait(self, priority: Priority, position: int) -> float | None:
        """About how many seconds a turn waits that is so far back in the engine's line; None where nobody can tell."""
        interval = self._retry[priority].interval
        return interval * position if interval is not None else None

    def ended(self, turn: Turn, active: Collection[Turn], parallel: int, completion_tokens: int | None) -> None:
        """One of the active turns has ended; `completion_tokens` of its answer, where that completed."""
        others = len(active) - 1
        self._retry[turn.priority].ended(others=others, parallel=parallel, completion_tokens=completion_tokens)
        if turn.owner in self._retry_of:
            own = sum(other.owner == turn.owner for other in active) - 1
            at_once = self._usage.limits_of(turn.principal).turns_at_once or parallel
            self._retry_of[turn.owner].ended(others=own, parallel=at_once, completion_tokens=completion_tokens)

    def _check_own(
        self, principal: Principal, caller: Hashable | None, active: Collection[Turn], parallel: int
    ) -> None:
        limits = self._usage.limits_of(principal)
        if not limits.turns_waiting:
            return
        running = partial(self._running, principal.owner)
        retry = self._retry_of.setdefault(principal.owner, RetryAfter(running, self._clock))
        most = (limits.turns_at_once or parallel) + limits.turns_waiting
        free = most - sum(turn.owner == principal.owner for turn in active) - self._starting_of[principal.owner]
        if free <= retry.kept(caller, free):
            seconds = retry.refuse(caller)
            raise LimitExceeded(
                f"The key {principal.name!r} may have {most} turns that run and wait (limits turns_at_once and "
                f"turns_waiting), and has. Try again in {seconds} s.",
                seconds,
            )
        retry.admitted(caller)

    def _check_all(
        self, caller: Caller, priority: Priority, active: Collection[Turn], parallel: int, limit: int
    ) -> None:
        retry = self._retry[priority]
        rivals = self._rivals(priority, active, limit)
        free = limit - rivals
        kept = retry.kept(caller.known_by, free) if rivals >= parallel else 0  # no sequence is idle for a promise
        if free <= kept:
            extra = free + limit // KEPT_PART
            if extra <= 0 or not self._has_little(caller.owner, active, limit):
                seconds = retry.refuse(caller.known_by)
                msg = f"All {limit} places are taken: every running and waiting turn counts. Try again in {seconds} s."
                raise QueueFull(msg, seconds)
        retry.admitted(caller.known_by)

    def _has_little(self, owner: str, active: Collection[Turn], limit: int) -> bool:
        """Whether an owner has less than its equal part of the places, while others have more."""
        owned = Counter(turn.owner for turn in active) + self._starting_of
        owners = {*owned, owner}
        return len(owners) > 1 and owned[owner] < limit // len(owners)

    def _rivals(self, priority: Priority, active: Collection[Turn], limit: int) -> int:
        counts = Counter(turn.priority for turn in active) + self._starting
        left_over = max(0, counts[Priority.BACKGROUND] - limit) if priority is Priority.NORMAL else 0
        return counts[priority] + left_over
