"""Whether a database is Quern's, so that it may be used: decided from facts about it, before anything is written.

What is not certainly ours is refused and stays as it is. The facts are gathered in `inspection.py` (any dialect) and
`sqlite_files.py` (files, before SQLite may change them).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import NamedTuple

VERSION_TABLE = "alembic_version"

APPLICATION_ID = 0x5175726E
"""In the header of each SQLite file that Quern makes ("PRAGMA application_id"): "Qurn" in ASCII."""

NAMED = 6
"""Tables or missing parts that a sentence names."""

_CORE = frozenset({"conversations", "turns", "turn_events"})
"""Every revision has them. Two of them show a database from before there was an application_id as Quern's."""


class Piece(NamedTuple):
    """A part of a schema. `what`: `table` itself, or a part of that table, like `column error`."""

    table: str
    what: str

    def __str__(self) -> str:
        return f"the table {self.table}" if self == whole(self.table) else f"the {self.what} of {self.table}"


def whole(table: str) -> Piece:
    """The table itself."""
    return Piece(table, "table")


@dataclass(frozen=True, slots=True)
class Facts:
    """What was found. `application_id`: 0 where an SQLite file has none, None for another database.

    `tables`: all of them, views too, whoever's. `revisions`: the rows of the version table, None where it is missing.
    `pieces`: of the tables that this revision has, as far as they are there.
    """

    application_id: int | None
    tables: frozenset[str]
    revisions: tuple[str, ...] | None
    pieces: frozenset[Piece] = frozenset()

    @property
    def revision(self) -> str | None:
        """The revision, where there is exactly one."""
        return self.revisions[0] if self.revisions and len(self.revisions) == 1 else None


class Standing(StrEnum):
    """What a database is that may be used."""

    NEW = "new"
    OURS = "ours"


class Fault(StrEnum):
    """Why a database may not be used."""

    GONE = "gone"
    EMPTY = "empty"
    UNREADABLE = "unreadable"
    FOREIGN = "foreign"
    BROKEN = "broken"
    NEWER = "newer"


@dataclass(frozen=True, slots=True)
class Refused:
    """Why a database is left as it is. `what` goes on where its name ends."""

    fault: Fault
    what: str

    def sentence(self, which: str, remedies: Mapping[Fault, str]) -> str:
        """What is wrong with `which`, and what to do."""
        return f"{which} {self.what}. Nothing was changed. {remedies[self.fault]}"


def remedies_at_start(file: Path | None) -> Mapping[Fault, str]:
    """What to do when a server is refused its database; `file` is None for a database server's."""
    own = "Give Quern a database of its own with the setting data_dir or store.url"
    newer = "Start that newer version, or give store.url another database."
    if file is None:
        broken = "Restore a backup with `pg_restore`, or give store.url an empty database to begin anew."
        return {
            Fault.FOREIGN: "Give Quern a database of its own with the setting store.url.",
            Fault.BROKEN: broken,
            Fault.NEWER: newer,
        }
    return {
        Fault.GONE: f"Put {file} back, or remove what is left of it (`rm -f {file}-journal {file}-wal`) to begin anew.",
        Fault.EMPTY: (
            f"It may be what a full disk or a killed program left. If nobody needs it, remove it (`rm {file}`) and "
            f"start again, or put a backup in its place with `quern restore`."
        ),
        Fault.UNREADABLE: f"{own}, move the file away, or put a backup in its place with `quern restore`.",
        Fault.FOREIGN: f"{own}.",
        Fault.BROKEN: "Put a backup in its place with `quern restore`, or move the file away to begin anew.",
        Fault.NEWER: newer,
    }


def judge(facts: Facts, expected: Collection[Piece] | None) -> Standing | Refused:
    """Whether the database is new or ours, or why it is refused.

    `expected`: what its revision consists of; None where this version doesn't know the revision, or there is none.
    """
    if facts.application_id not in {None, 0, APPLICATION_ID}:
        return Refused(
            Fault.FOREIGN,
            f"belongs to another program: its application_id is {facts.application_id:#010x}, and Quern's is "
            f"{APPLICATION_ID:#010x}",
        )
    if not facts.tables and facts.application_id is None:
        return Standing.NEW
    if not facts.tables and facts.application_id == 0:
        return Refused(Fault.EMPTY, "is an SQLite file without any table, which Quern did not make")
    if facts.application_id != APPLICATION_ID and len(_CORE & facts.tables) < 2:
        return Refused(
            Fault.FOREIGN, f"belongs to another program: its tables ({_some(sorted(facts.tables))}) are not Quern's"
        )
    return _judge_schema(facts, expected)


def _judge_schema(facts: Facts, expected: Collection[Piece] | None) -> Standing | Refused:
    if facts.revision is None:
        return Refused(
            Fault.BROKEN,
            f"{_version_fault(facts.revisions)}. So it isn't known which version's schema it has, or what would bring "
            f"it up to date",
        )
    if expected is None:
        return Refused(
            Fault.NEWER,
            f"is at schema revision {facts.revision}, which this version of Quern doesn't know: a newer version "
            f"has used it",
        )
    gone = missing(expected, facts.pieces)
    if gone:
        return Refused(
            Fault.BROKEN,
            f"is incomplete: it lacks {_some([str(piece) for piece in gone])}, which schema revision "
            f"{facts.revision} has",
        )
    return Standing.OURS


def missing(expected: Collection[Piece], found: Collection[Piece]) -> list[Piece]:
    """What is expected and was not found, in order. Of a table that is missing, nothing but the table."""
    gone = set(expected) - set(found)
    return sorted(piece for piece in gone if piece == whole(piece.table) or whole(piece.table) not in gone)


def _version_fault(revisions: tuple[str, ...] | None) -> str:
    if revisions is None:
        return f"has lost its table {VERSION_TABLE}"
    if not revisions:
        return f"has an empty table {VERSION_TABLE}, where one revision should be"
    return f"has {len(revisions)} revisions ({_some(sorted(revisions))}) in its table {VERSION_TABLE} instead of one"


def _some(names: list[str]) -> str:
    more = len(names) - NAMED
    return ", ".join(names[:NAMED]) + (f" and {more} more" if more > 0 else "")
