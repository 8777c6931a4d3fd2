"""The journal writer: what unfinished turns wrote is committed in batches, all turns in one transaction; and in
between, where there is a file for that, it is written there, which waits for no disk.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import datetime
from typing import ParamSpec, TypeVar

import structlog

from quern.errors import StoreError
from quern.store.journal_file import JournalFile
from quern.store.turn_rows import JournalEntry
from quern.store.turns import TurnStore
from quern.turns.turn import Turn

P = ParamSpec("P")
T = TypeVar("T")

log = structlog.get_logger(__name__)


class Journal:
    """Saves what turns wrote `interval` seconds after the first of it was written, or sooner once a turn has
    `token_limit` unsaved tokens. With a `file` that is where it is saved so soon, and every `commit_interval` seconds
    it is committed.
    """

    def __init__(
        self,
        store: TurnStore,
        *,
        interval: float,
        token_limit: int,
        file: JournalFile | None = None,
        commit_interval: float = 1.0,
    ) -> None:
        self._store = store
        self._started: dict[str, datetime] = {}
        self._file = _InThread(file) if file is not None else None
        if self._file is None:
            self._committed = _Batches(self._commit, interval, token_limit)
            self._batches = [self._committed]
        else:
            self._committed = _Batches(self._commit, commit_interval)
            self._batches = [self._committed, _Batches(self._file.append, interval, token_limit)]

    def start(self, turn: Turn, started_at: datetime) -> None:
        """A turn began to run. What it wrote in an earlier life is saved."""
        self._started[turn.id] = started_at
        for batches in self._batches:
            batches.saved[turn.id] = len(turn.pieces)
        self._committed.pending.set()

    def wrote(self, turn: Turn) -> None:
        """A turn has one token more."""
        for batches in self._batches:
            batches.wrote(turn)

    def forget(self, turn_id: str) -> None:
        """Drop what is unsaved of a turn: its terminal transaction saves all of it."""
        self._started.pop(turn_id, None)
        for batches in self._batches:
            batches.forget(turn_id)
        if self._file is not None:
            self._committed.pending.set()  # the next commit empties the file

    async def recover(self) -> None:
        """Commit what a killed server left in the file, for the turns that it left unfinished. To be called at start,
        before these are ended. Raises StoreError.
        """
        if self._file is not None:
            await self._store.append_left(await self._file.read())
            await self._file.committed()

    async def close(self) -> None:
        """To be called once all turns have ended: then nothing in the file is wanted any more."""
        if self._file is not None:
            await self.save()
            await self._file.close()

    async def reopen(self, turn_id: str) -> None:
        """A turn that has ended is about to go on: what the file may still have of its earlier life doesn't count.
        Raises StoreError.
        """
        if self._file is not None:
            await self._file.forget(turn_id)

    async def run(self) -> None:
        """Save until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            for batches in self._batches:
                tasks.create_task(batches.run())

    async def save(self) -> None:
        """Commit what there is now, in one transaction."""
        await self._committed.save()

    async def _commit(self, entries: Sequence[JournalEntry]) -> None:
        started, self._started = self._started, {}
        if self._file is not None:
            await self._file.begin_commit()
        try:
            if entries or started:
                await self._store.append(entries, started)
        except StoreError:
            self._started = started | self._started
            raise
        if self._file is not None:
            await self._file.committed()


class _Batches:
    """What of which turns is unsaved somewhere. `write` saves a batch there, and may raise StoreError."""

    def __init__(
        self,
        write: Callable[[Sequence[JournalEntry]], Awaitable[None]],
        interval: float,
        token_limit: int | None = None,
    ) -> None:
        self._write = write
        self._interval = interval
        self._token_limit = token_limit
        self._unsaved: dict[str, Turn] = {}
        self._urgent = asyncio.Event()
        self._failing = False
        self.saved: dict[str, int] = {}
        self.pending = asyncio.Event()

    def wrote(self, turn: Turn) -> None:
        self._unsaved[turn.id] = turn
        self.pending.set()
        if self._token_limit is not None and len(turn.pieces) - self.saved[turn.id] >= self._token_limit:
            self._urgent.set()

    def forget(self, turn_id: str) -> None:
        self._unsaved.pop(turn_id, None)
        self.saved.pop(turn_id, None)

    async def run(self) -> None:
        while True:
            await self.pending.wait()
            with suppress(TimeoutError):
                await asyncio.wait_for(self._urgent.wait(), self._interval)
            await self.save()

    async def save(self) -> None:
        unsaved, self._unsaved = self._unsaved, {}
        self._urgent.clear()
        self.pending.clear()
        entries = [_entry(turn, self.saved[turn_id]) for turn_id, turn in unsaved.items()]
        try:
            await self._write(entries)
        except StoreError as error:
            if not self._failing:
                log.warning("journal_not_saved", error=str(error), turns=len(entries))
            self._failing = True
            self._unsaved = unsaved | self._unsaved
            self.pending.set()
            return
        self._failing = False
        for entry in entries:
            if entry.turn_id in self.saved:  # it may have ended meanwhile
                self.saved[entry.turn_id] = entry.last


class _InThread:
    """A journal's file, in a thread of its own: one step after the other, and never behind somebody's long prompt.

    Every method raises StoreError where the disk is full or broken.
    """

    def __init__(self, file: JournalFile) -> None:
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="quern-journal")
        self.read = self._step(file.read)
        self.append = self._step(file.append)
        self.forget = self._step(file.forget)
        self.begin_commit = self._step(file.begin_commit)
        self.committed = self._step(file.committed)

    async def close(self) -> None:
        await asyncio.to_thread(self._thread.shutdown)

    def _step(self, work: Callable[P, T]) -> Callable[P, Awaitable[T]]:
        async def step(*args: P.args, **kwargs: P.kwargs) -> T:
            try:
                return await asyncio.wrap_future(self._thread.submit(work, *args, **kwargs))
            except OSError as error:
                msg = f"The file beside the database for what turns write can't be used: {error.strerror}."
                raise StoreError(msg) from error

        return step


def _entry(turn: Turn, saved: int) -> JournalEntry:
    """What a turn wrote after so many tokens."""
    pieces = tuple(turn.pieces[saved:]) if turn.plan.kept else None
    ids = tuple(turn.generated[saved:]) if turn.resumable else None
    return JournalEntry(turn.id, saved + 1, len(turn.pieces), pieces, ids)
