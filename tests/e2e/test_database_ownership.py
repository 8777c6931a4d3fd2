"""`quern serve`, `quern backup` and `quern restore` on files that are not, or no longer, a database of Quern's."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from .conftest import ServerProcess, chat
from .test_status_and_stop import run


def execute(file: Path, *statements: str) -> None:
    with closing(sqlite3.connect(file, isolation_level=None)) as connection:
        for statement in statements:
            connection.execute(statement)


def empty(file: Path, _: Path) -> None:
    file.touch()


def somebodys(file: Path, _: Path) -> None:
    execute(
        file, "PRAGMA journal_mode=WAL", "CREATE TABLE songs (title)", "INSERT INTO songs VALUES ('Der Lindenbaum')"
    )


def lost_a_table(file: Path, made_by_quern: Path) -> None:
    shutil.copy(made_by_quern, file)
    execute(file, "DROP TABLE items")


def lost_its_version(file: Path, made_by_quern: Path) -> None:
    shutil.copy(made_by_quern, file)
    execute(file, "DELETE FROM alembic_version")


def of_the_future(file: Path, made_by_quern: Path) -> None:
    shutil.copy(made_by_quern, file)
    execute(file, "UPDATE alembic_version SET version_num = '9999'")


def another_id(file: Path, made_by_quern: Path) -> None:
    shutil.copy(made_by_quern, file)
    execute(file, "PRAGMA application_id=252006674")


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (empty, "is an empty file, which Quern did not make. Nothing was changed."),
        (somebodys, "belongs to another program: its tables (songs) are not Quern's. Nothing was changed."),
        (lost_a_table, "is incomplete: it lacks the table items, which schema revision"),
        (lost_its_version, "has an empty table alembic_version"),
        (of_the_future, "is at schema revision 9999"),
        (another_id, "belongs to another program: its application_id is 0x0f055112"),
    ],
)
def test_no_server_takes_such_a_file_over(
    make: Callable[[Path, Path], None], words: str, tmp_path: Path, empty_database: Path
) -> None:
    file = tmp_path / "quern.db"
    make(file, empty_database)
    before = file.read_bytes()
    result = run("serve", "--engine", "fake", "--port", "0", folder=tmp_path)
    assert result.returncode == 1, result.stdout + result.stderr
    assert f"The database {file} {words}" in result.stderr
    assert "Traceback" not in result.stderr
    assert file.read_bytes() == before
    assert {path.name for path in tmp_path.iterdir()} <= {"quern.db", "quern.db.lock", "server.lock"}


@pytest.mark.parametrize(
    ("command", "which"),
    [("keys", "database"), ("backup", "database"), ("restore", "backup")],
)
def test_no_other_command_does_either(command: str, which: str, tmp_path: Path) -> None:
    file = tmp_path / "quern.db"
    somebodys(file, file)
    before = file.read_bytes()
    other = tmp_path / "other"
    arguments = {"keys": ("create", "ann"), "backup": (str(tmp_path / "copy.db"),), "restore": (str(file),)}[command]
    result = run(command, *arguments, folder=other if command == "restore" else tmp_path)
    assert result.returncode == 1, result.stdout + result.stderr
    assert f"The {which} {file} belongs to another program: its tables (songs) are not Quern's" in result.stderr
    assert file.read_bytes() == before
    assert not (other / "quern.db").exists()
    assert not (tmp_path / "copy.db").exists()


def test_after_the_sentences_advice_a_server_starts(tmp_path: Path) -> None:
    file = tmp_path / "quern.db"
    file.touch()
    refused = run("serve", "--engine", "fake", "--port", "0", folder=tmp_path)
    assert f"remove it (`rm {file}`) and start again" in refused.stderr
    file.unlink()
    server = ServerProcess(tmp_path, "--engine", "fake").wait_until_ready()
    try:
        assert chat(server.url, "Say hello.")[1]
    finally:
        assert server.stop() == 0
