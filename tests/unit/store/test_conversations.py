"""Lists page by page, owners kept apart, and deletion that leaves nothing."""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from tempfile import TemporaryDirectory
from typing import TypeVar

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import text
from tests.unit.store.pieces import piece
from tests.unit.store.stored_turns import active_turn_of

from quern.errors import InvalidRequest, StoreError
from quern.records import Conversation, Page, StoredItem
from quern.sampling import SamplingParams
from quern.store.conversations import ConversationStore
from quern.store.database import Database
from quern.store.history import HistoryStore
from quern.store.items import NewItem
from quern.store.turn_rows import NewTurn, TurnEnd
from quern.store.turns import TurnStore
from quern.types import FinishReason, Message, Role, Timings, TurnState, Usage

NOW = datetime(2026, 5, 1, tzinfo=UTC)
Item = TypeVar("Item", Conversation, StoredItem)


async def all_pages(read: Callable[[str | None], Awaitable[Page[Item]]], limit: int) -> list[Item]:
    """Read page after page as a client does."""
    items: list[Item] = []
    after = None
    while True:
        page = await read(after)
        assert len(page.items) == limit or not page.has_more
        items += page.items
        if not page.has_more:
            return items
        after = page.items[-1].id


async def test_a_conversation_is_its_owner_s_alone(
    conversations: ConversationStore, turns: TurnStore, new_turn: Callable[..., NewTurn]
) -> None:
    turn = new_turn()
    await turns.create(turn)
    conversation_id = str(turn.conversation_id)
    assert await conversations.get(conversation_id, "ann") == Conversation(
        conversation_id, "ann", turn.created_at, turn.created_at
    )
    assert await conversations.get(conversation_id, "bob") is None
    assert await conversations.page("bob", limit=5, after=None) == Page(items=(), has_more=False)
    assert await conversations.delete(conversation_id, "bob") is False
    assert await conversations.delete_all("bob") == []
    assert await conversations.get(conversation_id, "ann") is not None


async def test_a_conversation_can_begin_without_a_turn_and_carry_its_owners_notes(
    database: Database, conversations: ConversationStore, turns: TurnStore, new_turn: Callable[..., NewTurn]
) -> None:
    noted = Conversation("c1", "ann", NOW, NOW, {"title": "冒泡\x00", "": "empty"})
    await conversations.create(noted, [])
    assert await conversations.get("c1", "ann") == noted
    assert (await conversations.page("ann", limit=5, after=None)).items == (noted,)
    assert await conversations.get("c1", "bob") is None
    await turns.create(new_turn(conversation_id="c1", new_conversation=False))
    assert await active_turn_of(database, "c1") is not None
    begun_by_a_turn = new_turn()
    await turns.create(begun_by_a_turn)
    conversation = await conversations.get(str(begun_by_a_turn.conversation_id), "ann")
    assert conversation is not None
    assert conversation.metadata is None


async def test_notes_are_replaced_by_their_owner_alone(conversations: ConversationStore) -> None:
    await conversations.create(Conversation("c1", "ann", NOW, NOW, {"title": "old", "more": "x"}), [])
    assert await conversations.change("c1", "bob", {"metadata": {"title": "his"}}) is False
    assert await conversations.change("unknown", "ann", {"metadata": {}}) is False
    assert await conversations.change("c1", "ann", {"metadata": {"title": "new"}}) is True
    conversation = await conversations.get("c1", "ann")
    assert conversation is not None
    assert (conversation.metadata, conversation.updated_at) == ({"title": "new"}, NOW)
    await conversations.change("c1", "ann", {"metadata": {}})
    assert await conversations.get("c1", "ann") == Conversation("c1", "ann", NOW, NOW, {})


async def test_a_conversation_that_exists_is_not_begun_again(conversations: ConversationStore) -> None:
    await conversations.create(Conversation("c1", "ann", NOW, NOW, {}), [NewItem("i1", Message(Role.USER, "x"))])
    with pytest.raises(StoreError, match=r"conversations\.id"):
        await conversations.create(Conversation("c1", "bob", NOW, NOW, {}), [NewItem("i2", Message(Role.USER, "y"))])
    assert await conversations.get("c1", "bob") is None


@pytest.mark.parametrize("conversation_id", ["unknown", "", "\x00", "\udc80"])
async def test_an_id_that_can_t_exist_is_simply_not_found(
    conversations: ConversationStore, history: HistoryStore, conversation_id: str
) -> None:
    assert await conversations.get(conversation_id, "ann") is None
    assert await conversations.delete(conversation_id, "ann") is False
    assert await history.of_conversation(conversation_id, "ann") is None


