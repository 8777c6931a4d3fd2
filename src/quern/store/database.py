"""Opening and closing the database, and the one door through which every statement goes."""

from __future__ import annotations

import asyncio
import logging
import sqlite3
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar

from filelock import BaseFileLock
from sqlalchemy import URL, make_url
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from quern.errors import DiskFull, StoreError
from quern.store import sqlite, sqlite_files
from quern.store.failures import as_store_error
from quern.store.inspection import described, expected_at, identified
from quern.store.migrate import load_migrations, upgrade
from quern.store.ownership import Refused, judge, remedies_at_start
from quern.store.reserve import SPENT, Reserve
from quern.store.uninterrupted import uninterrupted

T = TypeVar("T")
DRIVERS = {"sqlite": "sqlite+aiosqlite", "postgresql": "postgresql+psycopg"}


CLOSED = "The database is closed: this server is starting or stopping. Try again once it is up."


class Database:
    """One database, named by an SQLAlchemy URL (`sqlite+aiosqlite:///path`, `postgresql+psycopg://…`).

    `claim_seconds`: how long to wait for another process to let go of an SQLite file. `reserve_bytes`: of the disk,
    kept beside it for what has to be saved when that is full (`store/reserve.py`); without a number what is there stays
    as it is. `freed` is set by whoever has deleted something, and cleared by whoever gives its pages back to the disk.
    """

    def __init__(
        self, url: str, *, claim_seconds: float = sqlite.CLAIM_SECONDS, reserve_bytes: int | None = None
    ) -> None:
        self._url = url
        self._reserve_bytes = reserve_bytes
        self.reserve = Reserve(None, 0)
        self.freed = asyncio.Event()
        self._claim_seconds = claim_seconds
        self._where = ""
        self._file: Path | None = None
        self._engine: AsyncEngine | None = None
        self._lock: BaseFileLock | None = None
        self._resources = AsyncExitStack()

    def claim(self) -> None:
        """Take the lock of an SQLite file before anything slow happens, and make the file where there is none; `open`
        does so where this was not called.

        Blocks for `claim_seconds` at most to get the lock. Raises StoreError: the URL or the place can't be used,
        another process has it open, or what is there is not Quern's.
        """
        file = self.file
        if file is None or self._lock is not None:
            return
        self._lock = sqlite.claim(file, self._claim_seconds)
        try:
            sqlite_files.prepare(file)
        except BaseException:
            self._release()
            raise

    @property
    def file(self) -> Path | None:
        """The SQLite file; None for any other database. Raises StoreError."""
        url = _parse(self._url)
        return sqlite.file_of(url) if url.get_backend_name() == "sqlite" else None

    @property
    def embedded(self) -> bool:
        """Whether it is an SQLite file. Raises StoreError."""
        return _parse(self._url).get_backend_name() == "sqlite"

    @property
    def named_file(self) -> Path | None:
        """The SQLite file as it is named, without a look at the disk. Raises StoreError."""
        return sqlite.named_file(_parse(self._url)) if self.embedded else None

    @property
    def where(self) -> str:
        """The open database, for people: an SQLite file's path."""
        return self._where

    async def open(self) -> None:
        """Create what is missing, take the lock of an SQLite file, bring the schema up to date and check it.

        Raises StoreError: the URL or the place can't be used, the disk is full, another process has it open, or the
        database is refused: damaged, incomplete, another program's, or a newer Quern's.
        """
        # At its debug level this logger writes every statement with its values: prompts and answers.
        logging.getLogger("aiosqlite").setLevel(logging.INFO)
        url = _parse(self._url)
        async with AsyncExitStack() as resources:
            self._engine = await self._connect(url, resources)
            resources.callback(self._forget)
            await self._migrate()
            await self.reserve.make()  # beside a database that is ours only
            self._resources = resources.pop_all()

    async def close(self) -> None:
        """Close every connection and free the lock. May be called twice, and without `open`."""
        await self._resources.aclose()

    @asynccontextmanager
    async def transaction(self) -> AsyncGenerator[AsyncConnection]:
        """A connection inside a transaction: committed at the end of the block, rolled back if it raises.

        Raises StoreError for whatever the database can't do. To be used inside `uninterrupted` functions.
        """
        if self._engine is None:
            raise StoreError(CLOSED)
        try:
            async with self._engine.begin() as connection:
                yield connection
        except (SQLAlchemyError, sqlite3.Error) as error:
            raise as_store_error(error, self._where) from error

    @asynccontextmanager
    async def growing(self) -> AsyncGenerator[AsyncConnection]:
        """The same for what may wait. Raises DiskFull at once while the reserve is spent: its room is for `urgent`."""
        if not await self.reserve.make():
            raise DiskFull(SPENT.format(where=self._where))
        async with self.transaction() as connection:
            yield connection

    async def urgent(self, step: Callable[[AsyncConnection], Awaitable[T]]) -> T:
        """What `step` does in a transaction, which is begun anew with the reserve's room where the disk is full."""
        try:
            async with self.transaction() as connection:
                return await step(connection)
        except DiskFull:
            if not await self.reserve.release():
                raise
            self.freed.set()
        async with self.transaction() as connection:
            return await step(connection)

    @uninterrupted
    async def maintain(self, statement: str) -> None:
        """Run a statement of SQLite's own that makes its own transaction, to its end. Raises StoreError.

        Not by `execute`, where the driver ends a statement that has no columns after its first row.
        """
        if self._engine is None:
            raise StoreError(CLOSED)
        try:
            async with self._engine.connect() as connection:
                driver: Any = (await connection.get_raw_connection()).driver_connection
                await driver.executescript(statement)
        except (SQLAlchemyError, sqlite3.Error) as error:
            raise as_store_error(error, self._where) from error

    async def _connect(self, url: URL, resources: AsyncExitStack) -> AsyncEngine:
        if url.get_backend_name() == "sqlite":
            path = await asyncio.to_thread(sqlite.file_of, url)
            await asyncio.to_thread(self.claim)
            resources.push_async_callback(asyncio.to_thread, self._release)
            self._file, self._where = path, str(path)
            if self._reserve_bytes is not None:
                self.reserve = Reserve(path.with_name(f"{path.name}.reserve"), self._reserve_bytes)
            engine = await asyncio.to_thread(sqlite.create_engine, url, path)
        else:
            self._where = f"{url.database} on {url.host}"
            engine = await asyncio.to_thread(_create_server_engine, url)
        resources.push_async_callback(engine.dispose)
        return engine

    @uninterrupted
    async def _migrate(self) -> None:
        migrations = await asyncio.to_thread(load_migrations)
        newest = migrations.get_current_head()

        async def step(connection: AsyncConnection) -> None:
            if await self._revision(connection) != newest:
                await connection.run_sync(upgrade, migrations)
                await self._revision(connection)
            if connection.dialect.name == "sqlite":
                await connection.run_sync(sqlite.mark_as_ours)

        await self.urgent(step)

    async def _revision(self, connection: AsyncConnection) -> str | None:
        """The revision of a database that is ours and whole, None of a new one. Raises StoreError for any other."""
        facts = await connection.run_sync(identified)
        # Once this is known, nothing that is asked of it blocks.
        expected = await asyncio.to_thread(expected_at, facts.revision, connection.dialect.name)
        standing = judge(await connection.run_sync(described, facts), expected)
        if isinstance(standing, Refused):
            raise StoreError(standing.sentence(f"The database {self._where}", remedies_at_start(self._file)))
        return facts.revision

    def _forget(self) -> None:
        self._engine = None

    def _release(self) -> None:
        if self._lock is not None:
            self._lock.release()
            self._lock = None


def _parse(text: str) -> URL:
    try:
        url = make_url(text)
    except (SQLAlchemyError, ValueError):
        url = URL.create("unreadable")
    backend = url.get_backend_name()
    driver = DRIVERS.get(backend)
    if driver is None or url.drivername not in (driver, backend):
        # The URL may hold a password, so neither this sentence nor an error chained to it shows it.
        raise StoreError(
            "The setting store.url is not a database URL that Quern can use. It must look like "
            "sqlite+aiosqlite:////var/lib/quern/quern.db or postgresql+psycopg://user:password@host/database."
        )
    return url.set(drivername=driver)


def _create_server_engine(url: URL) -> AsyncEngine:
    try:
        return create_async_engine(url, hide_parameters=True, pool_pre_ping=True)
    except ModuleNotFoundError as error:
        raise StoreError(
            f"The setting store.url asks for {url.get_backend_name()}, whose driver is not installed. Install it with "
            f"`pip install 'psycopg[binary]'`."
        ) from error
