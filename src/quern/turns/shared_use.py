"""Limits hold over all servers that share a database: each tells the others every second what it let in.

So the most that an owner gets beyond a limit is what the other servers let in within that second: of requests and
tokens, the limit's burst at each of them; of turns at once, as many as the limit at each. Both are made up for, since
what was let in counts everywhere.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Mapping, Sequence

import structlog

from quern.access.usage import UsageMeter, Used
from quern.errors import StoreError
from quern.store.announcements import Announcements, Kind
from quern.turns.owner_turns import OwnerTurns

log = structlog.get_logger(__name__)

TELL_EVERY = 1.0
"""Seconds."""
FORGOTTEN_AFTER = 5.0
"""Seconds after which what a server runs counts no more: it tells every second, unless it is lost."""


class SharedUse:
    """Tells and hears what owners use. `instance_id`: this server's."""

    def __init__(
        self, instance_id: str, announcements: Announcements, usage: UsageMeter, owner_turns: OwnerTurns
    ) -> None:
        self._id = instance_id
        self._announcements = announcements
        self._usage = usage
        self._owner_turns = owner_turns
        self._told: frozenset[str] = frozenset()
        self._others: dict[str, dict[str, tuple[int, float]]] = {}
        self._missed = False

    async def run(self) -> None:
        """Tell, until cancelled."""
        while True:
            await asyncio.sleep(TELL_EVERY)
            self._count_others()
            try:
                if self._missed:
                    await self._usage.read_day()
                    self._missed = False
                if said := self._said():
                    await self._announcements.announce(Kind.USED, said)
            except StoreError as error:
                log.warning("use_not_told", error=str(error))

    def heard(self, kind: Kind, values: Sequence[str]) -> None:
        """Something was announced."""
        if kind is Kind.MISSED:
            self._missed = True
        if kind is not Kind.USED:
            return
        for value in values:
            instance_id, requests, tokens, running, owner = value.split(" ", 4)
            if instance_id == self._id:
                continue
            self._usage.used_elsewhere(owner, Used(int(requests), int(tokens)))
            self._others.setdefault(instance_id, {})[owner] = int(running), time.monotonic()
        self._count_others()

    def _said(self) -> list[str]:
        """One value for each owner that used something, runs something, or no longer does."""
        unsaid, running = self._usage.take_unsaid(), self._owner_turns.here()
        owners = {*unsaid, *running, *self._told}
        self._told = frozenset(running)
        return [self._value(owner, unsaid.get(owner, Used()), running) for owner in sorted(owners)]

    def _value(self, owner: str, used: Used, running: Mapping[str, int]) -> str:
        return f"{self._id} {used.requests} {used.tokens} {running.get(owner, 0)} {owner}"

    def _count_others(self) -> None:
        now, running = time.monotonic(), Counter[str]()
        for instance_id, owners in [*self._others.items()]:
            left = {owner: found for owner, found in owners.items() if found[0] and now - found[1] < FORGOTTEN_AFTER}
            self._others[instance_id] = left
            if not left:
                del self._others[instance_id]
            running.update({owner: count for owner, (count, _) in left.items()})
        self._owner_turns.elsewhere(running)
