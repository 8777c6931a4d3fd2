"""SQLite's files before they are opened: looked at without a change, and made whole or not at all."""

from __future__ import annotations

import os
import shutil
import sqlite3
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote

from sqlalchemy import Connection, NullPool, create_engine
from sqlalchemy.exc import SQLAlchemyError

from quern.errors import StoreError
from quern.store.failures import explain
from quern.store.inspection import inspected
from quern.store.migrate import load_migrations, upgrade
from quern.store.ownership import APPLICATION_ID, Facts, Fault, Refused, Standing, judge, remedies_at_start
from quern.store.sqlite import BUSY_TIMEOUT_SECONDS, unusable

BESIDES = ("-journal", "-wal", "-shm")
"""What SQLite keeps beside a database."""

_HEADER_BYTES = 100
_MAGIC = b"SQLite format 3\0"
_ID_AT = slice(68, 72)
"""Source: "The Database Header" in SQLite's "Database File Format"."""


def prepare(path: Path) -> None:
    """Make the database where there is none; where something is, make sure that SQLite may open it for writing.

    The lock must be held. Blocks. Raises StoreError; then what is there is as it was.
    """
    with explained(path):
        standing = recognised(path)
        if isinstance(standing, Refused):
            raise StoreError(standing.sentence(f"The database {path}", remedies_at_start(path)))
        if standing is Standing.NEW:
            _create(path)


def recognised(path: Path) -> Standing | Refused:
    """Judge a file that nobody uses meanwhile, without a change to it. What has our application_id is trusted, and has
    to be judged once it is open. Blocks; may copy the file.

    Raises OSError, sqlite3.Error or SQLAlchemyError; so do the next two.
    """
    standing = _at_first_sight(path)
    return _judged(path) if standing is None else standing


def examined(path: Path) -> Standing | Refused:
    """Judge a whole file that nobody uses meanwhile, without a change to it. Blocks; may copy it."""
    standing = _at_first_sight(path)
    return _judged(path) if standing is None or standing is Standing.OURS else standing


def examined_in_use(path: Path) -> Standing | Refused:
    """Judge a whole file that a server may be using. Blocks while it writes."""
    standing = _at_first_sight(path)
    if standing is not None and standing is not Standing.OURS:
        return standing
    with connected(f"file:{quote(str(path))}?mode=rw") as connection:
        return inspected(connection)


@contextmanager
def explained(path: Path) -> Generator[None]:
    """Raises StoreError for what goes wrong with a file in the block."""
    try:
        yield
    except (sqlite3.Error, SQLAlchemyError) as error:
        raise StoreError(explain(error, str(path))) from error
    except OSError as error:
        raise unusable(path, error) from error


@contextmanager
def connected(name: str) -> Generator[Connection]:
    """A connection by one of SQLite's `file:` names."""

    def connect() -> sqlite3.Connection:
        return sqlite3.connect(name, uri=True, timeout=BUSY_TIMEOUT_SECONDS)

    engine = create_engine("sqlite://", creator=connect, poolclass=NullPool)
    with engine.connect() as connection:
        yield connection


def put_in_place(draft: Path, target: Path) -> None:
    """Give a finished file its name, so that it is there whole or not at all, also after a power cut."""
    _sync(draft)
    draft.replace(target)
    _sync(target.parent)


def remove_with_besides(path: Path) -> None:
    """Remove a file and what SQLite keeps beside it, as far as they are there."""
    for suffix in ("", *BESIDES):
        _beside(path, suffix).unlink(missing_ok=True)


def _judged(path: Path) -> Standing | Refused:
    with _to_look_at(path) as name, connected(name) as connection:
        return inspected(connection)


def _at_first_sight(path: Path) -> Standing | Refused | None:
    """What a file's beginning shows, and what is beside it; None where one has to look into it."""
    if not path.exists():
        return _judge_absence(path)
    if not path.is_file():  # opening a pipe would wait for its other end
        return Refused(Fault.FOREIGN, "is no file, but a folder or a device")
    with path.open("rb") as file:
        return _judge_header(file.read(_HEADER_BYTES))


def _judge_header(header: bytes) -> Standing | Refused | None:
    if not header:
        return Refused(Fault.EMPTY, "is an empty file, which Quern did not make")
    if not header.startswith(_MAGIC) or len(header) < _HEADER_BYTES:
        return Refused(Fault.UNREADABLE, "is not a database, but a file of another kind")
    application_id = int.from_bytes(header[_ID_AT], "big")
    if application_id == APPLICATION_ID:
        return Standing.OURS
    return None if application_id == 0 else judge(Facts(application_id, frozenset(), None), None)


def _judge_absence(path: Path) -> Standing | Refused:
    left = [beside for beside in (_beside(path, suffix) for suffix in ("-journal", "-wal")) if _size(beside)]
    if not left:
        return Standing.NEW
    return Refused(
        Fault.GONE,
        f"is missing, but {left[0]}, which holds a part of it, is there: it was moved or deleted without that, and a "
        f"new one would be spoilt by it",
    )


@contextmanager
def _to_look_at(path: Path) -> Generator[str]:
    """A name by which SQLite reads the file, and changes nothing.

    Where a killed program left a journal or a WAL, reading means to finish its work, so that is done to a copy.
    """
    if not any(_size(_beside(path, suffix)) for suffix in ("-journal", "-wal")):
        yield f"file:{quote(str(path))}?immutable=1"
        return
    copy = path.with_name(f".{path.name}.examined")
    remove_with_besides(copy)
    try:
        for suffix in ("", "-journal", "-wal"):
            if _beside(path, suffix).exists():
                _beside(copy, suffix).touch(mode=0o600, exist_ok=False)
                shutil.copyfile(_beside(path, suffix), _beside(copy, suffix))
        yield f"file:{quote(str(copy))}?mode=rw"
    finally:
        remove_with_besides(copy)


def _create(path: Path) -> None:
    draft = path.with_name(f".{path.name}.new")
    remove_with_besides(draft)  # of a start that was killed
    try:
        draft.touch(mode=0o600, exist_ok=False)
        with connected(f"file:{quote(str(draft))}?mode=rw") as connection:
            connection.exec_driver_sql("PRAGMA journal_mode=MEMORY")  # it is synced as a whole
            connection.exec_driver_sql("PRAGMA synchronous=OFF")
            connection.exec_driver_sql("PRAGMA auto_vacuum=INCREMENTAL")  # before the first table, or not at all
            connection.exec_driver_sql(f"PRAGMA application_id={APPLICATION_ID}")
            upgrade(connection, load_migrations())
            connection.commit()
        for suffix in BESIDES:
            _beside(path, suffix).unlink(missing_ok=True)
        put_in_place(draft, path)
    finally:
        remove_with_besides(draft)


def _beside(path: Path, suffix: str) -> Path:
    return path.with_name(path.name + suffix)


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
