"""The embedded database: one SQLite file, one process, one connection."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from urllib.parse import quote

import filelock
from sqlalchemy import URL, Connection, event
from sqlalchemy.engine.interfaces import DBAPIConnection, DBAPICursor
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.pool import ConnectionPoolEntry

from quern.errors import StoreError
from quern.store.ownership import APPLICATION_ID

BUSY_TIMEOUT_SECONDS = 60.0
"""A backup holds what is to be saved up for as long as the database takes to be read."""

CLAIM_SECONDS = 5.0
"""A command such as `quern keys` has the database to itself for a moment where no server runs."""


def file_of(url: URL) -> Path:
    """The database file that an SQLite URL names, symbolic links followed, so that one file has one lock.

    Raises StoreError as `named_file` does.
    """
    return named_file(url).resolve()


def named_file(url: URL) -> Path:
    """The same as it is named; nothing is looked at.

    Raises StoreError for a database in memory and for SQLite's own `file:` names.
    """
    name = url.database or ":memory:"
    if name == ":memory:" or name.startswith("file:"):
        raise StoreError(
            f"The setting store.url names the SQLite database {name!r}, but Quern keeps its database in a file, to "
            f"survive restarts. Give the file's plain path: sqlite+aiosqlite:////var/lib/quern/quern.db."
        )
    return Path(name)


def claim(path: Path, seconds: float = CLAIM_SECONDS) -> filelock.BaseFileLock:
    """Create the folder (0700) where missing and take the lock beside the file. Blocks for `seconds` at most while
    another process holds it.

    The kernel frees the lock when this process ends, however it ends. Raises StoreError when another process keeps
    it, when the file has a second name, under which another server would not see the lock, or when the folder can't be
    used.
    """
    lock = filelock.FileLock(
        path.with_name(path.name + ".lock"), timeout=seconds, mode=0o600, thread_local=False, fallback_to_soft=False
    )
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock.acquire()
        _check_only_name(path)
    except StoreError:
        lock.release()
        raise
    except filelock.Timeout as error:
        raise StoreError(
            f"The database {path} is in use by another Quern server or command, which did not let go of it within "
            f"{seconds:g} s, and two on one file would spoil each other's conversations. End that one first, or give "
            f"this one another place with the setting data_dir or store.url."
        ) from error
    except OSError as error:
        lock.release()
        raise unusable(path, error) from error
    return lock


def unusable(path: Path, error: OSError) -> StoreError:
    """What the operating system's refusal means for a database file."""
    return StoreError(
        f"The database {path} can't be opened for writing: {error.strerror or error}. Check the folder and the disk it "
        f"is on, or choose another place with the setting data_dir or store.url."
    )


def _check_only_name(path: Path) -> None:
    """Source of the danger: "Multiple links to the same file" in SQLite's "How To Corrupt An SQLite Database File"."""
    names = path.stat().st_nlink if path.is_file() else 1
    if names > 1:
        raise StoreError(
            f"The database {path} has {names} names (hard links), and two servers that open it under different names "
            f"would spoil it: SQLite finds its journal by the name. Remove the other names (`find / -samefile {path}` "
            f"shows them), or make a file of its own of this one: `cp {path} {path}.copy && mv {path}.copy {path}`."
        )


def journal_mode(version: tuple[int, int, int]) -> str:
    """WAL where SQLite's WAL is sound: before 3.51.3 its reset could corrupt a database that is opened twice."""
    return "WAL" if version >= (3, 51, 3) else "TRUNCATE"


def create_engine(url: URL, path: Path) -> AsyncEngine:
    """An engine of one connection to `path`, whose transactions take the write lock when they begin. It makes no file,
    so that one that was deleted is missed.
    """
    engine = create_async_engine(
        url.set(database=f"file:{quote(str(path))}").update_query_dict({"mode": "rw", "uri": "true"}),
        pool_size=1,
        max_overflow=0,
        hide_parameters=True,
        connect_args={"timeout": BUSY_TIMEOUT_SECONDS, "isolation_level": None},
    )
    event.listen(engine.sync_engine, "connect", _configure)
    event.listen(engine.sync_engine, "begin", _begin)
    return engine


def mark_as_ours(connection: Connection) -> None:
    """Give a database of an earlier version its application_id."""
    if connection.exec_driver_sql("PRAGMA application_id").scalar_one() != APPLICATION_ID:
        connection.exec_driver_sql(f"PRAGMA application_id={APPLICATION_ID}")


def _configure(connection: DBAPIConnection, _: ConnectionPoolEntry) -> None:
    cursor = connection.cursor()
    try:
        cursor.execute("PRAGMA foreign_keys=ON")
        _have_pages_given_back(cursor)
        cursor.execute(f"PRAGMA journal_mode={journal_mode(sqlite3.sqlite_version_info)}")
        cursor.execute("PRAGMA synchronous=FULL")
        cursor.execute("PRAGMA secure_delete=ON")  # what is deleted is overwritten, not only given back
        cursor.close()
    except BaseException:
        # The pool forgets a connection whose listener fails; its thread would outlive it.
        connection.close()
        raise


def _have_pages_given_back(cursor: DBAPICursor) -> None:
    """For a database of an earlier version, which gets it with its next VACUUM (`vacuum.py`)."""
    cursor.execute("PRAGMA auto_vacuum")
    if cursor.fetchone() == (0,):
        cursor.execute("PRAGMA auto_vacuum=INCREMENTAL")


def _begin(connection: Connection) -> None:
    # The driver's own BEGIN is switched off (isolation_level None): it comes late, and leaves reads outside.
    connection.exec_driver_sql("BEGIN IMMEDIATE")
