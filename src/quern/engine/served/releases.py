"""Slots of generations that were cut short: in use until the server has noticed, which takes it a step or two."""

from __future__ import annotations

import asyncio
from typing import Protocol

import structlog

from quern.engine.admission import Place
from quern.engine.gate import Gate

log = structlog.get_logger(__name__)

POLL_SECONDS = 0.05
LONGEST_RELEASE_SECONDS = 30.0


class SlotUse(Protocol):
    """What uses a slot. `over`: the server has ended it by itself."""

    over: bool

    async def processing(self) -> bool:
        """Whether the server is still at work on it. Raises ConnectionError where the server is gone."""
        ...

    def give_back(self) -> None:
        """Free the slot."""
        ...


class Releases:
    """Those that go on after their reader has gone."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[None]] = set()

    async def close(self) -> None:
        """Give up waiting for the server."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def leave(self, gate: Gate, place: Place, use: SlotUse | None) -> None:
        """A request ends, whether it has a slot or not: its place is given back at once, its slot as soon as it can."""
        if use is None:
            gate.leave(place)
        elif use.over:
            use.give_back()
            gate.leave(place)
        else:
            gate.cut_short(place)
            task = asyncio.get_running_loop().create_task(self._leave_later(gate, place, use))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    @staticmethod
    async def free(use: SlotUse) -> None:
        """Give the slot back once the server is at an end with it."""
        try:
            async with asyncio.timeout(LONGEST_RELEASE_SECONDS):
                processing = True
                while processing:
                    await asyncio.sleep(POLL_SECONDS)
                    processing = await use.processing()
        except OSError as error:
            log.debug("slot_freed_unconfirmed", reason=repr(error))
        use.give_back()

    async def _leave_later(self, gate: Gate, place: Place, use: SlotUse) -> None:
        try:
            await self.free(use)
        finally:
            gate.leave(place)
