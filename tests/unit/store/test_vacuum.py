"""Pages of deleted data go back to the disk, in a real file, while others use the database."""

from __future__ import annotations

import asyncio
import logging
import shutil
import sqlite3
from collections.abc import Awaitable, Callable, Generator
from contextlib import closing, suppress
from pathlib import Path
from types import SimpleNamespace

import pytest
import structlog
from tests.unit.store.stored_turns import stored_turn

from quern.errors import DiskFull
from quern.store import sqlite, vacuum
from quern.store.conversations import ConversationStore
from quern.store.database import Database
from quern.store.search import SearchStore
from quern.store.turn_rows import NewTurn, TurnEnd
from quern.store.turns import TurnStore
from quern.store.vacuum import Vacuum, pages, prepare, rebuild

MIB = 2**20


@pytest.fixture
def lines() -> Generator[list[str]]:
    """The names of what is logged."""
    with structlog.testing.capture_logs() as captured:
        names: list[str] = []
        yield names
        names += [line["event"] for line in captured]


def size_of(file: Path) -> int:
    return file.stat().st_size


def nearly_full(_: Path) -> SimpleNamespace:
    return SimpleNamespace(free=MIB)


def content_of(file: Path) -> bytes:
    return file.read_bytes()


def integrity(file: Path) -> str:
    with closing(sqlite3.connect(file)) as connection:
        connection.execute("INSERT INTO item_search (item_search) VALUES ('integrity-check')")
        return connection.execute("PRAGMA integrity_check").fetchone()[0]


def make_old(file: Path) -> None:
    """As a version made it that did not give pages back."""
    with closing(sqlite3.connect(file, isolation_level=None)) as connection:
        connection.execute("PRAGMA auto_vacuum=NONE")
        connection.execute("VACUUM")


Fill = Callable[..., Awaitable[NewTurn]]


