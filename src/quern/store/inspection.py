"""What a database consists of, and what it should consist of: the facts that `ownership.py` decides by."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import replace
from functools import cache

from sqlalchemy import Connection, Inspector, create_engine, inspect, text
from sqlalchemy.engine.interfaces import ReflectedForeignKeyConstraint, ReflectedIndex
from sqlalchemy.exc import SAWarning

from quern.store import postgresql
from quern.store.migrate import known_revisions, load_migrations, upgrade
from quern.store.ownership import VERSION_TABLE, Facts, Piece, Refused, Standing, judge, whole

_SEARCH_INDEX = "item_search"
_PARTS_OF_SEARCH_INDEX = {f"{_SEARCH_INDEX}_{part}" for part in ("config", "data", "docsize", "idx")}
"""Tables that FTS5 has always had ("The Data Structures" in its documentation). Others, and their columns, may differ
with SQLite's version.
"""

_OF_SQLITE_ALONE = (_SEARCH_INDEX, "item_numbers", "searched_items")
"""How tables, and triggers, begin that no other database has."""


def inspected(connection: Connection) -> Standing | Refused:
    """Look at a whole database and judge it. Blocks."""
    facts = identified(connection)
    expected = expected_at(facts.revision, connection.dialect.name)
    return judge(described(connection, facts), expected)


def identified(connection: Connection) -> Facts:
    """Facts without pieces: whose database it seems to be, and its revision."""
    inspector = inspect(connection)
    application_id = None
    if connection.dialect.name == "sqlite":
        application_id = int(connection.exec_driver_sql("PRAGMA application_id").scalar_one()) & 0xFFFFFFFF
        tables = frozenset((*inspector.get_table_names(), *inspector.get_view_names()))
    else:
        tables = frozenset(postgresql.relations(connection))
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
    of_sqlite = tuple(f"trigger {name}" for name in _OF_SQLITE_ALONE)
    others = (piece for piece in pieces if not piece.table.startswith(_OF_SQLITE_ALONE))
    return frozenset(piece for piece in others if not piece.what.startswith(of_sqlite))


def _pieces(connection: Connection, tables: set[str]) -> frozenset[Piece]:
    """What there is of these tables."""
    inspector = inspect(connection)
    pieces: set[Piece] = set()
    if connection.dialect.name == "sqlite":
        pieces |= set(_views_and_triggers(connection, tables))
        there = set(inspector.get_table_names())
    else:
        found = postgresql.triggers(connection)
        pieces |= {Piece(table, f"trigger {name}") for name, table in found if table in tables}
        there = set(postgresql.relations(connection))
    of_search = {table for table in there if table.startswith(_SEARCH_INDEX)}
    pieces |= set(_parts(inspector, (tables & there) - of_search))
    pieces |= {whole(table) for table in tables & there if table not in of_search}
    pieces |= {whole(table) for table in tables & of_search & {_SEARCH_INDEX, *_PARTS_OF_SEARCH_INDEX}}
    return frozenset(pieces)


def _parts(inspector: Inspector, tables: set[str]) -> Iterator[Piece]:
    """All tables' at once: a database server is asked once for each kind."""
    names = sorted(tables)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SAWarning)  # over somebody's own index of an expression
        indexes = inspector.get_multi_indexes(filter_names=names)
        unique_keys = inspector.get_multi_unique_constraints(filter_names=names)
    for (_, table), columns in inspector.get_multi_columns(filter_names=names).items():
        yield from (Piece(table, f"column {column['name']}") for column in columns)
    for (_, table), key in inspector.get_multi_pk_constraint(filter_names=names).items():
        yield Piece(table, f"primary key {_listed(key['constrained_columns'] if key else [])}")
    for (_, table), keys in unique_keys.items():
        yield from (Piece(table, f"unique key {_listed(key['column_names'])}") for key in keys)
    for (_, table), keys in inspector.get_multi_foreign_keys(filter_names=names).items():
        yield from (Piece(table, _foreign_key(key)) for key in keys)
    for (_, table), of_table in indexes.items():
        yield from (Piece(table, _index(index)) for index in of_table)


def _foreign_key(key: ReflectedForeignKeyConstraint) -> str:
    on_delete = key.get("options", {}).get("ondelete", "NO ACTION")
    return (
        f"foreign key {_listed(key['constrained_columns'])} to {key['referred_table']} "
        f"{_listed(key['referred_columns'])} on delete {on_delete.lower()}"
    )


def _index(index: ReflectedIndex) -> str:
    unique = "unique " if index["unique"] else ""
    partial = "partial " if any(option.endswith("_where") for option in index.get("dialect_options", {})) else ""
    return f"{unique}{partial}index {index['name']} {_listed(index['column_names'])}"


def _views_and_triggers(connection: Connection, tables: set[str]) -> Iterator[Piece]:
    found = connection.execute(text("SELECT type, name, tbl_name FROM sqlite_master WHERE type IN ('view', 'trigger')"))
    for kind, name, table in found:
        if table in tables:
            yield whole(name) if kind == "view" else Piece(table, f"trigger {name}")


def _listed(columns: list[str] | list[str | None]) -> str:
    return f"({', '.join(str(column) for column in columns)})"
