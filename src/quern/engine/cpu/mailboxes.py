"""The event loop's side: who reads which sequence's events, and how many run and wait."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass, field

from quern.engine.base import EngineEvent, Finished
from quern.engine.cpu.scheduler import Embedded, Notice, Preempted, Released, Resumed
from quern.errors import EngineError, EngineFailed
from quern.events import Queued


@dataclass(slots=True)
class Mailbox:
    """One sequence's events, put in by `Mailboxes` and taken out by its reader. An error is the last of them.

    `filled` is set while there are any. `over`: the last one was put in. `running`: the sequence has KV blocks.
    """

    running: bool = False
    over: bool = False
    events: list[EngineEvent | Embedded | EngineError] = field(
        default_factory=list[EngineEvent | Embedded | EngineError]
    )
    filled: asyncio.Event = field(default_factory=asyncio.Event)


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
            ended = isinstance(event, Finished | Embedded | EngineError | Released)
            if ended:
                self._leaving.discard(notice.key)
            mailbox = self._open.get(notice.key)
            if mailbox is None:
                continue
            mailbox.running = not ended and not isinstance(event, Queued | Preempted)
            if not isinstance(event, Preempted | Resumed | Released):
                mailbox.events.append(event)
                mailbox.over = ended
                mailbox.filled.set()

    def fail(self, message: str) -> list[int]:
        """End every generation with an EngineFailed of its own, and forget them all; whose they are."""
        keys = [*self._open]
        for mailbox in self._open.values():
            mailbox.events.append(EngineFailed(message))
            mailbox.over = True
            mailbox.filled.set()
        self._open.clear()
        self._leaving.clear()
        return keys
