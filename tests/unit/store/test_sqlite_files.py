"""Files: made whole or not at all, adopted where an earlier version made them, else left byte for byte as they were."""

import asyncio
import os
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from tests.unit.store.old_databases import REVISIONS, make_at

from quern.errors import StoreError
from quern.store.database import Database
from quern.store.ownership import APPLICATION_ID

KILLED_STARTS = Path(__file__).with_name("killed_starts.py")


def execute(file: Path, *statements: str) -> None:
    with closing(sqlite3.connect(file, isolation_level=None)) as connection:
        for statement in statements:
            connection.execute(statement)


def asked(file: Path, query: str) -> list[tuple[object, ...]]:
    with closing(sqlite3.connect(file)) as connection:
        return connection.execute(query).fetchall()


def contents(folder: Path) -> dict[str, bytes | str]:
    """All files but the lock, with what is in them."""
    return {
        path.name: path.read_bytes() if path.is_file() else path.stat().st_mode.to_bytes(4, "big")
        for path in folder.iterdir()
        if not path.name.endswith(".lock")
    }


async def opened(file: Path) -> None:
    database = Database(f"sqlite+aiosqlite:///{file}", claim_seconds=0)
    await database.open()
    await database.close()


async def refusal(file: Path) -> str:
    """The sentence with which a start refuses the file, twice the same, and changes nothing in its folder."""
    before = await asyncio.to_thread(contents, file.parent)
    sentences: set[str] = set()
    for _ in range(2):
        database = Database(f"sqlite+aiosqlite:///{file}", claim_seconds=0)
        with pytest.raises(StoreError) as refused:
            await database.open()
        await database.close()
        sentences.add(str(refused.value))
    assert await asyncio.to_thread(contents, file.parent) == before
    (sentence,) = sentences
    return sentence


def left_by_a_killed_program(file: Path, mode: str, *statements: str) -> None:
    """Execute the statements in one transaction, and leave what is there before it is complete (for a WAL: before any
    of it is in the file itself).
    """
    live = file.with_name("live.db")
    if file.exists():
        file.rename(live)
    with closing(sqlite3.connect(live, isolation_level=None)) as connection:
        connection.execute(f"PRAGMA journal_mode={mode}")
        connection.execute("PRAGMA cache_size=1")
        connection.execute("PRAGMA wal_autocheckpoint=0")
        connection.execute("BEGIN")
        for statement in statements:
            connection.execute(statement)
        if mode == "WAL":
            connection.execute("COMMIT")
        for suffix in ("", "-journal", "-wal"):
            part = live.with_name(live.name + suffix)
            if part.exists():
                shutil.copy(part, file.with_name(file.name + suffix))
    live.unlink()
    beside = file.with_name(file.name + ("-wal" if mode == "WAL" else "-journal"))
    assert beside.stat().st_size > 1000
    live.with_name("live.db-journal").unlink(missing_ok=True)


def _empty(file: Path) -> None:
    file.touch()


def _without_tables(file: Path) -> None:
    execute(file, "CREATE TABLE t (x)", "DROP TABLE t")


def _songs(file: Path) -> None:
    execute(file, "CREATE TABLE songs (title TEXT)", "INSERT INTO songs VALUES ('Die Mühle')")


def _views_alone(file: Path) -> None:
    execute(file, "CREATE VIEW seven AS SELECT 7")


def _another_id(file: Path) -> None:
    execute(file, "PRAGMA application_id=252006674", "CREATE TABLE vfile (x)")


def _our_tables_under_another_id(file: Path) -> None:
    make_at(REVISIONS[-1], file)
    execute(file, "PRAGMA application_id=-2")


def _another_alembic_application(file: Path) -> None:
    execute(
        file,
        "CREATE TABLE alembic_version (version_num VARCHAR(32) NOT NULL)",
        "INSERT INTO alembic_version VALUES ('0003')",
        "CREATE TABLE users (id)",
        "CREATE TABLE conversations (id)",
    )


def _with_a_wal(file: Path) -> None:
    execute(file, "PRAGMA journal_mode=WAL", "CREATE TABLE songs (title TEXT)")


def _with_all_in_its_wal(file: Path) -> None:
    left_by_a_killed_program(file, "WAL", "CREATE TABLE songs (title TEXT)")


def _half_written(file: Path) -> None:
    execute(file, "CREATE TABLE songs (title TEXT)", "INSERT INTO songs VALUES (randomblob(90000))")
    left_by_a_killed_program(file, "DELETE", "UPDATE songs SET title = randomblob(90000)")


def _text(file: Path) -> None:
    file.write_text("SQLite format 3, they said.\n" * 99)


def _cut_within_its_header(file: Path) -> None:
    _songs(file)
    file.write_bytes(file.read_bytes()[:60])


def _folder(file: Path) -> None:
    file.mkdir()


