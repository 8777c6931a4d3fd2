"""Backups: whole, of one moment, while a server writes; and what is refused rather than lost."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import stat
import subprocess
import sys
from collections.abc import Callable, Generator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from tests.unit.store.old_databases import REVISIONS, make_at
from tests.unit.store.test_recovery import WRITER

from quern.errors import StoreError
from quern.store.backup import back_up, restore
from quern.store.database import Database
from quern.store.ownership import APPLICATION_ID
from quern.store.schema import metadata

TURN = "turn-1"


@contextmanager
def writing(database_file: Path) -> Generator[subprocess.Popen[str]]:
    """A server's process that saves pieces of an answer without a pause; the block begins when there are some."""
    command = [sys.executable, str(WRITER), f"sqlite+aiosqlite:///{database_file}", TURN]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for _ in range(20):
            process.stdout.readline()
        try:
            yield process
        finally:
            process.kill()


def numbers(file: Path) -> list[int]:
    """The pieces that a database has of the answer."""
    with closing(sqlite3.connect(file)) as connection:
        rows = connection.execute("SELECT number FROM turn_events ORDER BY number").fetchall()
    return [number for (number,) in rows]


def test_a_backup_while_a_server_writes_is_whole_and_of_one_moment(migrated_file: Path, tmp_path: Path) -> None:
    with writing(migrated_file) as server:
        for attempt in range(5):
            copy = tmp_path / f"copy-{attempt}.db"
            copied = back_up(migrated_file, copy)
            found = numbers(copy)
            assert found == list(range(1, len(found) + 1))
            assert len(found) >= 19
            assert copied.rows["turn_events"] == len(found)
            assert copied.rows.keys() >= metadata.tables.keys()
            assert copied.size == copy.stat().st_size
            assert stat.S_IMODE(copy.stat().st_mode) == 0o600
        assert server.poll() is None
        assert server.stdout is not None
        last = int(server.stdout.readline())
        assert last > 0
    copies = [f"copy-{attempt}.db" for attempt in range(5)]
    assert sorted(path.name for path in tmp_path.iterdir()) == [*copies, "data"]


def test_a_killed_servers_half_saved_step_is_in_no_backup(migrated_file: Path, tmp_path: Path) -> None:
    with writing(migrated_file):
        pass
    back_up(migrated_file, tmp_path / "copy.db")
    assert numbers(tmp_path / "copy.db") == numbers(migrated_file)


def test_a_database_with_a_wal_is_one_file_in_the_backup(migrated_file: Path, tmp_path: Path) -> None:
    with closing(sqlite3.connect(migrated_file, isolation_level=None)) as writer:
        writer.execute("PRAGMA journal_mode=WAL")
        writer.execute(
            "INSERT INTO conversations (id, owner, created_at, updated_at) VALUES ('c', 'ann', '2026', '2026')"
        )
        back_up(migrated_file, tmp_path / "copy.db")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["copy.db", "data"]
    with closing(sqlite3.connect(tmp_path / "copy.db")) as copy:
        assert copy.execute("PRAGMA journal_mode").fetchone() == ("delete",)
        assert copy.execute("SELECT id FROM conversations").fetchall() == [("c",)]


def test_a_file_that_is_there_is_kept_without_force(migrated_file: Path, tmp_path: Path) -> None:
    target = tmp_path / "copy.db"
    target.write_text("mine")
    with pytest.raises(StoreError, match="--force"):
        back_up(migrated_file, target)
    assert target.read_text() == "mine"
    back_up(migrated_file, target, replace=True)
    assert target.read_bytes().startswith(b"SQLite format 3")


@pytest.mark.parametrize("force", [False, True])
@pytest.mark.parametrize("alias", ["itself", "a link", "another name"])
def test_the_database_is_never_its_own_backup(migrated_file: Path, tmp_path: Path, alias: str, force: bool) -> None:
    target = migrated_file if alias == "itself" else tmp_path / "alias.db"
    if alias == "a link":
        target.symlink_to(migrated_file)
    elif alias == "another name":
        target.hardlink_to(migrated_file)
    before = migrated_file.read_bytes()
    with pytest.raises(StoreError, match="is the database itself"):
        back_up(migrated_file, target, replace=force)
    assert migrated_file.read_bytes() == before


