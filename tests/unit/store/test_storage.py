"""How much owners have stored: counted whatever happens to it, and bounded."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime

import pytest
from sqlalchemy import text
from tests.unit.store.example_items import CALLING, NOON, QUESTION, RESULTS, new_item
from tests.unit.store.stored_turns import STOPPED

from quern.errors import StorageExceeded
from quern.records import AuditEntry, Conversation, ConversationCopy, NewResponse, StorageQuota
from quern.store.conversations import ConversationStore
from quern.store.database import Database
from quern.store.history import HistoryStore
from quern.store.keys import KeyStore
from quern.store.responses import ResponseStore
from quern.store.storage import StorageStore
from quern.store.transfer import TransferStore
from quern.store.turn_rows import JournalEntry, NewTurn, ReopenedTurn, TurnEnd
from quern.store.turns import TurnStore
from quern.types import TurnState

COUNTED_ANEW = """
SELECT owner, sum(size) AS size FROM (
    SELECT owner, length(CAST(coalesce(metadata, '') || coalesce(title, '') AS BLOB)) AS size FROM conversations
    UNION ALL
    SELECT owner, length(CAST(coalesce(text, '') || coalesce(asked, '') AS BLOB)) FROM turns
    UNION ALL
    SELECT turns.owner, length(CAST(body AS BLOB)) FROM responses JOIN turns ON turns.id = turn_id
    UNION ALL
    SELECT coalesce(turns.owner, conversations.owner), length(CAST(content AS BLOB)) FROM items
    LEFT JOIN turns ON turns.id = turn_id LEFT JOIN conversations ON conversations.id = items.conversation_id
) GROUP BY owner HAVING sum(size) > 0
"""


class Stores:
    """All that write what is counted."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self.storage = StorageStore(database)
        self.turns = TurnStore(database)
        self.conversations = ConversationStore(database)
        self.history = HistoryStore(database)
        self.responses = ResponseStore(database)
        self.transfer = TransferStore(database)
        self.keys = KeyStore(database)

    async def counted(self) -> dict[str, int]:
        """By owner; it is what is there."""
        async with self.database.transaction() as connection:
            there = {row.owner: row.size for row in await connection.execute(text(COUNTED_ANEW))}
        counted = {owner: size for owner, size in (await self.storage.by_owner()).items() if size}
        assert counted == there
        return counted


@pytest.fixture
def stores(database: Database) -> Stores:
    return Stores(database)


async def test_text_counts_in_bytes_from_when_it_is_stored_until_it_is_deleted(
    stores: Stores,
    new_turn: Callable[..., NewTurn],
    ended: Callable[..., TurnEnd],
) -> None:
    assert await stores.storage.by_owner("ann") == {}
    turn = new_turn(prompt="sortieren: ä, 你")
    await stores.turns.create(turn)
    said = len("sortieren: ä, 你".encode())
    assert (await stores.storage.by_owner("ann"))["ann"] == said
    await stores.turns.finish(ended(turn.id, text="答え"))
    answer = 2 * len("答え".encode())
    assert await stores.counted() == {"ann": said + answer}, "the text, and the answer's item"
    one_shot = new_turn(conversation_id=None, prompt="kept by nobody")
    await stores.turns.create(one_shot)
    await stores.turns.finish(ended(one_shot.id, text=None))
    assert await stores.counted() == {"ann": said + answer}
    assert await stores.conversations.delete(str(turn.conversation_id), "ann")
    assert await stores.counted() == {}