def _pipe(file: Path) -> None:
    os.mkfifo(file)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (_empty, "is an empty file, which Quern did not make. Nothing was changed. It may be what a full disk"),
        (_without_tables, "without any table, which Quern did not make"),
        (_songs, "its tables (songs) are not Quern's"),
        (_views_alone, "its tables (seven) are not Quern's"),
        (_another_id, "its application_id is 0x0f055112, and Quern's is 0x5175726e"),
        (_our_tables_under_another_id, "its application_id is 0xfffffffe"),
        (_another_alembic_application, "its tables (alembic_version, conversations, users) are not Quern's"),
        (_with_a_wal, "its tables (songs) are not Quern's"),
        (_with_all_in_its_wal, "its tables (songs) are not Quern's"),
        (_half_written, "its tables (songs) are not Quern's"),
        (_text, "is not a database"),
        (_cut_within_its_header, "is not a database"),
        (_folder, "is no file, but a folder or a device"),
        (_pipe, "is no file, but a folder or a device"),
    ],
)
async def test_what_quern_did_not_make_is_refused_and_left_as_it_is(
    tmp_path: Path, make: Callable[[Path], None], words: str
) -> None:
    file = tmp_path / "what #1 50%.db"
    await asyncio.to_thread(make, file)
    sentence = await refusal(file)
    assert words in sentence
    assert sentence.startswith((f"The database {file} is ", f"The database {file} belongs "))


async def test_a_new_database_is_marked_as_quern_s(database: Database, migrated_file: Path) -> None:
    await database.close()
    assert asked(migrated_file, "PRAGMA application_id") == [(APPLICATION_ID,)]
    assert int.from_bytes(b"Qurn", "big") == APPLICATION_ID


@pytest.mark.parametrize("revision", REVISIONS)
async def test_a_database_of_every_earlier_revision_is_adopted(database_file: Path, revision: str) -> None:
    await asyncio.to_thread(make_at, revision, database_file)
    execute(database_file, "INSERT INTO conversations (id, owner, created_at, updated_at) VALUES ('c', 'a', '1', '1')")
    for _ in range(2):
        await opened(database_file)
        assert asked(database_file, "PRAGMA application_id") == [(APPLICATION_ID,)]
        assert asked(database_file, "SELECT id FROM conversations") == [("c",)]
        assert asked(database_file, "SELECT version_num FROM alembic_version") == [(REVISIONS[-1],)]


@pytest.mark.parametrize("revision", [REVISIONS[0], REVISIONS[-1]])
@pytest.mark.parametrize("mode", ["WAL", "DELETE"])
async def test_a_killed_earlier_version_s_database_is_adopted_as_it_was_saved(
    database_file: Path, revision: str, mode: str
) -> None:
    def make() -> None:
        make_at(revision, database_file)
        row = "INSERT INTO conversations (id, owner, created_at, updated_at) VALUES ('{}', '{}', '1', '1')"
        execute(database_file, row.format("saved", "a" * 50_000))
        left_by_a_killed_program(
            database_file, mode, row.format("killed", "b" * 50_000), "UPDATE conversations SET owner = 'c'"
        )

    await asyncio.to_thread(make)
    await opened(database_file)
    saved = [("killed", "c"), ("saved", "c")] if mode == "WAL" else [("saved", "a" * 50_000)]
    assert asked(database_file, "SELECT id, owner FROM conversations ORDER BY id") == saved
    assert not [path.name for path in database_file.parent.iterdir() if "examined" in path.name]


async def test_a_database_that_was_never_more_than_a_wal_is_adopted(tmp_path: Path) -> None:
    file = tmp_path / "quern.db"

    def make() -> None:
        make_at(REVISIONS[-1], tmp_path / "made.db")
        with closing(sqlite3.connect(tmp_path / "made.db")) as made:
            left_by_a_killed_program(file, "WAL", *_script(made))

    await asyncio.to_thread(make)
    await opened(file)
    assert asked(file, "PRAGMA application_id") == [(APPLICATION_ID,)]


def _script(database: sqlite3.Connection) -> list[str]:
    rows = database.execute(
        "SELECT sql FROM sqlite_master "
        "WHERE sql NOT NULL AND (name NOT LIKE 'item!_search!_%' ESCAPE '!' OR type = 'trigger')"
    )
    return [*(sql for (sql,) in rows), f"INSERT INTO alembic_version VALUES ('{REVISIONS[-1]}')"]


