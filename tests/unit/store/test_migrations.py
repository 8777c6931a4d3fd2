"""The migrations build what schema.py says, and never touch a database they don't know."""

import re
import sqlite3
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import create_engine

from quern.errors import StoreError
from quern.store.database import Database
from quern.store.migrate import load_migrations
from quern.store.schema import metadata


def definitions(file: Path) -> dict[str, str]:
    """Every table's and index's SQL, by name, with the order and layout of its parts made equal."""
    connection = sqlite3.connect(file)
    rows = connection.execute("SELECT name, sql FROM sqlite_master WHERE sql IS NOT NULL").fetchall()
    connection.close()
    return {
        name: " ".join(sorted(part.strip() for part in re.split(r",\s*\n", re.sub(r"[ \t]+", " ", sql.strip(" )\n")))))
        for name, sql in rows
        if name != "alembic_version"
    }


def execute(file: Path, statement: str) -> None:
    connection = sqlite3.connect(file)
    connection.execute(statement)
    connection.commit()
    connection.close()


async def test_a_new_database_is_exactly_the_schema(database: Database, database_file: Path, tmp_path: Path) -> None:
    await database.close()
    engine = create_engine(f"sqlite:///{database_file}")
    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True, "compare_server_default": True})
        assert compare_metadata(context, metadata) == []
    engine.dispose()
    directly = create_engine(f"sqlite:///{tmp_path / 'direct.db'}")
    metadata.create_all(directly)
    directly.dispose()
    assert definitions(database_file) == definitions(tmp_path / "direct.db")


def test_the_history_is_one_line() -> None:
    migrations = load_migrations()
    assert len(migrations.get_heads()) == 1
    assert len(migrations.get_bases()) == 1


async def test_a_database_of_a_newer_version_is_refused_and_left_as_it_is(
    database: Database, database_file: Path
) -> None:
    await database.close()
    execute(database_file, "UPDATE alembic_version SET version_num = '9999'")
    before = definitions(database_file)
    with pytest.raises(StoreError, match=r"revision 9999.*newer version"):
        await database.open()
    assert definitions(database_file) == before


async def test_a_failed_migration_leaves_no_table_behind(database_file: Path) -> None:
    database_file.parent.mkdir()
    execute(database_file, "CREATE TABLE turn_events (something TEXT)")
    with pytest.raises(StoreError, match="turn_events already exists"):
        await Database(f"sqlite+aiosqlite:///{database_file}").open()
    assert definitions(database_file).keys() == {"turn_events"}
