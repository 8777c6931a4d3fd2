"""The journal writer: what unfinished turns wrote goes to the store in batches, all turns in one transaction."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from datetime import datetime

import structlog

from quern.errors import StoreError
from quern.store.turn_rows import JournalEntry
from quern.store.turns import TurnStore
from quern.turns.turn import Turn

log = structlog.get_logger(__name__)


class Journal:
    """Knows what of which turns is unsaved, and saves that `interval` seconds after the first of it was written, or
    sooner once a turn has `token_limit` unsaved tokens. What can't be saved is tried again with the next batch.
    """

    def __init__(self, store: TurnStore, *, interval: float, token_limit: int) -> None:
        self._store = store
        self._interval = interval
        self._token_limit = token_limit
        self._started: dict[str, datetime] = {}
        self._unsaved: dict[str, Turn] = {}
        self._saved: dict[str, int] = {}
        self._failing = False
        self._pending = asyncio.Event()
        self._urgent = asyncio.Event()

    def start(self, turn: Turn, started_at: datetime) -> None:
        """A turn began to run. What it wrote in an earlier life is saved."""
        self._started[turn.id] = started_at
        self._saved[turn.id] = len(turn.pieces)
        self._pending.set()

    def wrote(self, turn: Turn) -> None:
        """A turn has one token more."""
        self._unsaved[turn.id] = turn
        self._pending.set()
        if len(turn.pieces) - self._saved[turn.id] >= self._token_limit:
            self._urgent.set()

    def forget(self, turn_id: str) -> None:
        """Drop what is unsaved of a turn: its terminal transaction saves all of it."""
        self._started.pop(turn_id, None)
        self._unsaved.pop(turn_id, None)
        self._saved.pop(turn_id, None)

    async def run(self) -> None:
        """Save until cancelled."""
        while True:
            await self._pending.wait()
            with suppress(TimeoutError):
                await asyncio.wait_for(self._urgent.wait(), self._interval)
            await self.save()

    async def save(self) -> None:
        """Save what there is now, in one transaction."""
        started, self._started = self._started, {}
        unsaved, self._unsaved = self._unsaved, {}
        self._urgent.clear()
        self._pending.clear()
        entries = [_entry(turn, self._saved[turn_id]) for turn_id, turn in unsaved.items()]
        if not entries and not started:
            return
        try:
            await self._store.append(entries, started)
        except StoreError as error:
            if not self._failing:  # it is tried again at once, and a full disk has no room for many lines
                log.warning("journal_not_saved", error=str(error), turns=len(entries))
            self._failing = True
            self._started = started | self._started
            self._unsaved = unsaved | self._unsaved
            self._pending.set()
            return
        self._failing = False
        for entry in entries:
            if entry.turn_id in self._saved:  # it may have ended meanwhile
                self._saved[entry.turn_id] = entry.last


def _entry(turn: Turn, saved: int) -> JournalEntry:
    """What a turn wrote after so many tokens."""
    pieces = tuple(turn.pieces[saved:]) if turn.plan.kept else None
    ids = tuple(turn.generated[saved:]) if turn.resumable else None
    return JournalEntry(turn.id, saved + 1, len(turn.pieces), pieces, ids)