LOSSES = [
    (["DROP TABLE turn_events"], "lacks the table turn_events, which"),
    (["ALTER TABLE turns DROP COLUMN error"], "lacks the column error of turns, which"),
    (["ALTER TABLE items RENAME COLUMN name TO nom"], "lacks the column name of items, which"),
    (["DROP INDEX uq_turns_active_conversation"], "lacks the unique partial index uq_turns_active_conversation"),
    (
        ["DROP INDEX uq_turns_active_conversation", "CREATE INDEX uq_turns_active_conversation ON turns (owner)"],
        "lacks the unique partial index uq_turns_active_conversation (conversation_id) of turns, which",
    ),
    (["DROP TRIGGER item_search_delete"], "lacks the trigger item_search_delete of items, which"),
    (["DROP VIEW searched_items"], "lacks the table searched_items, which"),
    (["DROP TABLE item_search"], "lacks the table item_search, the table item_search_config, the table item_search_d"),
    (["DROP TABLE item_search_idx"], "lacks the table item_search_idx, which"),
    (
        [
            "PRAGMA foreign_keys=OFF",
            "CREATE TABLE copy AS SELECT * FROM turn_events",
            "DROP TABLE turn_events",
            "ALTER TABLE copy RENAME TO turn_events",
        ],
        "lacks the foreign key (turn_id) to turns (id) on delete cascade of turn_events, the primary key",
    ),
    (["DROP TABLE alembic_version"], "has lost its table alembic_version"),
    (["DELETE FROM alembic_version"], "has an empty table alembic_version"),
    (["INSERT INTO alembic_version VALUES ('0001')"], "revisions (0001, "),
    (["DROP TABLE alembic_version", "CREATE TABLE alembic_version (x)"], "has an empty table alembic_version"),
    (["UPDATE alembic_version SET version_num = '9999'"], "revision 9999, which this version of Quern doesn't know"),
]


@pytest.mark.parametrize("marked", [True, False])
@pytest.mark.parametrize(("statements", "words"), LOSSES)
async def test_a_database_that_lost_something_is_refused_before_it_is_used(
    migrated_file: Path, statements: list[str], words: str, marked: bool
) -> None:
    execute(migrated_file, *statements, "PRAGMA user_version=1", *([] if marked else ["PRAGMA application_id=0"]))
    sentence = await refusal(migrated_file)
    assert words in sentence
    assert ("quern restore" in sentence) is ("newer version" not in sentence)


async def test_an_incomplete_database_of_an_earlier_version_is_not_migrated(database_file: Path) -> None:
    await asyncio.to_thread(make_at, "0005", database_file)
    execute(database_file, "DROP TABLE usage")
    assert "lacks the table usage, which schema revision 0005 has" in await refusal(database_file)


async def test_a_migration_that_fails_leaves_everything_as_it_was(database_file: Path) -> None:
    await asyncio.to_thread(make_at, "0008", database_file)
    execute(database_file, "CREATE TABLE branches (something TEXT)")
    before = await asyncio.to_thread(database_file.read_bytes)
    with pytest.raises(StoreError, match="branches already exists"):
        await opened(database_file)
    assert await asyncio.to_thread(database_file.read_bytes) == before


async def test_what_somebody_added_is_tolerated_and_kept(migrated_file: Path) -> None:
    added = [
        "CREATE TABLE notes (x)",
        "CREATE INDEX by_owner ON turns (owner)",
        "CREATE INDEX by_lower ON turns (lower(owner))",
        "CREATE VIEW latest AS SELECT * FROM turns",
        "CREATE TRIGGER noted AFTER DELETE ON turns BEGIN INSERT INTO notes VALUES (old.id); END",
        "ALTER TABLE conversations ADD COLUMN colour TEXT",
        "INSERT INTO conversations (id, owner, created_at, updated_at) VALUES ('c', 'ann', '1', '1')",
        "ANALYZE",
    ]
    execute(migrated_file, *added)
    before = asked(migrated_file, "SELECT * FROM sqlite_master ORDER BY name")
    await opened(migrated_file)
    assert asked(migrated_file, "SELECT * FROM sqlite_master ORDER BY name") == before
    assert ("sqlite_stat1",) in asked(migrated_file, "SELECT name FROM sqlite_master")


@pytest.mark.parametrize("suffix", ["-journal", "-wal"])
async def test_a_database_that_was_removed_without_its_journal_is_not_begun_anew(
    database_file: Path, suffix: str
) -> None:
    beside = database_file.with_name(database_file.name + suffix)
    beside.parent.mkdir()
    beside.write_bytes(b"what was saved last" * 100)
    assert f"is missing, but {beside}, which holds a part of it, is there" in await refusal(database_file)
    beside.write_bytes(b"")
    await opened(database_file)
    assert sorted(path.name for path in database_file.parent.iterdir()) == [
        database_file.name,
        f"{database_file.name}.lock",
    ]


def test_a_first_start_that_is_killed_at_any_moment_leaves_no_database_or_a_whole_one(tmp_path: Path) -> None:
    run = subprocess.run(
        [sys.executable, str(KILLED_STARTS), str(tmp_path)], capture_output=True, text=True, timeout=80, check=True
    )
    lines = [line.split() for line in run.stdout.splitlines()]
    assert len(lines) > 10
    assert {status for status, *_ in lines} == {"-9"}
    assert {left for _, left, *_ in lines} == {"True", "False"}
    assert {again for _, _, again, *_ in lines} == {"0"}, run.stderr
    assert {" ".join(names) for *_, names in ((*line[:3], line[3:]) for line in lines)} == {"quern.db quern.db.lock"}
