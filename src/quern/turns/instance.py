"""This server among those that share its database: its lease, what it hears of the others, and their lost turns."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from datetime import timedelta

import structlog

from quern.errors import StoreError
from quern.store.announcements import Announcements, Kind
from quern.store.instances import InstanceStore
from quern.turns.elsewhere import CANCELLED, Elsewhere
from quern.turns.service import TurnService
from quern.turns.shared_use import SharedUse

log = structlog.get_logger(__name__)


class Instance:
    """One of several servers. `address`: where people find it; `on_keys`: reads the keys anew; `on_taken_over`: goes on
    with turns of a server that was lost.
    """

    def __init__(
        self,
        store: InstanceStore,
        announcements: Announcements,
        turns: TurnService,
        elsewhere: Elsewhere,
        shared_use: SharedUse,
        *,
        address: str,
        lease_seconds: float,
        on_keys: Callable[[], Awaitable[None]],
        on_taken_over: Callable[[], Awaitable[None]],
    ) -> None:
        self._store = store
        self._announcements = announcements
        self._turns = turns
        self._elsewhere = elsewhere
        self._shared_use = shared_use
        self._address = address
        self._lease = timedelta(seconds=lease_seconds)
        self._on_keys = on_keys
        self._on_taken_over = on_taken_over
        self._keys_changed = asyncio.Event()

    @asynccontextmanager
    async def registered(self) -> AsyncGenerator[None]:
        """Have a lease while the block lasts, in which turns may run. Raises StoreError."""
        await self._store.register(self._address, self._lease)
        tasks = [
            asyncio.get_running_loop().create_task(work)
            for work in (
                self._keep_lease(),
                self._announcements.hear(self._heard),
                self._read_keys(),
                self._shared_use.run(),
            )
        ]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
            try:
                await self._store.leave()
            except StoreError as error:  # it runs out by itself
                log.warning("lease_not_given_back", error=str(error))

    async def _keep_lease(self) -> None:
        """Renew it, and look after turns of servers that did not."""
        while True:
            await asyncio.sleep(self._lease.total_seconds() / 3)
            try:
                await self._look_after_leases()
            except StoreError as error:
                log.warning("lease_not_renewed", error=str(error))
            except Exception:  # whatever it is, the next renewal must come
                log.exception("lease_not_renewed")

    async def _look_after_leases(self) -> None:
        if not await self._store.renew(self._lease):
            log.error("lease_lost", seconds=self._lease.total_seconds(), setting="store.lease_seconds")
            await self._store.register(self._address, self._lease)
            self._turns.disown()
        if await self._turns.take_over():
            await self._on_taken_over()

    def _heard(self, kind: Kind, values: Sequence[str]) -> None:
        self._elsewhere.heard(kind, values)
        self._shared_use.heard(kind, values)
        if kind is Kind.CANCEL:
            self._turns.cancel_asked(values, CANCELLED)
        elif kind in {Kind.KEYS, Kind.MISSED}:
            self._keys_changed.set()

    async def _read_keys(self) -> None:
        while True:
            await self._keys_changed.wait()
            self._keys_changed.clear()
            try:
                await self._on_keys()
            except StoreError as error:
                log.warning("keys_not_refreshed", error=str(error))