async def test_the_newest_activity_comes_first(
    conversations: ConversationStore,
    turns: TurnStore,
    new_turn: Callable[..., NewTurn],
    ended: Callable[..., TurnEnd],
) -> None:
    first, second, third = new_turn(), new_turn(), new_turn()
    for turn in (first, second, third):
        await turns.create(turn)
    end = ended(first.id)
    await turns.finish(end)
    page = await conversations.page("ann", limit=2, after=None)
    assert [conversation.id for conversation in page.items] == [first.conversation_id, third.conversation_id]
    assert page.items[0].updated_at == end.finished_at
    assert page.has_more


async def test_a_cursor_from_elsewhere_is_refused(
    conversations: ConversationStore, history: HistoryStore, turns: TurnStore, new_turn: Callable[..., NewTurn]
) -> None:
    mine, other = new_turn(), new_turn(owner="bob")
    await turns.create(mine)
    await turns.create(other)
    for after in ("unknown", "\ud800", other.conversation_id):
        with pytest.raises(InvalidRequest) as refused:
            await conversations.page("ann", limit=5, after=after)
        assert refused.value.field == "after"
    others = await history.page(str(other.conversation_id), limit=5, after=None)
    for after in ("unknown", "\x00", others.items[0].id):
        with pytest.raises(InvalidRequest) as refused:
            await history.page(str(mine.conversation_id), limit=5, after=after)
        assert refused.value.field == "after"


async def test_deleting_takes_turns_items_and_journal_along(
    database: Database, conversations: ConversationStore, turns: TurnStore, new_turn: Callable[..., NewTurn]
) -> None:
    several = [new_turn(), new_turn(), new_turn(conversation_id=None)]
    kept = new_turn(owner="bob")
    for turn in (*several, kept):
        await turns.create(turn)
        await turns.append([piece(turn.id, 1, "x")])
    assert await conversations.delete(str(several[0].conversation_id), "ann") is True
    assert await conversations.delete(str(several[0].conversation_id), "ann") is False
    assert len(await conversations.delete_all("ann")) == 1
    async with database.transaction() as connection:
        left = (await connection.execute(text("SELECT turn_id FROM items"))).scalars().all()
        assert left == [kept.id]
        left = (await connection.execute(text("SELECT id FROM turns"))).scalars().all()
        assert set(left) == {kept.id, several[2].id}
        left = (await connection.execute(text("SELECT turn_id FROM turn_events"))).scalars().all()
        assert set(left) == {kept.id, several[2].id}


@settings(max_examples=12, deadline=None)
@given(
    activity=st.lists(st.integers(0, 3), max_size=12),
    exchanges=st.integers(0, 6),
    limit=st.integers(1, 5),
)
def test_the_pages_together_are_everything_in_order(activity: list[int], exchanges: int, limit: int) -> None:
    async def scenario(folder: str) -> None:
        database = Database(f"sqlite+aiosqlite:///{folder}/quern.db")
        await database.open()
        turns, conversations, history = TurnStore(database), ConversationStore(database), HistoryStore(database)
        for number, seconds in enumerate(activity):
            await say(turns, f"c{number}", f"t{number}", NOW + timedelta(seconds=seconds), new=True)
        listed = await all_pages(lambda after: conversations.page("ann", limit=limit, after=after), limit)
        expected = sorted(((seconds, f"c{number}") for number, seconds in enumerate(activity)), reverse=True)
        assert [conversation.id for conversation in listed] == [name for _, name in expected]

        await say(turns, "long", "first", NOW, new=True)
        for number in range(exchanges):
            await say(turns, "long", f"more{number}", NOW, new=False)
        read = await all_pages(lambda after: history.page("long", limit=limit, after=after), limit)
        assert [item.position for item in read] == list(range(2 * exchanges + 2))
        exchange = [Message(Role.USER, "Question?"), Message(Role.ASSISTANT, "Answer.")]
        assert [item.item for item in read] == exchange * (exchanges + 1)
        await database.close()

    with TemporaryDirectory() as folder:
        asyncio.run(scenario(folder))


async def say(turns: TurnStore, conversation_id: str, turn_id: str, now: datetime, *, new: bool) -> None:
    """A whole exchange: a question and its answer."""
    question = NewItem(f"question of {turn_id}", Message(Role.USER, "Question?"))
    answer = NewItem(f"answer of {turn_id}", Message(Role.ASSISTANT, "Answer."))
    await turns.create(NewTurn(turn_id, "ann", "r", "m", (question,), SamplingParams(), now, conversation_id, new))
    end = TurnEnd(turn_id, TurnState.COMPLETED, FinishReason.STOP, None, "Answer.", Usage(), Timings(), now, (answer,))
    await turns.finish(end)
