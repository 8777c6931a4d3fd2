"""How many turns an owner may have: so many that run at once, and so many that wait for those."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Collection, Generator
from contextlib import asynccontextmanager, contextmanager

from quern.access.principal import Principal
from quern.access.usage import UsageMeter
from quern.errors import LimitExceeded
from quern.turns.turn import Turn


class OwnerTurns:
    """Admits and holds back turns by the limits of who asks. `parallel`: sequences that the engine runs at once;
    `retry_after`: seconds until a place is likely to be free.
    """

    def __init__(self, usage: UsageMeter, parallel: Callable[[], int], retry_after: Callable[[], int]) -> None:
        self._usage = usage
        self._parallel = parallel
        self._retry_after = retry_after
        self._starting: Counter[str] = Counter()
        self._running: Counter[str] = Counter()
        self._held: dict[str, dict[asyncio.Future[None], Principal]] = {}

    @contextmanager
    def place(self, principal: Principal, active: Collection[Turn]) -> Generator[None]:
        """Hold a place while a turn is being admitted. Raises LimitExceeded."""
        owner, limits = principal.owner, self._usage.limits_of(principal)
        if limits.turns_waiting:
            most = (limits.turns_at_once or self._parallel()) + limits.turns_waiting
            if sum(turn.owner == owner for turn in active) + self._starting[owner] >= most:
                seconds = self._retry_after()
                raise LimitExceeded(
                    f"The key {principal.name!r} may have {most} turns that run and wait (limits turns_at_once and "
                    f"turns_waiting), and has. Try again in {seconds} s.",
                    seconds,
                )
        self._starting[owner] += 1
        try:
            yield
        finally:
            self._starting[owner] -= 1
            if not self._starting[owner]:
                del self._starting[owner]

    def full(self, principal: Principal) -> bool:
        """Whether as many of the owner's turns run as may."""
        most = self._usage.limits_of(principal).turns_at_once
        return bool(most) and self._running[principal.owner] >= most

    @asynccontextmanager
    async def running(self, principal: Principal) -> AsyncGenerator[None]:
        """Run when fewer than the owner's `turns_at_once` do, in order of arrival. A limit that was changed holds from
        the next time that one of the owner's turns comes or ends.
        """
        owner = principal.owner
        held = self._held.setdefault(owner, {})
        place: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        held[place] = principal
        self._let_in(owner)
        try:
            await place
            yield
        finally:
            # The place may have been given up (cancelled) before or after it was given.
            if held.pop(place, None) is None:
                self._running[owner] -= 1
            self._let_in(owner)
            self._forget(owner)

    def _let_in(self, owner: str) -> None:
        """Give places to those who wait, as far as the limit goes."""
        held = self._held[owner]
        for place, principal in list(held.items()):
            if place.done():  # given up; whoever waited for it takes it back
                continue
            if self.full(principal):
                return
            del held[place]
            self._running[owner] += 1
            place.set_result(None)

    def _forget(self, owner: str) -> None:
        if not self._held[owner] and not self._running[owner]:
            del self._held[owner], self._running[owner]
