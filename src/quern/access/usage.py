"""What owners use: counted for their limits at once, kept by day for them to see."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import asynccontextmanager
from datetime import UTC, date, datetime

import structlog

from quern.access.limits import Allowance, Limits
from quern.access.principal import Principal
from quern.errors import StoreError
from quern.records import KeyLimits, KeyRole, StorageQuota, UsageRecord
from quern.store.storage import StorageStore
from quern.store.usage import UsageStore

log = structlog.get_logger(__name__)

MIB = 2**20


class UsageMeter:
    """Knows what everybody has used, and refuses what is more than they may. `current`: somebody as they are by now,
    limits and all. `clock`: seconds, monotonic.
    """

    def __init__(
        self,
        limits: Limits,
        store: UsageStore,
        storage: StorageStore,
        *,
        current: Callable[[Principal], Principal] = lambda principal: principal,
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self.limits = limits
        self._store = store
        self._storage = storage
        self._current = current
        self._clock = clock
        self._now = now

    @asynccontextmanager
    async def running(self) -> AsyncGenerator[None]:
        """Know what was used today before the server started. Raises StoreError."""
        today = self._now().date()
        self.limits.start_day(today, await self._store.computed_tokens(today))
        yield

    def storage_quota(self, owner: str) -> StorageQuota | None:
        """What an owner may have stored; None without a limit."""
        mib = self.limits_of(Principal(owner, owner, KeyRole.USER)).storage_mib
        return StorageQuota(owner, mib * MIB) if mib else None

    async def stored(self, owner: str | None) -> Mapping[str, int]:
        """Bytes of text that owners have stored; of one, or of all that have anything. Raises StoreError."""
        return await self._storage.by_owner(owner)

    def limits_of(self, principal: Principal) -> KeyLimits:
        """The limits in force for somebody by now; 0 is none."""
        return self.limits.of(self._current(principal))

    def take_request(self, principal: Principal) -> None:
        """Count a request. Raises LimitExceeded where that is more than somebody may."""
        self.limits.take_request(principal, self._clock(), self._now())

    def allowances(self, principal: Principal) -> dict[str, Allowance]:
        """What is left of somebody's limits for a minute."""
        return self.limits.allowances(principal, self._clock())

    def charge(self, principal: Principal, computed_tokens: int) -> None:
        """Count what a turn has cost. The turn itself adds it to what is kept, as it ends."""
        self.limits.charge(principal, computed_tokens, self._clock(), self._now())

    async def charge_embedding(self, principal: Principal, model_id: str, tokens: int, seconds: float) -> None:
        """Count what was embedded, which no turn keeps."""
        self.charge(principal, tokens)
        used = UsageRecord(self._now().date(), principal.owner, model_id, 1, tokens, 0, 0, seconds * 1000)
        try:
            await self._store.add(used)
        except StoreError as error:  # the vectors are there, and nobody is served by losing them too
            log.warning("usage_not_saved", owner=principal.owner, error=str(error))

    async def between(self, first: date, last: date, owner: str | None) -> list[UsageRecord]:
        """Usage of days, of one owner or of all, the oldest first. Raises StoreError."""
        return await self._store.between(first, last, owner)
