"""The event loop's side: who reads which sequence's events, and how many run and wait."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

from quern.engine.base import EngineEvent, Finished
from quern.engine.cpu.scheduler import Notice, Preempted, Released, Resumed
from quern.errors import EngineError, EngineFailed
from quern.events import Queued


class Reader:
    """One generation's mailbox."""

    def __init__(self) -> None:
        self.running = False
        self.over = False
        self._events: list[EngineEvent] = []
        self._error: EngineError | None = None
        self._filled = asyncio.Event()

    def put(self, news: EngineEvent | EngineError) -> None:
        """Deliver; an error comes after the events before it."""
        if isinstance(news, EngineError):
            self._error = news
        else:
            self._events.append(news)
        self.over = isinstance(news, Finished | EngineError)
        self._filled.set()

    async def take(self) -> list[EngineEvent]:
        """Wait for events. Raises the error that ended the generation."""
        await self._filled.wait()
        events, self._events = self._events, []
        if not events and self._error is not None:
            raise self._error
        if not self.over:
            self._filled.clear()
        return events


class Readers:
    """All mailboxes. A sequence whose reader left while it ran counts as running until it is really released."""

    def __init__(self) -> None:
        self._open: dict[int, Reader] = {}
        self._leaving: set[int] = set()

    @property
    def running(self) -> int:
        """Sequences that hold KV blocks."""
        return sum(reader.running for reader in self._open.values()) + len(self._leaving)

    @property
    def waiting(self) -> int:
        """Sequences in line."""
        return sum(not reader.running and not reader.over for reader in self._open.values())

    def open(self, key: int) -> Reader:
        """A mailbox for a new sequence."""
        reader = self._open[key] = Reader()
        return reader

    def close(self, key: int) -> bool:
        """Its reader is gone; whether the sequence is still to be cancelled."""
        reader = self._open.pop(key, None)
        if reader is None or reader.over:
            return False
        if reader.running:
            self._leaving.add(key)
        return True

    def deliver(self, notices: Iterable[Notice]) -> None:
        """Sort news into the mailboxes; those of readers who have gone are dropped."""
        for notice in notices:
            news = notice.news
            ended = isinstance(news, Finished | EngineError | Released)
            if ended:
                self._leaving.discard(notice.key)
            reader = self._open.get(notice.key)
            if reader is None:
                continue
            reader.running = not ended and not isinstance(news, Queued | Preempted)
            if not isinstance(news, Preempted | Resumed | Released):
                reader.put(news)

    def fail(self, message: str) -> None:
        """End every generation with an EngineFailed of its own, and forget them all."""
        for reader in self._open.values():
            reader.put(EngineFailed(message))
        self._open.clear()
        self._leaving.clear()
