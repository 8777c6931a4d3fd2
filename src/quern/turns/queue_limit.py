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
from quern.turns.models import ServedModel
from quern.turns.request import Caller
from quern.turns.retry_after import Progress, RetryAfter
from quern.turns.turn import Turn

KEPT_PART = 4
"""One place in so many is kept, beside the others, for owners that have few."""


class Places:
    """Counts turns that are being admitted with those that are active. `running`: how far those are that run, of one
    owner or of one model; `clock`: seconds, monotonic.

    Each model has places of its own, and there each priority, so that what is urgent is not refused because of long
    chats, and nobody because of what runs in the background. What became a background turn since nobody reads it any
    more counts with the others where there are more of those than places.

    Nobody can take all places from others: when they are taken, an owner that has less than its equal part of them may
    still have one of those that are kept for that, a quarter more. And an owner may be limited to so many itself.
    """

    def __init__(
        self,
        usage: UsageMeter,
        running: Callable[[str | None, ServedModel | None], Iterable[Progress]],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._usage = usage
        self._running = running
        self._clock = clock
        self._retry: dict[tuple[ServedModel, Priority], RetryAfter] = {}
        self._retry_of: dict[str, RetryAfter] = {}
        self._starting: Counter[tuple[ServedModel, Priority]] = Counter()
        self._starting_of: Counter[str] = Counter()

    @contextmanager
    def place(
        self, caller: Caller, model: ServedModel, priority: Priority, active: Collection[Turn], *, max_queued: int
    ) -> Generator[None]:
        """Hold a place while a turn of a model is being admitted, beside those that are active: as many run at once as
        its engine has sequences, and `max_queued` may wait. Raises LimitExceeded where its owner has too many,
        QueueFull where all have.
        """
        owner, parallel = caller.owner, model.info.parallel
        self._check_own(caller.principal, caller.known_by, active, parallel)
        of_model = [turn for turn in active if turn.model is model]
        self._check_all(caller, (model, priority), of_model, parallel, parallel + max_queued)
        self._starting[model, priority] += 1
        self._starting_of[owner] += 1
        try:
            yield
        finally:
            self._starting[model, priority] -= 1
            self._starting_of[owner] -= 1
            if not self._starting_of[owner]:
                del self._starting_of[owner]

    def wait(self, turn: Turn, position: int) -> float | None:
        """About how many seconds a turn waits that is so far back in the engine's line; None where nobody can tell."""
        interval = self._retry_at(turn.model, turn.priority).interval
        return interval * position if interval is not None else None

    def ended(self, turn: Turn, active: Collection[Turn], completion_tokens: int | None) -> None:
        """One of the active turns has ended; `completion_tokens` of its answer, where that completed."""
        others, parallel = sum(other.model is turn.model for other in active) - 1, turn.model.info.parallel
        retry = self._retry_at(turn.model, turn.priority)
        retry.ended(others=others, parallel=parallel, completion_tokens=completion_tokens)
        if turn.owner in self._retry_of:
            own = sum(other.owner == turn.owner for other in active) - 1
            at_once = self._usage.limits_of(turn.principal).turns_at_once or parallel
            self._retry_of[turn.owner].ended(others=own, parallel=at_once, completion_tokens=completion_tokens)

    def _retry_at(self, model: ServedModel, priority: Priority) -> RetryAfter:
        if (model, priority) not in self._retry:
            self._retry[model, priority] = RetryAfter(partial(self._running, None, model), self._clock)
        return self._retry[model, priority]

    def _check_own(
        self, principal: Principal, caller: Hashable | None, active: Collection[Turn], parallel: int
    ) -> None:
        limits = self._usage.limits_of(principal)
        if not limits.turns_waiting:
            return
        running = partial(self._running, principal.owner, None)
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
        self,
        caller: Caller,
        place: tuple[ServedModel, Priority],
        active: Collection[Turn],
        parallel: int,
        limit: int,
    ) -> None:
        retry = self._retry_at(*place)
        rivals = self._rivals(*place, active, limit)
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

    def _rivals(self, model: ServedModel, priority: Priority, active: Collection[Turn], limit: int) -> int:
        counts = Counter(turn.priority for turn in active)
        counts.update({one: self._starting[model, one] for one in Priority})
        left_over = max(0, counts[Priority.BACKGROUND] - limit) if priority is Priority.NORMAL else 0
        return counts[priority] + left_over