@pytest.mark.parametrize("force", [False, True])
def test_a_place_that_can_hold_no_backup_is_named(migrated_file: Path, tmp_path: Path, force: bool) -> None:
    with pytest.raises(StoreError, match="no folder"):
        back_up(migrated_file, tmp_path / "missing" / "copy.db", replace=force)
    with pytest.raises(StoreError, match="is a folder"):
        back_up(migrated_file, tmp_path, replace=force)
    with pytest.raises(StoreError, match="no database"):
        back_up(tmp_path / "none.db", tmp_path / "copy.db", replace=force)
    assert not (tmp_path / "none.db").exists()


def _damage(file: Path) -> None:
    with file.open("r+b") as pages:
        pages.seek(4096 * 3)
        pages.write(os.urandom(4096 * 2))


def test_a_damaged_database_is_not_taken_for_a_backup(migrated_file: Path, tmp_path: Path) -> None:
    _damage(migrated_file)
    with pytest.raises(StoreError, match="damaged"):
        back_up(migrated_file, tmp_path / "copy.db")
    assert [path.name for path in tmp_path.iterdir()] == ["data"]


def _with(file: Path, *statements: str) -> None:
    with closing(sqlite3.connect(file)) as connection:
        for statement in statements:
            connection.execute(statement)
        connection.commit()


