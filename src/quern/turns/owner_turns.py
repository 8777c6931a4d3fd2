"""How many turns of an owner run at once; its others wait for those."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager

from quern.access.principal import Principal
from quern.access.usage import UsageMeter


class OwnerTurns:
    """Holds back admitted turns by the limits of who asks."""

    def __init__(self, usage: UsageMeter) -> None:
        self._usage = usage
        self._running: Counter[str] = Counter()
        self._elsewhere: Mapping[str, int] = {}
        self._held: dict[str, dict[asyncio.Future[None], Principal]] = {}

    def full(self, principal: Principal) -> bool:
        """Whether as many of the owner's turns run as may."""
        most = self._usage.limits_of(principal).turns_at_once
        return bool(most) and self._running[principal.owner] + self._elsewhere.get(principal.owner, 0) >= most

    def here(self) -> Mapping[str, int]:
        """How many turns of each owner run here."""
        return {owner: count for owner, count in self._running.items() if count}

    def part_here(self, owner: str) -> float:
        """With one turn more, what part of the owner's turns runs here: so much of its weight counts here, so that it
        has the share of all servers that others have who are at one of them only.
        """
        here = self._running[owner] + 1
        return here / (here + self._elsewhere.get(owner, 0))

    def elsewhere(self, running: Mapping[str, int]) -> None:
        """How many turns of each owner run at other servers."""
        self._elsewhere = running
        for owner in [*self._held]:
            self._let_in(owner)

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
