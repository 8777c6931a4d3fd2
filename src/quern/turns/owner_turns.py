"""How many turns an owner may have: so many that run at once, and so many that wait for those."""

from __future__ import annotations

import asyncio
from collections import Counter, deque
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
        self._held: dict[str, deque[asyncio.Future[None]]] = {}

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
        """Run when fewer than the owner's `turns_at_once` do, in order of arrival."""
        owner = principal.owner
        if self.full(principal):
            await self._wait(owner)
        else:
            self._running[owner] += 1
        try:
            yield
        finally:
            self._release(owner)

    async def _wait(self, owner: str) -> None:
        """Wait for the place of a turn that ends."""
        held = self._held.setdefault(owner, deque())
        place = asyncio.get_running_loop().create_future()
        held.append(place)
        try:
            await place
        except asyncio.CancelledError:
            if place.cancelled():
                held.remove(place)
            else:
                self._release(owner)
            raise

    def _release(self, owner: str) -> None:
        """Give a place to who waits for it, or back."""
        held = self._held.get(owner)
        if held:
            held.popleft().set_result(None)
            return
        self._held.pop(owner, None)
        self._running[owner] -= 1
        if not self._running[owner]:
            del self._running[owner]
