"""Pages of the embedded database that nothing uses any more go back to the disk.

Sources: "PRAGMA auto_vacuum", "PRAGMA incremental_vacuum" and "VACUUM" in SQLite's documentation. A database that was
made by an earlier version keeps its pages until it was rebuilt once by a full VACUUM, which needs about twice its size
on the disk and holds the one connection all the while: small ones are rebuilt as the server starts, larger ones by
`quern vacuum`.
"""

from __future__ import annotations

import asyncio
import shutil
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import structlog

from quern.errors import DiskFull, StoreError
from quern.store.database import Database
from quern.store.reserve import MAKE_EVERY
from quern.store.uninterrupted import uninterrupted

log = structlog.get_logger(__name__)

INCREMENTAL = 2
REBUILT_AT_START = 64 * 2**20
"""Bytes: a second or two."""

ROOM = 2.1
"""Of a database's size, that a full VACUUM may take on the disk besides: a copy, and a journal of the old pages."""

WAIT_SECONDS = 0.5
"""After something was deleted: more may be on its way."""

STEP_SECONDS = 0.01
"""That a step is to hold the connection for; the next has as many pages as that takes."""

FEWEST_PAGES, MOST_PAGES = 64, 1024
"""Fewer are no faster: what takes time then is the disk's word that all is written."""

RETRY_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class Pages:
    """How many a database has, how many of them are free, and whether these can be given back."""

    count: int
    free: int
    size: int
    incremental: bool


class Vacuum:
    """Gives pages back in small steps, between which everybody else has the database."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._step = FEWEST_PAGES

    async def run(self) -> None:
        """Do so soon after something was deleted, until cancelled."""
        self._database.freed.set()  # an earlier server may have left some
        while True:
            await self._something_freed()
            await asyncio.sleep(WAIT_SECONDS)
            self._database.freed.clear()
            try:
                await self.give_back()
            except StoreError as error:
                log.warning("pages_not_given_back", error=str(error))
                self._database.freed.set()
                await asyncio.sleep(RETRY_SECONDS)

    async def give_back(self) -> int:
        """Give back all pages that are free now; how many bytes the file has lost. Raises StoreError."""
        if not self._database.embedded:
            return 0
        begun, found = time.monotonic(), await pages(self._database)
        left, longest = found.free if found.incremental else 0, 0.0
        while left > 0:
            step = min(self._step, left)
            took = await self._one_step(step)
            left, longest = left - step, max(longest, took)
            await asyncio.sleep(took)
        if found.free:
            await self._database.maintain("PRAGMA wal_checkpoint(TRUNCATE)")  # only then a file with a WAL is shorter
        await self._database.reserve.make(at_once=True)
        lost = max(0, found.count - (await pages(self._database)).count) * found.size
        if lost:
            seconds, slowest = round(time.monotonic() - begun, 2), round(longest * 1000, 1)
            log.info("pages_given_back", bytes=lost, seconds=seconds, longest_step_ms=slowest)
        return lost

    async def _something_freed(self) -> None:
        """Until then, room that anybody else has made on a full disk is taken for the reserve."""
        freed, reserve = self._database.freed, self._database.reserve
        while not freed.is_set():
            with suppress(TimeoutError):
                await asyncio.wait_for(freed.wait(), None if reserve.whole else MAKE_EVERY)
            await reserve.make(at_once=True)

    async def _one_step(self, count: int) -> float:
        """How many seconds it took. Where others have used free pages meanwhile, it gives back fewer."""
        statement, begun = f"PRAGMA incremental_vacuum({count})", time.monotonic()
        try:
            await self._database.maintain(statement)
        except DiskFull:
            if not await self._database.reserve.release():
                raise
            await self._database.maintain(statement)
        took = time.monotonic() - begun
        if took > STEP_SECONDS:
            self._step = max(FEWEST_PAGES, self._step // 2)
        elif took < STEP_SECONDS / 2 and count == self._step:
            self._step = min(MOST_PAGES, self._step * 2)
        return took


@uninterrupted
async def pages(database: Database) -> Pages:
    """An SQLite database's. Raises StoreError."""
    names = ("page_count", "freelist_count", "page_size", "auto_vacuum")
    async with database.transaction() as connection:
        found = [(await connection.exec_driver_sql(f"PRAGMA {name}")).scalar_one() for name in names]
    return Pages(found[0], found[1], found[2], found[3] == INCREMENTAL)


async def prepare(database: Database) -> None:
    """Rebuild an SQLite database of an earlier version where that takes a moment only, else say what is to be done.

    To be called before anybody else uses it. Raises StoreError.
    """
    if not database.embedded:
        return
    now = await pages(database)
    size = now.count * now.size
    if now.incremental or not size:
        return
    if size > REBUILT_AT_START:
        log.warning("database_not_rebuilt", database=database.where, bytes=size, hint=LARGE)
        return
    try:
        await rebuild(database)
    except StoreError as error:
        log.warning("database_not_rebuilt", database=database.where, bytes=size, error=str(error))


LARGE = (
    "What is deleted gives no disk back until the database was rebuilt once, which takes a while: stop the server and "
    "run `quern vacuum`."
)


async def rebuild(database: Database) -> tuple[int, int]:
    """Write an SQLite database anew, without its free pages; its bytes before and after.

    Holds the connection all the while. Raises StoreError, also where the disk has too little room.
    """
    if not database.embedded:
        raise StoreError("The database is PostgreSQL's, which gives its disk back by itself (autovacuum).")
    before = await pages(database)
    await asyncio.to_thread(_check_room, Path(database.where), before.count * before.size)
    await database.maintain("VACUUM")
    after = await pages(database)
    sizes = before.count * before.size, after.count * after.size
    log.info("database_rebuilt", database=database.where, bytes_before=sizes[0], bytes_after=sizes[1])
    return sizes


def _check_room(file: Path, size: int) -> None:
    free, wanted = shutil.disk_usage(file.parent).free, int(size * ROOM)
    if free < wanted:
        raise DiskFull(
            f"To write the database {file} anew takes up to {wanted // 2**20 + 1} MiB on its disk, and "
            f"{free // 2**20} MiB are free. Nothing was changed. Free some space, then run `quern vacuum` while no "
            f"server runs."
        )