def test_a_backup_comes_back_and_what_was_there_is_kept(migrated_file: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy.db"
    with writing(migrated_file):
        back_up(migrated_file, copy)
    _with(migrated_file, "DELETE FROM turn_events WHERE number > 3")
    later = numbers(migrated_file)
    copied, kept = restore(copy, migrated_file)
    assert numbers(migrated_file) == numbers(copy) != later
    assert copied.rows["turn_events"] == len(numbers(copy))
    assert kept is not None
    assert numbers(kept) == later
    assert migrated_file.stat().st_nlink == kept.stat().st_nlink == 1
    assert stat.S_IMODE(migrated_file.stat().st_mode) == 0o600
    _, second = restore(copy, migrated_file)
    assert second not in {None, kept}


async def test_what_was_restored_is_what_a_server_opens(migrated_file: Path, tmp_path: Path) -> None:
    await asyncio.to_thread(back_up, migrated_file, tmp_path / "copy.db")
    other = tmp_path / "other" / "quern.db"
    await asyncio.to_thread(other.parent.mkdir)
    _, kept = await asyncio.to_thread(restore, tmp_path / "copy.db", other)
    assert kept is None
    database = Database(f"sqlite+aiosqlite:///{other}")
    await database.open()
    await database.close()


def test_a_damaged_database_is_kept_as_it_is(migrated_file: Path, tmp_path: Path) -> None:
    back_up(migrated_file, tmp_path / "copy.db")
    migrated_file.write_bytes(b"no database at all" * 1000)
    _, kept = restore(tmp_path / "copy.db", migrated_file)
    assert kept is not None
    assert kept.read_bytes() == b"no database at all" * 1000
    assert migrated_file.read_bytes() == (tmp_path / "copy.db").read_bytes()


def _newer(file: Path) -> None:
    _with(file, "UPDATE alembic_version SET version_num = 'v9999'")


def _nobodys(file: Path) -> None:
    _with(file, "DROP TABLE alembic_version")


def _without_a_table(file: Path) -> None:
    _with(file, "DROP TABLE turn_events")


def _without_an_index(file: Path) -> None:
    _with(file, "DROP INDEX uq_turns_active_conversation")


def _another_programs(file: Path) -> None:
    _with(file, "PRAGMA application_id=252006674")


def _songs(file: Path) -> None:
    file.unlink()
    _with(file, "CREATE TABLE songs (title TEXT)")


def _dangling(file: Path) -> None:
    _with(file, "INSERT INTO turn_events (turn_id, number, text, created_at) VALUES ('none', 0, 'x', '2026')")


def _text(file: Path) -> None:
    file.write_text("-- a dump of SQL\n" * 500)


def _nothing(file: Path) -> None:
    file.write_bytes(b"")


def _half(file: Path) -> None:
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


@pytest.mark.parametrize(
    "spoil",
    [
        _newer,
        _nobodys,
        _without_a_table,
        _without_an_index,
        _another_programs,
        _songs,
        _dangling,
        _damage,
        _text,
        _nothing,
        _half,
    ],
)
def test_what_is_no_good_backup_changes_nothing(
    migrated_file: Path, tmp_path: Path, spoil: Callable[[Path], None]
) -> None:
    copy = tmp_path / "copy.db"
    back_up(migrated_file, copy)
    before = migrated_file.read_bytes()
    spoil(copy)
    with pytest.raises(StoreError) as refused:
        restore(copy, migrated_file)
    assert str(copy) in str(refused.value)
    assert migrated_file.read_bytes() == before
    assert [path.name for path in migrated_file.parent.iterdir()] == ["quern.db"]


SAME_IN_EVERY_COMMAND: list[tuple[Callable[[Path], None], str]] = [
    (_another_programs, "belongs to another program: its application_id is 0x0f055112, and Quern's is 0x5175726e"),
    (_songs, "belongs to another program: its tables (songs) are not Quern's"),
    (_nothing, "is an empty file, which Quern did not make"),
    (_text, "is not a database, but a file of another kind"),
    (_nobodys, "has lost its table alembic_version"),
    (_without_a_table, "is incomplete: it lacks the table turn_events"),
    (_without_an_index, "is incomplete: it lacks the unique partial index uq_turns_active_conversation"),
]


@pytest.mark.parametrize(("spoil", "words"), SAME_IN_EVERY_COMMAND)
def test_what_a_server_would_not_start_on_is_neither_backed_up_nor_restored_nor_changed(
    migrated_file: Path, tmp_path: Path, spoil: Callable[[Path], None], words: str
) -> None:
    spoilt = tmp_path / "spoilt.db"
    back_up(migrated_file, spoilt)
    spoil(spoilt)
    before = spoilt.read_bytes()
    for command, which in ((restore, "backup"), (back_up, "database")):
        with pytest.raises(StoreError) as refused:
            command(spoilt, tmp_path / "data" / "other.db")
        assert str(refused.value).startswith(f"The {which} {spoilt} {words}")
    assert spoilt.read_bytes() == before
    assert sorted(path.name for path in tmp_path.rglob("*.*")) == ["quern.db", "spoilt.db"]


@pytest.mark.parametrize("spoil", [_another_programs, _songs])
def test_a_restore_doesnt_put_another_programs_database_away(
    migrated_file: Path, tmp_path: Path, spoil: Callable[[Path], None]
) -> None:
    back_up(migrated_file, tmp_path / "copy.db")
    spoil(migrated_file)
    before = migrated_file.read_bytes()
    with pytest.raises(StoreError, match="belongs to another program"):
        restore(tmp_path / "copy.db", migrated_file)
    assert {path.name: path.read_bytes() for path in migrated_file.parent.iterdir()} == {"quern.db": before}


@pytest.mark.parametrize("spoil", [_nobodys, _without_a_table, _newer, _nothing, _half])
def test_a_database_that_no_server_starts_on_makes_room_for_a_backup(
    migrated_file: Path, tmp_path: Path, spoil: Callable[[Path], None]
) -> None:
    back_up(migrated_file, tmp_path / "copy.db")
    spoil(migrated_file)
    before = migrated_file.read_bytes()
    _, kept = restore(tmp_path / "copy.db", migrated_file)
    assert (kept.read_bytes() if kept else b"") == before
    assert migrated_file.read_bytes() == (tmp_path / "copy.db").read_bytes()


@pytest.mark.parametrize("revision", REVISIONS)
def test_a_backup_and_what_is_restored_carry_the_application_id(tmp_path: Path, revision: str) -> None:
    make_at(revision, tmp_path / "old.db")
    back_up(tmp_path / "old.db", tmp_path / "copy.db")
    restore(tmp_path / "old.db", tmp_path / "new.db")
    for name, application_id in (("old.db", 0), ("copy.db", APPLICATION_ID), ("new.db", APPLICATION_ID)):
        with closing(sqlite3.connect(tmp_path / name)) as connection:
            assert connection.execute("PRAGMA application_id").fetchone() == (application_id,)
            assert connection.execute("SELECT version_num FROM alembic_version").fetchone() == (revision,)


def test_a_backup_that_is_not_there_or_the_database_itself_is_refused(migrated_file: Path, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="There is no backup"):
        restore(tmp_path / "none.db", migrated_file)
    with pytest.raises(StoreError, match="the database itself"):
        restore(migrated_file, migrated_file)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root restores for another user")
def test_what_root_restores_belongs_to_the_user_whose_folder_it_is(migrated_file: Path, tmp_path: Path) -> None:
    back_up(migrated_file, tmp_path / "copy.db")
    os.chown(migrated_file.parent, 4711, 4712)
    restore(tmp_path / "copy.db", migrated_file)
    assert (migrated_file.stat().st_uid, migrated_file.stat().st_gid) == (4711, 4712)
