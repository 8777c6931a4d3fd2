"""Opening and closing: the file, its lock, its settings, and a sentence for everything that can be wrong with it."""

import asyncio
import logging
import random
import sqlite3
import subprocess
import sys
import threading
import traceback
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path

import pytest
from sqlalchemy import text
from tests.unit.store.stored_turns import active_turn_of, stored_turn

from quern.errors import StoreError
from quern.store import sqlite
from quern.store.database import Database
from quern.store.history import HistoryStore
from quern.store.turn_rows import NewTurn, TurnEnd
from quern.store.turns import TurnStore

WRITER = Path(__file__).with_name("writer_process.py")


def url_of(file: Path) -> str:
    return f"sqlite+aiosqlite:///{file}"


async def refusal(url: str) -> str:
    """The sentence with which a database refuses to open."""
    database = Database(url, claim_seconds=0)
    with pytest.raises(StoreError) as refused:
        await database.open()
    await database.close()
    return str(refused.value)


def overwrite(file: Path, content: bytes) -> None:
    file.parent.mkdir(exist_ok=True)
    file.write_bytes(content)


def content_of(file: Path) -> bytes:
    return file.read_bytes()


@contextmanager
def running_writer(file: Path) -> Generator[subprocess.Popen[str]]:
    command = [sys.executable, str(WRITER), url_of(file), "t1"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "open\n"
        yield process
        process.kill()


async def test_a_missing_folder_and_file_are_created_for_this_user_alone(tmp_path: Path) -> None:
    file = tmp_path / "some" / "where" / "quern.db"
    database = Database(url_of(file))
    await database.open()
    assert file.parent.stat().st_mode & 0o777 == 0o700
    assert {path.name: path.stat().st_mode & 0o777 for path in file.parent.iterdir()}.items() >= {
        ("quern.db", 0o600),
        ("quern.db.lock", 0o600),
    }
    assert all(path.stat().st_mode & 0o077 == 0 for path in file.parent.iterdir())
    await database.close()


async def test_sqlite_is_set_up_for_durability(database: Database) -> None:
    async with database.transaction() as connection:
        settings = {
            name: (await connection.execute(text(f"PRAGMA {name}"))).scalar_one()
            for name in ("synchronous", "foreign_keys", "journal_mode", "busy_timeout")
        }
    full = 2
    mode = sqlite.journal_mode(sqlite3.sqlite_version_info).lower()
    assert settings == {"synchronous": full, "foreign_keys": 1, "journal_mode": mode, "busy_timeout": 60000}


@pytest.mark.parametrize(
    ("version", "mode"), [((3, 40, 1), "TRUNCATE"), ((3, 51, 2), "TRUNCATE"), ((3, 51, 3), "WAL"), ((4, 0, 0), "WAL")]
)
def test_wal_is_used_only_where_it_is_sound(version: tuple[int, int, int], mode: str) -> None:
    assert sqlite.journal_mode(version) == mode


async def test_a_transaction_that_raises_leaves_nothing_behind(
    database: Database, turns: TurnStore, new_turn: Callable[..., NewTurn]
) -> None:
    turn = new_turn()
    await turns.create(turn)

    async def delete_everything_and_fail() -> None:
        async with database.transaction() as connection:
            await connection.execute(text("DELETE FROM conversations"))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await delete_everything_and_fail()
    assert await stored_turn(turns, turn.id) is not None


async def test_what_was_saved_is_there_after_closing_and_opening_again(
    database_file: Path, new_turn: Callable[..., NewTurn]
) -> None:
    turn = new_turn()
    for _ in range(2):
        database = Database(url_of(database_file))
        await database.open()
        if await stored_turn(TurnStore(database), turn.id) is None:
            await TurnStore(database).create(turn)
        await database.close()
    with sqlite3.connect(database_file) as connection:
        assert connection.execute("SELECT id FROM turns").fetchall() == [(turn.id,)]
    connection.close()


async def test_closing_twice_or_unopened_does_nothing_and_leaves_no_thread(database_file: Path) -> None:
    before = {*threading.enumerate()}
    database = Database(url_of(database_file))
    await database.close()
    await database.open()
    await database.close()
    await database.close()
    left = [thread for thread in threading.enumerate() if thread not in before and "asyncio" not in thread.name]
    for thread in left:  # one that was told to end may take a moment
        await asyncio.to_thread(thread.join, 10)
    assert not any(thread.is_alive() for thread in left)


async def test_a_closed_database_says_so(database: Database) -> None:
    await database.close()
    with pytest.raises(StoreError, match="closed"):
        await active_turn_of(database, "c1")


async def test_a_path_under_a_regular_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    sentence = await refusal(url_of(tmp_path / "file" / "quern.db"))
    assert f"{tmp_path}/file/quern.db can't be opened for writing: File exists" in sentence
    sentence = await refusal(url_of(tmp_path / "file" / "folder" / "quern.db"))
    assert "Not a directory" in sentence


async def test_a_folder_in_the_database_s_place_is_refused(tmp_path: Path) -> None:
    assert "is no file, but a folder" in await refusal(url_of(tmp_path))


async def test_a_file_that_is_no_database_is_refused_and_left_as_it_is(database_file: Path) -> None:
    garbage = random.Random(1).randbytes(5000)
    overwrite(database_file, garbage)
    assert "is not a database" in await refusal(url_of(database_file))
    assert content_of(database_file) == garbage


async def test_a_truncated_database_is_called_damaged(
    database_file: Path, database: Database, turns: TurnStore, new_turn: Callable[..., NewTurn]
) -> None:
    await turns.create(new_turn(prompt="long " * 20_000))
    await database.close()
    content = content_of(database_file)
    overwrite(database_file, content[: len(content) // 2])
    assert "is damaged" in await refusal(url_of(database_file))


async def test_overwritten_pages_are_called_damaged(
    database_file: Path, database: Database, turns: TurnStore, new_turn: Callable[..., NewTurn]
) -> None:
    turn = new_turn()
    await turns.create(turn)
    await database.close()
    content = content_of(database_file)
    overwrite(database_file, content[:4096] + b"\xff" * (len(content) - 4096))
    assert "is damaged" in await refusal(url_of(database_file))


async def test_a_full_disk_refuses_the_step_and_keeps_the_rest(
    database: Database, turns: TurnStore, new_turn: Callable[..., NewTurn], ended: Callable[..., TurnEnd]
) -> None:
    first = new_turn()
    await turns.create(first)
    await turns.finish(ended(first.id))
    async with database.transaction() as connection:
        pages = (await connection.execute(text("PRAGMA page_count"))).scalar_one()
        await connection.execute(text(f"PRAGMA max_page_count = {pages + 2}"))
    too_long = new_turn(conversation_id=first.conversation_id, new_conversation=False, prompt="x" * 1_000_000)
    with pytest.raises(StoreError, match="is full"):
        await turns.create(too_long)
    assert await stored_turn(turns, first.id) is not None
    assert await stored_turn(turns, too_long.id) is None
    async with database.transaction() as connection:
        await connection.execute(text("PRAGMA max_page_count = 100000"))
    await turns.create(too_long)
    assert await active_turn_of(database, str(first.conversation_id)) == too_long.id


async def test_a_read_only_database_says_so(
    database: Database, turns: TurnStore, new_turn: Callable[..., NewTurn]
) -> None:
    async with database.transaction() as connection:
        await connection.execute(text("PRAGMA query_only = ON"))
    with pytest.raises(StoreError, match="is read-only"):
        await turns.create(new_turn())


async def test_a_deleted_database_says_so(
    database: Database, turns: TurnStore, new_turn: Callable[..., NewTurn], database_file: Path
) -> None:
    await turns.create(new_turn())
    await asyncio.to_thread(database_file.unlink)
    with pytest.raises(StoreError, match="was deleted or moved away"):
        await turns.create(new_turn())


async def test_another_program_s_lock_is_waited_for_then_named(
    database_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite, "BUSY_TIMEOUT_SECONDS", 0.2)
    database = Database(url_of(database_file))
    await database.open()
    other = sqlite3.connect(database_file, isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    with pytest.raises(StoreError, match="Another program holds"):
        await active_turn_of(database, "c1")
    other.execute("COMMIT")
    other.close()
    assert await active_turn_of(database, "c1") is None
    await database.close()


async def test_a_second_server_on_the_same_file_is_refused_until_the_first_is_killed(database_file: Path) -> None:
    alias = database_file.with_name("alias.db")
    with running_writer(database_file) as process:
        alias.symlink_to(database_file)
        assert "in use by another Quern server or command" in await refusal(url_of(database_file))
        assert "in use by another Quern server or command" in await refusal(url_of(alias))
        assert process.poll() is None
    database = Database(url_of(database_file))
    await database.open()
    assert "in use by another Quern server or command" in await refusal(url_of(database_file))
    await database.close()


async def test_a_file_with_a_second_name_is_refused_under_either(database_file: Path) -> None:
    alias = database_file.with_name("alias.db")
    database = Database(url_of(database_file))
    await database.open()
    alias.hardlink_to(database_file)
    assert "2 names (hard links)" in await refusal(url_of(alias))
    await database.close()
    assert "2 names (hard links)" in await refusal(url_of(database_file))
    alias.unlink()
    await database.open()
    await database.close()


async def test_a_database_can_be_claimed_long_before_it_is_opened(database_file: Path) -> None:
    database = Database(url_of(database_file))
    await asyncio.to_thread(database.claim)
    assert "in use by another Quern server or command" in await refusal(url_of(database_file))
    await database.open()
    assert "in use by another Quern server or command" in await refusal(url_of(database_file))
    await database.close()
    other = Database(url_of(database_file))
    await other.open()
    await other.close()


async def test_a_database_that_vanishes_between_the_two_is_not_made_again_empty(database_file: Path) -> None:
    database = Database(url_of(database_file))
    await asyncio.to_thread(database.claim)
    await asyncio.to_thread(database_file.unlink)
    with pytest.raises(StoreError, match="can't be opened"):
        await database.open()
    assert not await asyncio.to_thread(database_file.exists)
    await database.open()
    await database.close()


async def test_a_database_that_failed_to_open_frees_its_lock(database_file: Path) -> None:
    overwrite(database_file, b"garbage" * 1000)
    assert "is not a database" in await refusal(url_of(database_file))
    await asyncio.to_thread(database_file.unlink)
    database = Database(url_of(database_file))
    await database.open()
    await database.close()


@pytest.mark.parametrize(
    "url",
    [
        "",
        "hunter2",
        "mysql+pymysql://ann:hunter2@db/quern",
        "sqlite+pysqlite:////tmp/hunter2.db",
        "postgresql+asyncpg://ann:hunter2@db/quern",
        "postgresql://ann:hunter2@db:not-a-port/quern",
    ],
)
async def test_an_unusable_url_is_refused_without_showing_it(url: str) -> None:
    database = Database(url, claim_seconds=0)
    with pytest.raises(StoreError) as refused:
        await database.open()
    assert "It must look like" in str(refused.value)
    assert "hunter2" not in "".join(traceback.format_exception(refused.value)) + repr(database)


@pytest.mark.parametrize("name", ["", "/:memory:", "/file:quern.db?uri=true"])
async def test_a_database_that_would_not_survive_is_refused(name: str) -> None:
    assert "keeps its database in a file" in await refusal(f"sqlite+aiosqlite://{name}")


async def test_prompts_are_in_no_log_line_and_no_error(
    database: Database,
    turns: TurnStore,
    new_turn: Callable[..., NewTurn],
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG)
    secret = "-".join(["what", "nobody", "else", "may", "read"])
    await turns.create(new_turn(prompt=secret))
    async with database.transaction() as connection:
        await connection.execute(text("PRAGMA query_only = ON"))
    with pytest.raises(StoreError) as refused:
        await turns.create(new_turn(prompt=secret))
    assert secret not in caplog.text
    assert secret not in "".join(traceback.format_exception(refused.value))


async def test_cancelled_steps_are_carried_out_and_the_database_goes_on(
    turns: TurnStore, history: HistoryStore, new_turn: Callable[..., NewTurn]
) -> None:
    chance = random.Random(7)
    begun = [new_turn() for _ in range(60)]
    tasks = [asyncio.ensure_future(turns.create(turn)) for turn in begun]
    await asyncio.sleep(0)
    for task in tasks:
        await asyncio.sleep(chance.random() * 0.004)
        task.cancel()
    outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    assert {type(outcome) for outcome in outcomes} <= {type(None), asyncio.CancelledError}
    assert any(isinstance(outcome, asyncio.CancelledError) for outcome in outcomes)
    for turn in begun:
        page = await history.page(str(turn.conversation_id), limit=5, after=None)
        assert [item.turn_id for item in page.items] == [turn.id]
