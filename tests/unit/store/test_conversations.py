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

from quern.errors import InvalidRequest
from quern.store.conversations import Conversation, ConversationStore, Page, StoredMessage
from quern.store.database import Database
from quern.store.turns import JournalEntry, NewTurn, TurnEnd, TurnStore
from quern.types import FinishReason, Role, SamplingParams, Timings, TurnState, Usage

NOW = datetime(2026, 5, 1, tzinfo=UTC)
Item = TypeVar("Item", Conversation, StoredMessage)


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
    assert await conversations.delete_all("bob") == 0
    assert await conversations.get(conversation_id, "ann") is not None


@pytest.mark.parametrize("conversation_id", ["unknown", "", "\x00", "\udc80"])
async def test_an_id_that_can_t_exist_is_simply_not_found(
    conversations: ConversationStore, conversation_id: str
) -> None:
    assert await conversations.get(conversation_id, "ann") is None
    assert await conversations.delete(conversation_id, "ann") is False
    assert await conversations.history(conversation_id) == []


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
    conversations: ConversationStore, turns: TurnStore, new_turn: Callable[..., NewTurn]
) -> None:
    mine, other = new_turn(), new_turn(owner="bob")
    await turns.create(mine)
    await turns.create(other)
    for after in ("unknown", "\ud800", other.conversation_id):
        with pytest.raises(InvalidRequest) as refused:
            await conversations.page("ann", limit=5, after=after)
        assert refused.value.field == "after"
    others = await conversations.messages(str(other.conversation_id), limit=5, after=None)
    for after in ("unknown", "\x00", others.items[0].id):
        with pytest.raises(InvalidRequest) as refused:
            await conversations.messages(str(mine.conversation_id), limit=5, after=after)
        assert refused.value.field == "after"


async def test_deleting_takes_turns_messages_and_journal_along(
    database: Database, conversations: ConversationStore, turns: TurnStore, new_turn: Callable[..., NewTurn]
) -> None:
    several = [new_turn(), new_turn(), new_turn(conversation_id=None)]
    kept = new_turn(owner="bob")
    for turn in (*several, kept):
        await turns.create(turn)
        await turns.append([JournalEntry(turn.id, 1, "x")])
    assert await conversations.delete(str(several[0].conversation_id), "ann") is True
    assert await conversations.delete(str(several[0].conversation_id), "ann") is False
    assert await conversations.delete_all("ann") == 1
    async with database.transaction() as connection:
        left = (await connection.execute(text("SELECT turn_id FROM messages"))).scalars().all()
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
        turns, conversations = TurnStore(database), ConversationStore(database)
        for number, seconds in enumerate(activity):
            await say(turns, f"c{number}", f"t{number}", NOW + timedelta(seconds=seconds), new=True)
        listed = await all_pages(lambda after: conversations.page("ann", limit=limit, after=after), limit)
        expected = sorted(((seconds, f"c{number}") for number, seconds in enumerate(activity)), reverse=True)
        assert [conversation.id for conversation in listed] == [name for _, name in expected]

        await say(turns, "long", "first", NOW, new=True)
        for number in range(exchanges):
            await say(turns, "long", f"more{number}", NOW, new=False)
        read = await all_pages(lambda after: conversations.messages("long", limit=limit, after=after), limit)
        assert [message.position for message in read] == list(range(2 * exchanges + 2))
        assert [message.role for message in read] == [Role.USER, Role.ASSISTANT] * (exchanges + 1)
        await database.close()

    with TemporaryDirectory() as folder:
        asyncio.run(scenario(folder))


async def say(turns: TurnStore, conversation_id: str, turn_id: str, now: datetime, *, new: bool) -> None:
    """A whole exchange: a question and its answer."""
    await turns.create(NewTurn(turn_id, "ann", "r", "m", "Question?", SamplingParams(), now, conversation_id, new))
    end = TurnEnd(turn_id, TurnState.COMPLETED, FinishReason.STOP, None, "Answer.", Usage(), Timings(), now)
    await turns.finish(end)
