"""What the database's errors mean to the person who runs the server."""

from __future__ import annotations

import sqlite3

from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from quern.errors import DiskFull, StoreError

_SQLITE = {
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

_LOST = (
    "The connection to the database {where} broke off, so it isn't known whether this step was saved: its server ended "
    "it, was stopped, or can't be reached any more. What comes next is tried over a new connection. If this goes on, "
    "look whether that server runs, and at its log."
)
_AT_ONCE = (
    "Another server wrote the same in the database {where} at the same moment, so this step was given up and nothing "
    "of it saved. Try again."
)
_REFUSED_USER = (
    "The server of the database {where} does not let Quern in: {reason}. Check user and password in the setting "
    "store.url, and the server's pg_hba.conf."
)
_NO_CONNECTION_LEFT = (
    "The server of the database {where} has no connection left for Quern: {reason}. Allow more there "
    "(max_connections), or have Quern keep fewer (the setting store.pool_size)."
)
_POSTGRESQL = {
    "08": _LOST,
    "25P03": _LOST,
    "57P": _LOST,
    "28": _REFUSED_USER,
    "40": _AT_ONCE,
    "53100": (
        "The disk of the server that has the database {where} is full. This step was not saved; everything saved "
        "before it is safe. Free some space on that disk."
    ),
    "53": "The server of the database {where} is at its limits ({reason}), so this step was not saved.",
    "53300": _NO_CONNECTION_LEFT,
    "25006": (
        "The database {where} is read-only, so nothing can be saved: its server is a standby, or was told so "
        "(default_transaction_read_only). Name the primary in the setting store.url; with several hosts, "
        "target_session_attrs=read-write finds it."
    ),
    "42501": (
        "Quern's user may not do in the database {where} what it has to: {reason}. Make that user the owner of the "
        "database, as the page on operations shows."
    ),
    "3F000": (
        "The database {where} has no schema in which Quern could make its tables. Create the one that the user's "
        "search_path names, or leave that as it is made (public)."
    ),
    "42P01": (
        "The database {where} has lost a table while the server runs. Stop the server and restore a backup with "
        "`pg_restore`, or give store.url an empty database to begin anew."
    ),
    "55P03": (
        "Another transaction holds what this step needs in the database {where} locked for too long, so it was given "
        "up and nothing saved. Look for it in the server's pg_stat_activity, end it and try again."
    ),
    "57014": (
        "The server of the database {where} ended a step after its statement_timeout, or somebody cancelled it, so it "
        "was not saved. Give Quern's user a longer one."
    ),
    "58": (
        "The disk of the server that has the database {where} reported an error ({code}). This step was not saved. "
        "Check that disk and the server's log."
    ),
    "XX001": "The database {where} is damaged ({code}). Stop the server and restore a backup with `pg_restore`.",
    "XX002": "The database {where} has a damaged index ({code}). Stop the server and run `REINDEX DATABASE` on it.",
}
"""By SQLSTATE, or how it begins ("PostgreSQL Error Codes" in its documentation); the longest that fits counts."""

_NAMES_ONLY = ("23", "42")
"""Errors whose first line has names of tables and constraints; that of others may have what was to be stored."""

_NO_CONNECTION = {
    "too many ": _NO_CONNECTION_LEFT,
    "connection slots": _NO_CONNECTION_LEFT,
    "password": _REFUSED_USER,
    "pg_hba.conf": _REFUSED_USER,
    "role ": _REFUSED_USER,
    "does not exist": (
        "There is no database {where}: its server says so ({reason}). Create it there (`CREATE DATABASE … OWNER …`), "
        "or name another one in the setting store.url."
    ),
    "invalid connection option": (
        "The setting store.url has a parameter that PostgreSQL's library does not know: {reason}. See \"Parameter Key "
        "Words\" in PostgreSQL's documentation."
    ),
}
"""By what libpq says, which has no code where there is no connection."""
_NOT_THERE = (
    "The server of the database {where} can't be reached: {reason}. Start it, or check host and port in the setting "
    "store.url."
)


class WrittenAtOnce(StoreError):
    """Another transaction was in the way, and this one was ended for it: begun anew it gets through."""


def as_store_error(error: BaseException, where: str) -> StoreError:
    """The error of the tree for one of SQLAlchemy or of a driver; `where` names the database."""
    kind = StoreError
    if _sqlite_code(error).startswith("SQLITE_FULL") or _sqlstate(error) == "53100":
        kind = DiskFull
    elif _sqlstate(error).startswith("40"):
        kind = WrittenAtOnce
    return kind(explain(error, where))


def explain(error: BaseException, where: str) -> str:
    """A sentence for an error of SQLAlchemy or of a driver; `where` names the database. Never shows stored text."""
    if isinstance(error, PoolTimeout):
        return (
            f"The database {where} is too slow: a step waited too long for its turn and was given up, so it was not "
            f"saved. Check the disk, and what else uses it."
        )
    cause = _cause(error)
    if isinstance(cause, sqlite3.Error):
        code = _sqlite_code(error)
        sentence = next((sentence for prefix, sentence in _SQLITE.items() if code.startswith(prefix)), None)
        if sentence is not None:
            return sentence.format(where=where, code=code)
    elif type(cause).__module__.startswith("psycopg"):
        return _explain_postgresql(error, cause, where)
    return _unexpected(where, f"{type(cause).__name__}: {_first_line(cause)}")


def _explain_postgresql(error: BaseException, cause: BaseException, where: str) -> str:
    code = _sqlstate(error)
    if code:
        found = max((prefix for prefix in _POSTGRESQL if code.startswith(prefix)), key=len, default=None)
        message = _first_line(cause)
        if found is None:
            named = f": {message}" if code.startswith(_NAMES_ONLY) else ""
            return _unexpected(where, f"{type(cause).__name__} (SQLSTATE {code}){named}")
        return _POSTGRESQL[found].format(where=where, code=f"SQLSTATE {code}", reason=message)
    if isinstance(error, DBAPIError) and error.statement is not None:
        return _LOST.format(where=where)
    reason = " ".join(str(cause).split())
    sentence = next((sentence for words, sentence in _NO_CONNECTION.items() if words in reason), _NOT_THERE)
    return sentence.format(where=where, reason=reason)


def _unexpected(where: str, what: str) -> str:
    return (
        f"The database {where} refused a step, so it was not saved: {what}. If this happens again, report it with the "
        f"server's log."
    )


def _first_line(cause: BaseException) -> str:
    return str(cause).strip().partition("\n")[0]


def _cause(error: BaseException) -> BaseException:
    """The driver's own error."""
    return error.orig if isinstance(error, DBAPIError) and error.orig is not None else error


def _sqlite_code(error: BaseException) -> str:
    cause = _cause(error)
    return str(getattr(cause, "sqlite_errorname", "")) if isinstance(cause, sqlite3.Error) else ""


def _sqlstate(error: BaseException) -> str:
    """PostgreSQL's code for an error; empty where it has none, and for another database's."""
    return str(getattr(_cause(error), "sqlstate", None) or "")
