"""SQLite's index of what was said: it loses what is deleted, and nothing else."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from quern.records import Fork
from quern.store.conversations import ConversationStore
from quern.store.database import Database
from quern.store.search import SearchStore
from quern.store.turn_rows import NewTurn, TurnEnd
from quern.store.turns import TurnStore
from quern.types import Message

Build = Callable[..., NewTurn]
End = Callable[..., TurnEnd]


@pytest.fixture
def database_url(migrated_file: Path) -> str:
    return f"sqlite+aiosqlite:///{migrated_file}"


async def say(
    turns: TurnStore, new_turn: Build, ended: End, said: str, on: NewTurn | None = None, *, fork: Fork | None = None
) -> NewTurn:
    """A turn with its answer, in a conversation of its own or of another turn's."""
    turn = (
        new_turn(prompt=said)
        if on is None
        else new_turn(prompt=said, conversation_id=on.conversation_id, new_conversation=False)
    )
    turn = replace(turn, fork=fork)
    await turns.create(turn)
    await turns.finish(ended(turn.id, f"re {said}"))
    return turn


async def test_a_deleted_conversation_leaves_no_row_of_the_index(
    *,
    database: Database,
    migrated_file: Path,
    turns: TurnStore,
    conversations: ConversationStore,
    new_turn: Build,
    ended: End,
) -> None:
    first = await say(turns, new_turn, ended, "a heron")
    await say(turns, new_turn, ended, "another heron", first, fork=Fork(0, -1))
    search = SearchStore(database)
    assert len(await search.find("ann", ["heron"], limit=9, after=None)) == 4
    assert await conversations.delete(str(first.conversation_id), "ann")
    connection = sqlite3.connect(migrated_file)
    for table in ("item_numbers", "item_search_docsize"):
        assert connection.execute(f"SELECT count(*) FROM {table}").fetchone() == (0,), table
    connection.close()


async def test_the_index_survives_a_vacuum(
    *,
    database: Database,
    migrated_file: Path,
    turns: TurnStore,
    conversations: ConversationStore,
    new_turn: Build,
    ended: End,
) -> None:
    gone = await say(turns, new_turn, ended, "gone")
    await say(turns, new_turn, ended, "kept heron")
    await conversations.delete(str(gone.conversation_id), "ann")
    await database.close()
    connection = sqlite3.connect(migrated_file)
    connection.execute("VACUUM")
    connection.close()
    await database.open()
    found = await SearchStore(database).find("ann", ["kept", "heron"], limit=9, after=None)
    assert [one.item.item.content for one in found if isinstance(one.item.item, Message)] == [
        "re kept heron", "kept heron",
    ]  # fmt: skip
