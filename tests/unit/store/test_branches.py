"""Branches in the store: paths through a conversation, and turns that stand on them."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from tests.unit.store.example_items import NOON, new_item

from quern.errors import ConversationBusy, ConversationNotFound
from quern.records import Fork
from quern.store.branches import BranchStore
from quern.store.conversations import ConversationStore
from quern.store.database import Database
from quern.store.history import HistoryStore
from quern.store.search import SearchStore
from quern.store.turn_rows import NewTurn, TurnEnd
from quern.store.turns import TurnStore
from quern.types import Message, Role

Build = Callable[..., NewTurn]
End = Callable[..., TurnEnd]


@pytest.fixture
def branches(database: Database) -> BranchStore:
    return BranchStore(database)


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


async def told(history: HistoryStore, turn: NewTurn, start: Fork | None = None) -> list[str]:
    items = await history.of_conversation(str(turn.conversation_id), "ann", start) or []
    return [item.content for item in items if isinstance(item, Message)]


async def test_a_turn_with_a_fork_begins_a_branch_that_goes_on(
    turns: TurnStore, history: HistoryStore, branches: BranchStore, new_turn: Build, ended: End
) -> None:
    first = await say(turns, new_turn, ended, "a")
    await say(turns, new_turn, ended, "b", first)
    await say(turns, new_turn, ended, "c", first, fork=Fork(0, 1))
    await say(turns, new_turn, ended, "d", first)
    assert await told(history, first) == ["a", "re a", "c", "re c", "d", "re d"]
    assert await told(history, first, Fork(0, 3)) == ["a", "re a", "b", "re b"]
    assert await told(history, first, Fork(1, 5)) == ["a", "re a", "c", "re c"]
    assert await told(history, first, Fork(0, -1)) == []
    await say(turns, new_turn, ended, "e", first, fork=Fork(0, -1))
    assert await told(history, first) == ["e", "re e"]
    found, items, records = await branches.of_conversation(str(first.conversation_id))
    assert [(branch.number, branch.fork) for branch in found] == [(1, Fork(0, 1)), (2, Fork(0, -1))]
    assert [item.branch for item in items] == [0] * 4 + [1] * 4 + [2] * 2
    assert [item.position for item in items] == list(range(10))
    assert [record.branch for record in records] == [0, 0, 1, 1, 2]
    await branches.choose(str(first.conversation_id), 0)
    assert await told(history, first) == ["a", "re a", "b", "re b"]
    page = await history.page(str(first.conversation_id), limit=10, after=None)
    assert [item.position for item in page.items] == [0, 1, 2, 3]


async def test_a_page_goes_on_along_the_path_only(
    turns: TurnStore, history: HistoryStore, new_turn: Build, ended: End
) -> None:
    first = await say(turns, new_turn, ended, "a")
    left = await say(turns, new_turn, ended, "b", first)
    await say(turns, new_turn, ended, "c", first, fork=Fork(0, 1))
    conversation = str(first.conversation_id)
    whole = await history.page(conversation, limit=10, after=None)
    for newest_first in (False, True):
        seen: list[int] = []
        after = None
        while True:
            page = await history.page(conversation, limit=1, after=after, newest_first=newest_first)
            seen += [item.position for item in page.items]
            if not page.has_more:
                break
            after = page.items[-1].id
        assert (
            seen
            == [item.position for item in whole.items][:: -1 if newest_first else 1]
            == ([5, 4, 1, 0] if newest_first else [0, 1, 4, 5])
        )
    elsewhere = left.items[0].id
    with pytest.raises(Exception, match="no item"):
        await history.page(conversation, limit=1, after=elsewhere)


async def test_no_branch_is_chosen_while_a_turn_is_active(
    turns: TurnStore, branches: BranchStore, new_turn: Build, ended: End
) -> None:
    first = await say(turns, new_turn, ended, "a")
    conversation = str(first.conversation_id)
    await turns.create(new_turn(conversation_id=conversation, new_conversation=False))
    with pytest.raises(ConversationBusy):
        await branches.choose(conversation, 0)


async def test_a_refused_turn_leaves_no_branch_and_the_head_where_it_was(
    turns: TurnStore, history: HistoryStore, branches: BranchStore, new_turn: Build, ended: End
) -> None:
    first = await say(turns, new_turn, ended, "a")
    conversation = str(first.conversation_id)
    await turns.create(new_turn(conversation_id=conversation, new_conversation=False, prompt="runs"))
    forked = replace(new_turn(conversation_id=conversation, new_conversation=False), fork=Fork(0, -1))
    with pytest.raises(ConversationBusy):
        await turns.create(forked)
    with pytest.raises(ConversationNotFound):
        await turns.create(replace(forked, owner="bob"))
    assert (await branches.of_conversation(conversation))[0] == []
    assert await told(history, first) == ["a", "re a"]


async def test_what_is_put_without_a_turn_stands_on_the_head(
    turns: TurnStore, history: HistoryStore, new_turn: Build, ended: End
) -> None:
    first = await say(turns, new_turn, ended, "a")
    await say(turns, new_turn, ended, "b", first, fork=Fork(0, -1))
    await history.append(str(first.conversation_id), [new_item(Message(Role.USER, "note"))], NOON)
    assert await told(history, first) == ["b", "re b", "note"]
    assert await told(history, first, Fork(0, 100)) == ["a", "re a"]


async def test_a_deleted_conversation_leaves_no_branch_and_no_row_of_the_index(
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
    assert await search.find("bob", ["heron"], limit=9, after=None) == []
    assert await conversations.delete(str(first.conversation_id), "ann")
    connection = sqlite3.connect(migrated_file)
    for table in ("branches", "items", "item_numbers", "item_search_docsize"):
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


async def test_only_old_conversations_that_are_not_pinned_are_deleted(
    turns: TurnStore, conversations: ConversationStore, new_turn: Build, ended: End
) -> None:
    old, pinned = await say(turns, new_turn, ended, "old"), await say(turns, new_turn, ended, "pinned")
    await conversations.change(str(pinned.conversation_id), "ann", {"pinned": True})
    assert await conversations.delete_older(old.created_at) == []
    assert len(await conversations.delete_older(datetime.now(UTC).replace(year=2100))) == 1
    assert [one.id for one in (await conversations.page("ann", limit=9, after=None)).items] == [pinned.conversation_id]
