"""The journal writer: unfinished turns' text goes to the store in batches, all turns in one transaction."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from datetime import datetime

import structlog

from quern.errors import StoreError
from quern.store.turn_rows import JournalEntry
from quern.store.turns import TurnStore

log = structlog.get_logger(__name__)


class Journal:
    """Collects text and start times and saves them `interval` seconds after the first unsaved one, or sooner once a
    turn has `token_limit` unsaved tokens. What can't be saved stays and is tried again with the next batch.
    """

    def __init__(self, store: TurnStore, *, interval: float, token_limit: int) -> None:
        self._store = store
        self._interval = interval
        self._token_limit = token_limit
        self._started: dict[str, datetime] = {}
        self._entries: dict[str, list[JournalEntry]] = {}
        self._tokens: dict[str, int] = {}
        self._pending = asyncio.Event()
        self._urgent = asyncio.Event()

    def start(self, turn_id: str, started_at: datetime) -> None:
        """A turn began to run."""
        self._started[turn_id] = started_at
        self._pending.set()

    def add(self, entry: JournalEntry) -> None:
        """Take one token with its piece of text."""
        self._entries.setdefault(entry.turn_id, []).append(entry)
        self._tokens[entry.turn_id] = self._tokens.get(entry.turn_id, 0) + 1
        self._pending.set()
        if self._tokens[entry.turn_id] >= self._token_limit:
            self._urgent.set()

    def forget(self, turn_id: str) -> None:
        """Drop what is unsaved of a turn: its terminal transaction saves all of it."""
        self._started.pop(turn_id, None)
        self._entries.pop(turn_id, None)
        self._tokens.pop(turn_id, None)

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
        taken, self._entries, self._tokens = self._entries, {}, {}
        self._urgent.clear()
        self._pending.clear()
        entries = [entry for of_turn in taken.values() for entry in of_turn]
        if not entries and not started:
            return
        try:
            await self._store.append(entries, started)
        except StoreError as error:
            log.warning("journal_not_saved", error=str(error), events=len(entries))
            self._put_back(taken, started)

    def _put_back(self, taken: dict[str, list[JournalEntry]], started: dict[str, datetime]) -> None:
        self._started = started | self._started
        for turn_id, entries in taken.items():
            self._entries[turn_id] = entries + self._entries.get(turn_id, [])
        self._pending.set()
