"""What a database consists of, and what it should consist of: the facts that `ownership.py` decides by."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import replace
from functools import cache

from sqlalchemy import Connection, Inspector, create_engine, inspect, text
from sqlalchemy.exc import SAWarning

from quern.store.migrate import known_revisions, load_migrations, upgrade
from quern.store.ownership import VERSION_TABLE, Facts, Piece, Refused, Standing, judge, whole

_SEARCH_INDEX = "item_search"
_PARTS_OF_SEARCH_INDEX = {f"{_SEARCH_INDEX}_{part}" for part in ("config", "data", "docsize", "idx")}
"""Tables that FTS5 has always had ("The Data Structures" in its documentation). Others, and their columns, may differ
with SQLite's version.
"""

_OF_SQLITE_ALONE = (_SEARCH_INDEX, "item_numbers", "searched_items")


def inspected(connection: Connection) -> Standing | Refused:
    """Look at a whole database and judge it. Blocks."""
    facts = identified(connection)
    expected = expected_at(facts.revision, connection.dialect.name)
    return judge(described(connection, facts), expected)


def identified(connection: Connection) -> Facts:
    """Facts without pieces: whose database it seems to be, and its revision."""
    inspector = inspect(connection)
    tables = frozenset((*inspector.get_table_names(), *inspector.get_view_names()))
    application_id = None
    if connection.dialect.name == "sqlite":
        application_id = int(connection.exec_driver_sql("PRAGMA application_id").scalar_one()) & 0xFFFFFFFF
    return Facts(application_id, tables, _revisions(connection, inspector) if VERSION_TABLE in tables else None)


def _revisions(connection: Connection, inspector: Inspector) -> tuple[str, ...]:
    if all(column["name"] != "version_num" for column in inspector.get_columns(VERSION_TABLE)):
        return ()
    found = connection.execute(text(f"SELECT version_num FROM {VERSION_TABLE} LIMIT 100"))  # noqa: S608 (a constant)
    return tuple(str(revision) for (revision,) in found)


def described(connection: Connection, facts: Facts) -> Facts:
    """The facts with the pieces of the tables that Quern has at this revision. Blocks where there is one."""
    expected = expected_at(facts.revision, connection.dialect.name)
    if expected is None:
        return facts
    return replace(facts, pieces=_pieces(connection, {piece.table for piece in expected}))


@cache
def expected_at(revision: str | None, dialect: str) -> frozenset[Piece] | None:
    """What the migrations build up to a revision; None where it is none of this version's. Blocks."""
    migrations = load_migrations()
    if revision not in known_revisions(migrations):
        return None
    engine = create_engine("sqlite://")
    with engine.begin() as connection:
        upgrade(connection, migrations, to=revision)
        names = set(inspect(connection).get_table_names()) | set(inspect(connection).get_view_names())
        pieces = _pieces(connection, names - {VERSION_TABLE})
    engine.dispose()
    if dialect == "sqlite":
        return pieces
    others = (piece for piece in pieces if not piece.table.startswith(_OF_SQLITE_ALONE))
    return frozenset(piece for piece in others if not piece.what.startswith("trigger "))


def _pieces(connection: Connection, tables: set[str]) -> frozenset[Piece]:
    """What there is of these tables."""
    inspector = inspect(connection)
    pieces: set[Piece] = set()
    if connection.dialect.name == "sqlite":
        pieces |= set(_views_and_triggers(connection, tables))
    for table in tables & set(inspector.get_table_names()):
        if not table.startswith(_SEARCH_INDEX):
            pieces |= set(_parts(inspector, table))
        if not table.startswith(_SEARCH_INDEX) or table in {_SEARCH_INDEX, *_PARTS_OF_SEARCH_INDEX}:
            pieces.add(whole(table))
    return frozenset(pieces)


def _parts(inspector: Inspector, table: str) -> Iterator[Piece]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SAWarning)  # over somebody's own index of an expression
        indexes = inspector.get_indexes(table)
        unique_keys = inspector.get_unique_constraints(table)
    for column in inspector.get_columns(table):
        yield Piece(table, f"column {column['name']}")
    key = inspector.get_pk_constraint(table)["constrained_columns"]
    yield Piece(table, f"primary key {_listed(key)}")
    for unique_key in unique_keys:
        yield Piece(table, f"unique key {_listed(unique_key['column_names'])}")
    for foreign in inspector.get_foreign_keys(table):
        on_delete = foreign.get("options", {}).get("ondelete", "NO ACTION")
        yield Piece(
            table,
            f"foreign key {_listed(foreign['constrained_columns'])} to {foreign['referred_table']} "
            f"{_listed(foreign['referred_columns'])} on delete {on_delete.lower()}",
        )
    for index in indexes:
        unique = "unique " if index["unique"] else ""
        partial = "partial " if any(option.endswith("_where") for option in index.get("dialect_options", {})) else ""
        yield Piece(table, f"{unique}{partial}index {index['name']} {_listed(index['column_names'])}")


def _views_and_triggers(connection: Connection, tables: set[str]) -> Iterator[Piece]:
    found = connection.execute(text("SELECT type, name, tbl_name FROM sqlite_master WHERE type IN ('view', 'trigger')"))
    for kind, name, table in found:
        if table in tables:
            yield whole(name) if kind == "view" else Piece(table, f"trigger {name}")


def _listed(columns: list[str] | list[str | None]) -> str:
    return f"({', '.join(str(column) for column in columns)})"
