"""The event loop's side: who reads which sequence's events, and how many run and wait."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

from quern.engine.base import EngineEvent, Finished
from quern.engine.cpu.scheduler import Notice, Preempted, Released, Resumed
from quern.errors import EngineError, EngineFailed
from quern.events import Queued


class Mailbox:
    """One generation's mailbox."""

    def __init__(self) -> None:
        self.running = False
        self.over = False
        self._events: list[EngineEvent] = []
        self._error: EngineError | None = None
        self._filled = asyncio.Event()

    def put(self, event: EngineEvent | EngineError) -> None:
        """Deliver; an error comes after the events before it."""
        if isinstance(event, EngineError):
            self._error = event
        else:
            self._events.append(event)
        self.over = isinstance(event, Finished | EngineError)
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


class Mailboxes:
    """All mailboxes. A sequence whose reader left while it ran counts as running until it is really released."""

    def __init__(self) -> None:
        self._open: dict[int, Mailbox] = {}
        self._leaving: set[int] = set()

    @property
    def running(self) -> int:
        """Sequences that hold KV blocks."""
        return sum(mailbox.running for mailbox in self._open.values()) + len(self._leaving)

    @property
    def waiting(self) -> int:
        """Sequences in line."""
        return sum(not mailbox.running and not mailbox.over for mailbox in self._open.values())

    def open(self, key: int) -> Mailbox:
        """A mailbox for a new sequence."""
        mailbox = self._open[key] = Mailbox()
        return mailbox

    def close(self, key: int) -> bool:
        """Its reader is gone; whether the sequence is still to be cancelled."""
        mailbox = self._open.pop(key, None)
        if mailbox is None or mailbox.over:
            return False
        if mailbox.running:
            self._leaving.add(key)
        return True

    def deliver(self, notices: Iterable[Notice]) -> None:
        """Sort notices into the mailboxes; those of readers who have gone are dropped."""
        for notice in notices:
            event = notice.event
            ended = isinstance(event, Finished | EngineError | Released)
            if ended:
                self._leaving.discard(notice.key)
            mailbox = self._open.get(notice.key)
            if mailbox is None:
                continue
            mailbox.running = not ended and not isinstance(event, Queued | Preempted)
            if not isinstance(event, Preempted | Resumed | Released):
                mailbox.put(event)

    def fail(self, message: str) -> None:
        """End every generation with an EngineFailed of its own, and forget them all."""
        for mailbox in self._open.values():
            mailbox.put(EngineFailed(message))
        self._open.clear()
        self._leaving.clear()