@pytest.fixture
def fill(turns: TurnStore, new_turn: Callable[..., NewTurn], ended: Callable[..., TurnEnd]) -> Fill:
    """Store a conversation of a MiB."""

    async def stored(owner: str = "ann") -> NewTurn:
        turn = new_turn(owner=owner, prompt="wörter " * (MIB // 16))
        await turns.create(turn)
        await turns.finish(ended(turn.id, text="x" * (MIB // 2)))
        return turn

    return stored


async def test_the_file_shrinks_by_what_was_deleted_and_keeps_the_rest(
    database: Database, database_file: Path, turns: TurnStore, conversations: ConversationStore, fill: Fill
) -> None:
    kept = await fill()
    empty = size_of(database_file)
    gone = [await fill() for _ in range(4)]
    full = size_of(database_file)
    for turn in gone:
        assert await conversations.delete(str(turn.conversation_id), "ann")
    search, begin = SearchStore(database), True
    while await search.forget_deleted(begin=begin):
        begin = False
    before = size_of(database_file)
    assert before >= full
    freed = await Vacuum(database).give_back()
    assert size_of(database_file) == before - freed
    assert size_of(database_file) < empty + MIB / 4
    assert (await pages(database)).free == 0
    record = await stored_turn(turns, kept.id)
    assert record is not None
    assert record.text == "x" * (MIB // 2)
    await database.close()
    assert integrity(database_file) == "ok"


@pytest.mark.parametrize("mode", ["WAL", "TRUNCATE"])
async def test_the_file_itself_is_shorter_whatever_the_journal_is(
    mode: str,
    migrated_file: Path,
    new_turn: Callable[..., NewTurn],
    ended: Callable[..., TurnEnd],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def always(_: tuple[int, int, int]) -> str:
        return mode

    monkeypatch.setattr(sqlite, "journal_mode", always)
    database = Database(f"sqlite+aiosqlite:///{migrated_file}")
    await database.open()
    turns, turn = TurnStore(database), new_turn()
    await turns.create(turn)
    await turns.finish(ended(turn.id, text="x" * (2 * MIB), items=[]))
    await database.maintain("PRAGMA wal_checkpoint(TRUNCATE)")
    full = size_of(migrated_file)
    await ConversationStore(database).delete_all("ann")
    await Vacuum(database).give_back()
    assert size_of(migrated_file) < full - 2 * MIB
    async with database.transaction() as connection:
        assert (await connection.exec_driver_sql("PRAGMA journal_mode")).scalar_one() == mode.lower()
    await database.close()
    assert integrity(migrated_file) == "ok"


async def test_others_save_while_pages_are_given_back(
    database: Database, turns: TurnStore, conversations: ConversationStore, new_turn: Callable[..., NewTurn], fill: Fill
) -> None:
    for _ in range(8):
        await fill()
    await conversations.delete_all("ann")
    giving = asyncio.ensure_future(Vacuum(database).give_back())
    saved = 0
    while not giving.done():
        await turns.create(new_turn())
        saved += 1
    assert giving.result() > 4 * MIB
    assert saved >= 3


async def test_it_begins_by_itself_after_something_was_deleted(
    database: Database,
    database_file: Path,
    conversations: ConversationStore,
    fill: Fill,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(vacuum, "WAIT_SECONDS", 0.01)
    await fill()
    running = asyncio.ensure_future(Vacuum(database).run())
    full = size_of(database_file)
    await conversations.delete_all("ann")
    async with asyncio.timeout(20):
        while size_of(database_file) > full - MIB:
            await asyncio.sleep(0.01)
    running.cancel()
    with suppress(asyncio.CancelledError):
        await running


async def test_where_nothing_is_free_nothing_is_done_or_said(database: Database, lines: list[str]) -> None:
    await Vacuum(database).give_back()
    assert await Vacuum(database).give_back() == 0
    assert lines == []


async def test_an_old_database_is_written_anew_and_gives_pages_back_from_then_on(
    database: Database, database_file: Path, conversations: ConversationStore, fill: Fill
) -> None:
    kept = await fill()
    await fill("bob")
    await database.close()
    make_old(database_file)
    await database.open()
    assert not (await pages(database)).incremental
    await conversations.delete_all("bob")
    old = size_of(database_file)
    assert await Vacuum(database).give_back() == 0
    await prepare(database)
    assert (await pages(database)).incremental
    rebuilt = size_of(database_file)
    assert rebuilt < old - MIB
    assert await conversations.delete(str(kept.conversation_id), "ann")
    await Vacuum(database).give_back()
    assert size_of(database_file) < rebuilt - MIB
    await database.close()
    assert integrity(database_file) == "ok"


async def test_a_large_old_database_is_left_alone_at_start_with_a_word_in_the_log(
    database: Database, database_file: Path, fill: Fill, monkeypatch: pytest.MonkeyPatch
) -> None:
    await fill()
    await database.close()
    make_old(database_file)
    await database.open()
    monkeypatch.setattr(vacuum, "REBUILT_AT_START", MIB)
    before = content_of(database_file)
    with structlog.testing.capture_logs() as captured:
        await prepare(database)
    assert [(line["event"], "quern vacuum" in line["hint"]) for line in captured] == [("database_not_rebuilt", True)]
    assert content_of(database_file) == before
    assert (await rebuild(database))[0] == len(before)
    assert (await pages(database)).incremental


async def test_without_room_for_a_copy_an_old_database_stays_as_it_is_and_is_served(
    database: Database, database_file: Path, turns: TurnStore, fill: Fill, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = await fill()
    await database.close()
    make_old(database_file)
    await database.open()
    monkeypatch.setattr(shutil, "disk_usage", nearly_full)
    await prepare(database)
    assert not (await pages(database)).incremental
    with pytest.raises(DiskFull, match="1 MiB are free"):
        await rebuild(database)
    assert await stored_turn(turns, kept.id) is not None


async def test_what_is_given_back_is_in_no_log_line(
    database: Database, conversations: ConversationStore, fill: Fill, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    await fill()
    await conversations.delete_all("ann")
    await Vacuum(database).give_back()
    assert "wörter" not in caplog.text
