"""How turns see the server stop: new ones are refused, running ones have a while, the rest is interrupted."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Generator
from contextlib import contextmanager, suppress

from quern.turns.archive import SERVER_STOPPED
from quern.turns.turn import Turn
from quern.types import TurnState


class Drain:
    """`active`: all turns that are queued or running. `stopping`: new ones are refused."""

    def __init__(self, active: Callable[[], Collection[Turn]]) -> None:
        self._active = active
        self._interrupting = False
        self._admitting = 0
        self._all_admitted = asyncio.Event()
        self.stopping = False

    @contextmanager
    def admission(self) -> Generator[None]:
        """A turn that is being admitted when the server begins to stop has its grace like those that run."""
        self._admitting += 1
        self._all_admitted.clear()
        try:
            yield
        finally:
            self._admitting -= 1
            if not self._admitting:
                self._all_admitted.set()

    def launched(self, turn: Turn) -> None:
        """A turn was admitted; too late, maybe."""
        if self._interrupting:
            turn.end_early(TurnState.INTERRUPTED, SERVER_STOPPED)

    async def drain(self, grace_seconds: float) -> None:
        """Refuse new turns, let active ones finish for `grace_seconds`, then end the rest as interrupted."""
        self.stopping = True
        with suppress(TimeoutError):
            await asyncio.wait_for(self._all_ended(admitted_too=True), grace_seconds)
        self.interrupt()
        await self._all_ended()

    def interrupt(self) -> None:
        """End every active turn as interrupted, at once."""
        self.stopping = self._interrupting = True
        for turn in self._unended():
            turn.end_early(TurnState.INTERRUPTED, SERVER_STOPPED)

    def give_up(self) -> None:
        """Cancel turns whose end can't be saved."""
        for turn in self._active():
            if turn.life is not None:
                turn.life.cancel()

    async def _all_ended(self, *, admitted_too: bool = False) -> None:
        while admitted_too and self._admitting:
            await self._all_admitted.wait()
        for turn in self._unended():
            await turn.log.ended()

    def _unended(self) -> list[Turn]:
        return [turn for turn in self._active() if turn.log.end is None]
