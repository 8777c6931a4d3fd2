"""Copies of the embedded database: made while a server writes to it, checked, and put back.

Source of the method: "SQLite Backup API". A copy is made in one read transaction, so that it is one moment's; where the
database has no WAL, what a server wants to save meanwhile waits for that (about two seconds for a gigabyte).
"""

from __future__ import annotations

import os
import sqlite3
import tempfile
from collections.abc import Generator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import quote

from sqlalchemy.exc import SQLAlchemyError

from quern.errors import StoreError
from quern.store.failures import explain
from quern.store.ownership import APPLICATION_ID, VERSION_TABLE, Fault, Refused
from quern.store.sqlite_files import BESIDES, examined, examined_in_use, put_in_place, recognised, remove_with_besides

WAIT_SECONDS = 60.0
"""For a server's transaction to end."""

_NOT_TO_BACK_UP = {
    **dict.fromkeys(Fault, "Name the data directory of a Quern server with --data-dir or --config."),
    Fault.BROKEN: "A backup of it could not be restored. Restore an older one.",
}
_NOT_TO_RESTORE = {
    **dict.fromkeys(Fault, "Name a file that `quern backup` wrote."),
    Fault.BROKEN: "Restore another backup.",
    Fault.NEWER: "Restore it with that version.",
}
_NOT_TO_REPLACE = "Move it away first if it may go, or name another data directory with --data-dir or --config."


@dataclass(frozen=True, slots=True)
class Copied:
    """What a copy holds: its schema's revision, and how many rows each table has. `size` is in bytes."""

    revision: str
    rows: Mapping[str, int]
    size: int


def back_up(database: Path, target: Path, *, replace: bool = False) -> Copied:
    """Copy a database to a new file with mode 0600, which is there whole or not at all. Blocks.

    `replace`: whether an older file of that name may go. Raises StoreError.
    """
    _check_target(database, target, replace=replace)
    with _explained(database), _draft(target) as draft:
        standing = examined_in_use(database)
        if isinstance(standing, Refused) and standing.fault is not Fault.NEWER:
            raise StoreError(standing.sentence(f"The database {database}", _NOT_TO_BACK_UP))
        with closing(_open(database)) as source:
            copied = _copy(source, draft)
        _check(draft, copied, database)
        if not replace and os.path.lexists(target):
            raise StoreError(_taken(target))
        put_in_place(draft, target)
    return copied


def restore(backup: Path, database: Path) -> tuple[Copied, Path | None]:
    """Put a backup in a database's place. No server may run on it, and none may start meanwhile. Blocks.

    Returns what it holds, and where the database that was there is kept. Raises StoreError; then nothing has changed.
    """
    if not backup.is_file():
        raise StoreError(f"There is no backup {backup}, or it is no file. Name a file that `quern backup` wrote.")
    if database.exists() and backup.samefile(database):
        raise StoreError(f"{backup} is the database itself, so there is nothing to restore.")
    with _explained(backup), _draft(database) as draft:
        standing = examined(backup)
        if isinstance(standing, Refused):
            raise StoreError(standing.sentence(f"The backup {backup}", _NOT_TO_RESTORE))
        _check_replaceable(database)
        with closing(_open(backup)) as source:
            copied = _copy(source, draft)
        _check(draft, copied, backup)
        give_to_owner_of_folder(draft)
        kept = _keep_aside(database) if _holds_something(database) else None
        for suffix in BESIDES:
            database.with_name(database.name + suffix).unlink(missing_ok=True)
        put_in_place(draft, database)
    return copied, kept


def _check_target(database: Path, target: Path, *, replace: bool) -> None:
    if not database.is_file():
        raise StoreError(
            f"There is no database {database} yet, so there is nothing to back up. Name the server's data directory "
            f"with --data-dir, or its configuration file with --config."
        )
    if not target.parent.is_dir():
        raise StoreError(f"There is no folder {target.parent}, so the backup was not made. Create it first.")
    if target.is_dir():
        raise StoreError(f"{target} is a folder. Give the backup's file a name, like {target / 'quern-backup.db'}.")
    if target.exists() and target.samefile(database):
        raise StoreError(f"{target} is the database itself. Give the backup another name.")
    if os.path.lexists(target) and not replace:
        raise StoreError(_taken(target))


def _check_replaceable(database: Path) -> None:
    """Another program's database stays where it is. Whatever else is there may make room. Raises StoreError."""
    try:
        standing = recognised(database)
    except (sqlite3.Error, SQLAlchemyError):  # a damaged one
        return
    if isinstance(standing, Refused) and standing.fault is Fault.FOREIGN:
        raise StoreError(standing.sentence(f"The database {database}", {Fault.FOREIGN: _NOT_TO_REPLACE}))


