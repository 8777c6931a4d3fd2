"""Where a server comes from: what the supervisor needs of one, and how it is noticed that one is gone."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Protocol, TypeVar

PROBE_INTERVAL_SECONDS = 5.0
PROBES_UNTIL_LOST = 2
PROBES_UNTIL_HUNG = 3
"""One may be late because this process itself was stopped meanwhile."""


class Ready(Protocol):
    """A server that is ready. `device` is for people. Each protocol says what more there is to know of it."""

    @property
    def device(self) -> str: ...


ReadyT_co = TypeVar("ReadyT_co", bound=Ready, covariant=True)


class Backend(Protocol[ReadyT_co]):
    """Starts a server, notices when it is gone, and can start it again."""

    @property
    def expected_load_seconds(self) -> float:
        """A guess, until a load has been measured."""
        ...

    def progress(self) -> float:
        """How far the load is, 0 to 1."""
        ...

    async def start(self) -> ReadyT_co:
        """Return once the server is ready. Raises ModelLoadError."""
        ...

    async def lost(self) -> str:
        """Return once the server is gone, with a sentence about how it went."""
        ...

    async def stop(self) -> None:
        """Let go of the server; harmless where there is none."""
        ...


async def hangs(ready: Callable[[], Awaitable[bool]], seconds: float) -> None:
    """Return once a server has answered nothing for so long, not even whether it is ready: servers answer that apart
    from what they compute.
    """
    patience = seconds / PROBES_UNTIL_HUNG
    missed = 0
    while missed < PROBES_UNTIL_HUNG:
        if not missed:
            await asyncio.sleep(min(PROBE_INTERVAL_SECONDS, patience))
        asked = time.monotonic()
        try:
            async with asyncio.timeout(patience):
                await ready()
        except (TimeoutError, ConnectionError):
            missed += 1
            await asyncio.sleep(max(0.0, asked + patience - time.monotonic()))
        else:
            missed = 0


async def unreachable(ready: Callable[[], Awaitable[bool]]) -> None:
    """Return once a server elsewhere has been unreachable, or not ready, for a while."""
    missed = 0
    while missed < PROBES_UNTIL_LOST:
        await asyncio.sleep(PROBE_INTERVAL_SECONDS)
        try:
            missed = 0 if await ready() else missed + 1
        except ConnectionError:
            missed += 1
