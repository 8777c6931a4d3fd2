"""What the database's errors mean to the person who runs the server."""

from __future__ import annotations

import sqlite3

from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from quern.errors import DiskFull, StoreError

_SQLITE_SENTENCES = {
    "SQLITE_FULL": (
        "The disk that holds the database {where} is full. This step was not saved; everything saved before it is "
        "safe. Free some space on that disk, or delete conversations or responses that nobody needs any more."
    ),
    "SQLITE_READONLY_DBMOVED": (
        "The file of the database {where} was deleted or moved away while the server runs, so nothing can be saved any "
        "more. Stop the server, put the file back if you can, and start again; without it the database begins empty."
    ),
    "SQLITE_READONLY": (
        "The database {where} is read-only, so nothing can be saved. Make the file and its folder writable for the "
        "user who runs Quern, or move it to another place with the setting data_dir or store.url."
    ),
    "SQLITE_BUSY": (
        "Another program holds the database {where} locked. This step was not saved. Close that program and try again."
    ),
    "SQLITE_CORRUPT": (
        "The database {where} is damaged: what is in the file is not what was saved. Stop the server, then restore a "
        "backup, or move the file away to start with an empty database."
    ),
    "SQLITE_NOTADB": (
        "The file {where} is not a database. Nothing in it was changed. Give store.url another path, or move the file "
        "away to start with an empty database."
    ),
    "SQLITE_CANTOPEN": (
        "The database {where} can't be opened. Check that the file and its folder are there and that the user who "
        "runs Quern may read and write them."
    ),
    "SQLITE_IOERR": (
        "The disk that holds the database {where} reported an error ({code}). This step was not saved. Check the "
        "disk and the system log."
    ),
}


def as_store_error(error: BaseException, where: str) -> StoreError:
    """The error of the tree for one of SQLAlchemy or of a driver; `where` names the database."""
    kind = DiskFull if _sqlite_code(error).startswith("SQLITE_FULL") else StoreError
    return kind(explain(error, where))


def explain(error: BaseException, where: str) -> str:
    """A sentence for an error of SQLAlchemy or of a driver; `where` names the database. Never shows stored text."""
    if isinstance(error, PoolTimeout):
        return (
            f"The database {where} is too slow: a step waited too long for its turn and was given up, so it was not "
            f"saved. Check the disk, and what else uses it."
        )
    code = _sqlite_code(error)
    for prefix, sentence in _SQLITE_SENTENCES.items():
        if code.startswith(prefix):
            return sentence.format(where=where, code=code)
    cause = _cause(error)
    first_line = str(cause).strip().partition("\n")[0]
    return (
        f"The database {where} refused a step, so it was not saved: {type(cause).__name__}: {first_line}. If this "
        f"happens again, report it with the server's log."
    )


def _cause(error: BaseException) -> BaseException:
    """The driver's own error."""
    return error.orig if isinstance(error, DBAPIError) and error.orig is not None else error


def _sqlite_code(error: BaseException) -> str:
    cause = _cause(error)
    return str(getattr(cause, "sqlite_errorname", "")) if isinstance(cause, sqlite3.Error) else ""
