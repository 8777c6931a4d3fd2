"""A store that only takes the journal."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from datetime import datetime

from quern.errors import StoreError
from quern.store.turn_rows import JournalEntry
from quern.store.turns import NOTHING_STARTED


class RecordingStore:
    """Stands in for the store: remembers each batch, fails while told to."""

    def __init__(self) -> None:
        self.batches: list[list[JournalEntry]] = []
        self.started: dict[str, datetime] = {}
        self.failing = False
        self.refused = 0

    async def append_left(self, entries: Sequence[JournalEntry]) -> None:
        await self.append(entries)

    async def append(self, entries: Sequence[JournalEntry], started: Mapping[str, datetime] = NOTHING_STARTED) -> None:
        await asyncio.sleep(0)
        if self.failing:
            self.refused += 1
            msg = "The disk is full."
            raise StoreError(msg)
        self.batches.append(list(entries))
        self.started.update(started)
