"""A store that only takes the journal."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from quern.errors import StoreError
from quern.store.turns import JournalEntry


class RecordingStore:
    """Stands in for the store: remembers each batch, fails while told to."""

    def __init__(self) -> None:
        self.batches: list[list[JournalEntry]] = []
        self.failing = False

    async def append(self, entries: Sequence[JournalEntry]) -> None:
        await asyncio.sleep(0)
        if self.failing:
            msg = "The disk is full."
            raise StoreError(msg)
        self.batches.append(list(entries))