async def test_whatever_happens_the_count_is_what_is_there(
    stores: Stores,
    new_turn: Callable[..., NewTurn],
    ended: Callable[..., TurnEnd],
) -> None:
    chance = random.Random(11)
    answered: list[NewTurn] = []
    for number in range(40):
        owner = chance.choice(["ann", "bob"])
        response = NewResponse(None, background=False, body={"model": "ü" * number}) if number % 3 else None
        new = new_turn(owner=owner, prompt="ß" * chance.randrange(50), response=response)
        if number % 3 == 2:
            new = replace(new, conversation_id=None)
        new = replace(new, title="Titel ☃", asked={"instructions": "kurz"} if number % 2 else None)
        await stores.turns.create(new)
        state = chance.choice([TurnState.COMPLETED, TurnState.FAILED])
        items = [*CALLING, *RESULTS] if number % 5 == 0 else None
        await stores.turns.finish(ended(new.id, text="é" * chance.randrange(30), items=items, state=state))
        answered.append(replace(new, title=state.value))
    await stores.counted()
    mine = [turn for turn in answered if turn.conversation_id is not None]
    ids = [(str(turn.conversation_id), turn.owner) for turn in mine]
    await stores.history.append(ids[0][0], [new_item(QUESTION)], NOON)
    await stores.conversations.change(*ids[1], {"metadata": {"färbe": "blau"}, "title": None})
    page = await stores.history.page(ids[2][0], limit=9, after=None)
    await stores.history.delete(ids[2][0], page.items[0].id, NOON)
    copy = await stores.transfer.read(*ids[3])
    assert copy is not None
    await stores.transfer.write([_renamed(copy)])
    failed = next(turn for turn in mine[4:] if turn.title == TurnState.FAILED)
    again = ReopenedTurn(failed.id, failed.owner, TurnState.FAILED, (), "so far", {}, failed.sampling)
    await stores.turns.reopen(again)
    await stores.counted()
    await stores.turns.append([JournalEntry(failed.id, 1, 1, ("and more",))])
    await stores.turns.recover_interrupted(datetime.now(UTC), STOPPED)
    for turn in answered:
        record = await stores.responses.get(turn.id, turn.owner)
        if record is not None and chance.random() < 0.5:
            await stores.responses.delete(record)
    before = await stores.counted()
    await stores.keys.adopt("bob", "carl", AuditEntry(NOON, "x", "adopt", "y", {}))
    assert await stores.counted() == {"ann": before["ann"], "carl": before["bob"]}
    for owner in ("ann", "carl"):
        await stores.conversations.delete_all(owner)
        await stores.counted()
        await stores.responses.delete_all(owner)
    assert await stores.counted() == {}


def _renamed(copy: ConversationCopy) -> ConversationCopy:
    conversation = replace(copy.conversation, id="copied")
    turns = tuple(
        replace(one, record=replace(one.record, id="t" + one.record.id, conversation_id="copied")) for one in copy.turns
    )
    items = tuple(
        replace(one, id="i" + one.id, conversation_id="copied", turn_id=one.turn_id and "t" + one.turn_id)
        for one in copy.items
    )
    return replace(copy, conversation=conversation, turns=turns, items=items)


async def test_what_would_be_too_much_is_refused_and_nothing_of_it_stored(
    stores: Stores,
    new_turn: Callable[..., NewTurn],
    ended: Callable[..., TurnEnd],
) -> None:
    quota = StorageQuota("ann", 100)
    first = replace(new_turn(prompt="x" * 100), quota=quota)
    await stores.turns.create(first)
    await stores.turns.finish(ended(first.id, text="whatever was begun is stored whole"))
    stored = (await stores.storage.by_owner())["ann"]
    assert stored > 100
    more = new_turn(conversation_id=first.conversation_id, new_conversation=False, prompt="y")
    empty = Conversation("c", "ann", NOON, NOON)
    for refused in (
        stores.turns.create(replace(more, quota=quota)),
        stores.turns.create(replace(new_turn(prompt=""), quota=quota)),
        stores.conversations.create(empty, [new_item(QUESTION)], quota),
        stores.history.append(str(first.conversation_id), [new_item(QUESTION)], NOON, quota),
    ):
        with pytest.raises(StorageExceeded, match="storage_mib"):
            await refused
    assert (await stores.storage.by_owner())["ann"] == stored
    assert await stores.conversations.get("c", "ann") is None
    await stores.turns.create(replace(new_turn(owner="bob"), quota=StorageQuota("bob", 100)))
    await stores.turns.create(replace(new_turn(conversation_id=None), quota=quota))
    assert await stores.conversations.delete(str(first.conversation_id), "ann")
    await stores.turns.create(replace(new_turn(prompt="y" * 100), quota=quota))


async def test_a_turn_is_refused_by_what_is_said_in_it_too(stores: Stores, new_turn: Callable[..., NewTurn]) -> None:
    with pytest.raises(StorageExceeded):
        await stores.turns.create(replace(new_turn(prompt="ä" * 51), quota=StorageQuota("ann", 100)))
    assert await stores.storage.by_owner() == {}
    await stores.turns.create(replace(new_turn(prompt="ä" * 50), quota=StorageQuota("ann", 100)))