def _taken(target: Path) -> str:
    return (
        f"There is a file {target} already, and it was left as it is. Choose another name, or replace it with --force."
    )


@contextmanager
def _explained(path: Path) -> Generator[None]:
    try:
        yield
    except (sqlite3.Error, SQLAlchemyError) as error:
        raise StoreError(explain(error, str(path))) from error
    except OSError as error:
        where = error.filename or path
        raise StoreError(f"{where} can't be used: {error.strerror or error}. Nothing was changed.") from error


def _open(path: Path) -> sqlite3.Connection:
    """For reading; writing is what rolls a killed server's last transaction back."""
    name = f"file:{quote(str(path.absolute()))}?mode=rw"
    return sqlite3.connect(name, uri=True, timeout=WAIT_SECONDS, isolation_level=None)


@contextmanager
def _draft(target: Path) -> Generator[Path]:
    """A new file beside `target`, mode 0600; what is left of it after the block is removed."""
    handle, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.", suffix=".part")
    os.close(handle)
    draft = Path(name)
    try:
        yield draft
    finally:
        remove_with_besides(draft)


def _copy(source: sqlite3.Connection, draft: Path) -> Copied:
    """Copy what one moment has, and count it in the same moment."""
    source.execute("BEGIN")
    try:
        copied = _contents(source)
        with closing(sqlite3.connect(draft, isolation_level=None)) as target:
            target.execute("PRAGMA synchronous=OFF")  # it is synced as a whole
            source.backup(target)
    finally:
        source.execute("ROLLBACK")
    with closing(sqlite3.connect(draft, isolation_level=None)) as target:
        target.execute("PRAGMA journal_mode=DELETE")  # one file, without a WAL beside it
        target.execute(f"PRAGMA application_id={APPLICATION_ID}")
    return Copied(copied.revision, copied.rows, draft.stat().st_size)


def _contents(connection: sqlite3.Connection) -> Copied:
    tables = [name for (name,) in connection.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")]
    (revision,) = connection.execute(f"SELECT version_num FROM {VERSION_TABLE}").fetchone()  # noqa: S608 (a constant)
    quoted = {name: '"' + name.replace('"', '""') + '"' for name in tables}
    rows = {name: connection.execute(f"SELECT count(*) FROM {quoted[name]}").fetchone()[0] for name in sorted(tables)}  # noqa: S608
    return Copied(revision, rows, 0)


def _check(draft: Path, expected: Copied, where: Path) -> None:
    """Read all that was written once more. Raises StoreError."""
    with closing(sqlite3.connect(draft, isolation_level=None)) as connection:
        found = [line for (line,) in connection.execute("PRAGMA integrity_check(1)")]
        dangling = connection.execute("PRAGMA foreign_key_check").fetchone()
        contents = _contents(connection)
    if found != ["ok"] or dangling is not None:
        what = found[0] if found != ["ok"] else f"a row of {dangling[0]} belongs to nothing"
        raise StoreError(
            f"The copy of {where} is damaged, most likely since {where} itself is: {what}. Nothing was changed. "
            f"Restore an older backup, and check the disk."
        )
    if (contents.revision, contents.rows) != (expected.revision, expected.rows):
        raise StoreError(f"The copy of {where} does not hold what {where} does. Nothing was changed. Check the disk.")


def _holds_something(database: Path) -> bool:
    return database.exists() and database.stat().st_size > 0


def _keep_aside(database: Path) -> Path:
    """Give the database that is replaced a second name, so that there is never a moment without one."""
    with closing(_open(database)) as connection:
        try:  # what a killed server left half done is in another file until the database is read
            connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        except sqlite3.DatabaseError:
            return _moved_aside(database)
    kept = _aside(database)
    try:
        kept.hardlink_to(database)
    except OSError:  # a file system without hard links
        database.rename(kept)
    return kept


def _moved_aside(database: Path) -> Path:
    """A damaged one, with all that is beside it, for whoever tries to save something of it."""
    kept = _aside(database)
    for suffix in ("", *BESIDES):
        part = database.with_name(database.name + suffix)
        if part.exists():
            part.rename(kept.with_name(kept.name + suffix))
    return kept


def _aside(database: Path) -> Path:
    moment = datetime.now(UTC).strftime("%Y%m%dT%H%M%S")
    names = (
        database.with_name(f"{database.name}.before-restore-{moment}{n}") for n in ("", *map("-{}".format, range(99)))
    )
    return next(name for name in names if not os.path.lexists(name))


def give_to_owner_of_folder(path: Path) -> None:
    """What root makes for another user's server is that user's. Raises OSError."""
    owner = path.parent.stat()
    if os.geteuid() == 0 and path.exists():
        os.chown(path, owner.st_uid, owner.st_gid)
