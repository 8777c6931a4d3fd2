"""What was said in conversations: in order, changed only between turns, and never another owner's."""

import asyncio
from collections.abc import Awaitable, Callable
from uuid import uuid4

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.unit.store.example_items import ANSWER, CALLING, NOON, QUESTION, RESULTS, new_item

from quern.errors import ConversationBusy, ConversationNotFound, InvalidRequest
from quern.records import Conversation, StoredItem
from quern.store.conversations import ConversationStore
from quern.store.database import Database
from quern.store.history import HistoryStore
from quern.store.items import NewItem
from quern.store.turn_rows import NewTurn, TurnEnd
from quern.store.turns import TurnStore
from quern.types import Item, Message, Role, ToolCall, ToolResult, TurnState


async def items_of(history: HistoryStore, conversation_id: str | None) -> list[StoredItem]:
    return list((await history.page(str(conversation_id), limit=100, after=None)).items)


async def begun(conversations: ConversationStore, *items: Item, owner: str = "ann") -> str:
    """A conversation that was begun without a turn."""
    conversation = Conversation(str(uuid4()), owner, NOON, NOON, {})
    await conversations.create(conversation, [new_item(item) for item in items])
    return conversation.id


async def test_calls_and_their_results_come_back_in_order(
    history: HistoryStore, turns: TurnStore, new_turn: Callable[..., NewTurn], ended: Callable[..., TurnEnd]
) -> None:
    first = new_turn(items=[QUESTION])
    await turns.create(first)
    await turns.finish(ended(first.id, items=CALLING))
    second = new_turn(items=RESULTS, conversation_id=first.conversation_id, new_conversation=False)
    await turns.create(second)
    await turns.finish(ended(second.id, items=[ANSWER]))
    everything = [QUESTION, *CALLING, *RESULTS, ANSWER]
    assert await history.of_conversation(str(first.conversation_id), "ann") == everything
    stored = await items_of(history, first.conversation_id)
    assert [item.item for item in stored] == everything
    assert [item.position for item in stored] == list(range(7))
    assert [item.turn_id for item in stored] == [first.id] * 4 + [second.id] * 3
    assert [item.item for item in await history.of_turn(first.id)] == [QUESTION, *CALLING]
    assert await history.item(str(first.conversation_id), stored[2].id) == stored[2]


async def test_items_keep_the_ids_that_they_were_given(
    history: HistoryStore, turns: TurnStore, new_turn: Callable[..., NewTurn], ended: Callable[..., TurnEnd]
) -> None:
    turn = new_turn(items=[QUESTION, ANSWER])
    await turns.create(turn)
    end = ended(turn.id, items=CALLING)
    await turns.finish(end)
    stored = await items_of(history, turn.conversation_id)
    assert [item.id for item in stored] == [item.id for item in (*turn.items, *end.items)]


async def test_an_answer_without_text_is_an_empty_message_and_no_answer_is_none(
    history: HistoryStore, turns: TurnStore, new_turn: Callable[..., NewTurn], ended: Callable[..., TurnEnd]
) -> None:
    for items in ([Message(Role.ASSISTANT, "")], []):
        turn = new_turn(items=[QUESTION])
        await turns.create(turn)
        await turns.finish(ended(turn.id, items=items))
        assert await history.of_conversation(str(turn.conversation_id), "ann") == [QUESTION, *items]


async def test_items_without_a_turn_are_part_of_the_history(
    conversations: ConversationStore,
    history: HistoryStore,
    turns: TurnStore,
    new_turn: Callable[..., NewTurn],
    ended: Callable[..., TurnEnd],
) -> None:
    conversation_id = await begun(conversations, Message(Role.SYSTEM, "Be brief."), QUESTION)
    turn = new_turn(items=RESULTS, conversation_id=conversation_id, new_conversation=False)
    await turns.create(turn)
    assert await history.of_conversation(conversation_id, "ann") == [Message(Role.SYSTEM, "Be brief."), QUESTION]
    await turns.finish(ended(turn.id, items=[ANSWER]))
    note = Message(Role.USER, "By the way")
    await history.append(conversation_id, [new_item(note)], NOON)
    assert await history.of_conversation(conversation_id, "ann") == [
        Message(Role.SYSTEM, "Be brief."),
        QUESTION,
        *RESULTS,
        ANSWER,
        note,
    ]
    assert [item.turn_id for item in await items_of(history, conversation_id)] == [None] * 2 + [turn.id] * 3 + [None]


async def test_of_a_turn_that_did_not_complete_the_model_sees_nothing(
    history: HistoryStore, turns: TurnStore, new_turn: Callable[..., NewTurn], ended: Callable[..., TurnEnd]
) -> None:
    turn = new_turn(items=[QUESTION])
    await turns.create(turn)
    await turns.finish(ended(turn.id, items=CALLING, state=TurnState.CANCELLED))
    assert await history.of_conversation(str(turn.conversation_id), "ann") == []
    assert [item.item for item in await history.of_turn(turn.id)] == [QUESTION], "people still see what was asked"


async def test_appending_goes_to_the_end_and_is_activity(
    conversations: ConversationStore, history: HistoryStore
) -> None:
    conversation_id = await begun(conversations, QUESTION)
    later = NOON.replace(hour=13)
    await history.append(conversation_id, [new_item(item) for item in CALLING], later)
    await history.append(conversation_id, [], later.replace(hour=14))
    assert await history.of_conversation(conversation_id, "ann") == [QUESTION, *CALLING]
    assert [item.created_at for item in await items_of(history, conversation_id)] == [NOON] + [later] * 3
    conversation = await conversations.get(conversation_id, "ann")
    assert conversation is not None
    assert conversation.updated_at == later.replace(hour=14)


async def test_a_deleted_item_is_gone_and_the_others_stay_in_order(
    conversations: ConversationStore, history: HistoryStore
) -> None:
    conversation_id = await begun(conversations, QUESTION, *CALLING)
    stored = await items_of(history, conversation_id)
    assert await history.delete(conversation_id, stored[1].id, NOON) is True
    assert await history.delete(conversation_id, stored[1].id, NOON) is False
    assert await history.item(conversation_id, stored[1].id) is None
    await history.append(conversation_id, [new_item(ANSWER)], NOON)
    assert await history.of_conversation(conversation_id, "ann") == [QUESTION, *CALLING[1:], ANSWER]
    await history.delete(conversation_id, stored[-1].id, NOON)
    await history.append(conversation_id, [new_item(RESULTS[0])], NOON)
    assert await history.of_conversation(conversation_id, "ann") == [QUESTION, CALLING[1], ANSWER, RESULTS[0]]


async def test_asking_for_an_item_that_is_not_there_changes_nothing(
    conversations: ConversationStore, history: HistoryStore
) -> None:
    mine = await begun(conversations, QUESTION)
    other = await begun(conversations, ANSWER, owner="bob")
    before = await conversations.get(mine, "ann")
    for item_id in ("unknown", "\x00", (await items_of(history, other))[0].id):
        assert await history.item(mine, item_id) is None
        assert await history.delete(mine, item_id, NOON.replace(hour=20)) is False
    assert await conversations.get(mine, "ann") == before
    assert await history.of_conversation(other, "bob") == [ANSWER]
    assert await history.of_conversation(other, "ann") is None


@pytest.mark.parametrize("running", [False, True])
async def test_nothing_is_put_in_or_taken_out_while_a_turn_is_active(
    conversations: ConversationStore,
    history: HistoryStore,
    turns: TurnStore,
    new_turn: Callable[..., NewTurn],
    ended: Callable[..., TurnEnd],
    *,
    running: bool,
) -> None:
    turn = new_turn(items=[QUESTION])
    await turns.create(turn)
    if running:
        await turns.append([], {turn.id: NOON})
    conversation_id = str(turn.conversation_id)
    [stored] = await items_of(history, conversation_id)
    before = await conversations.get(conversation_id, "ann")
    with pytest.raises(ConversationBusy, match="queued or running"):
        await history.append(conversation_id, [new_item(ANSWER)], NOON)
    with pytest.raises(ConversationBusy, match="queued or running"):
        await history.delete(conversation_id, stored.id, NOON)
    assert await items_of(history, conversation_id) == [stored]
    assert await conversations.get(conversation_id, "ann") == before
    await turns.finish(ended(turn.id, items=[]))
    await history.append(conversation_id, [new_item(ANSWER)], NOON)
    assert await history.delete(conversation_id, stored.id, NOON)
    assert await history.of_conversation(conversation_id, "ann") == [ANSWER]


async def test_a_turn_of_another_conversation_is_in_nobodys_way(
    conversations: ConversationStore, history: HistoryStore, turns: TurnStore, new_turn: Callable[..., NewTurn]
) -> None:
    await turns.create(new_turn())
    conversation_id = await begun(conversations)
    await history.append(conversation_id, [new_item(QUESTION)], NOON)
    assert await history.of_conversation(conversation_id, "ann") == [QUESTION]


async def test_nothing_can_be_put_into_a_conversation_that_was_deleted(
    conversations: ConversationStore, history: HistoryStore, rows: Callable[[], Awaitable[dict[str, int]]]
) -> None:
    conversation_id = await begun(conversations, QUESTION)
    await conversations.delete(conversation_id, "ann")
    with pytest.raises(ConversationNotFound):
        await history.append(conversation_id, [new_item(ANSWER)], NOON)
    assert not any((await rows()).values())


@pytest.mark.parametrize(
    "item",
    [
        Message(Role.SYSTEM, "\x00"),
        ToolCall("call_1", "f", '"\ud800"'),
        ToolCall("call_1", "f\x00", "{}"),
        ToolCall("\udfff", "f", "{}"),
        ToolResult("call_1", "\x00"),
        ToolResult("\x00", "fine"),
    ],
)
async def test_what_can_t_be_stored_is_refused_wherever_it_stands(
    conversations: ConversationStore,
    history: HistoryStore,
    turns: TurnStore,
    new_turn: Callable[..., NewTurn],
    rows: Callable[[], Awaitable[dict[str, int]]],
    *,
    item: Item,
) -> None:
    conversation_id = await begun(conversations, QUESTION)
    before = await rows()
    for refused in (
        history.append(conversation_id, [new_item(ANSWER), new_item(item)], NOON),
        begun(conversations, ANSWER, item),
        turns.create(new_turn(items=[QUESTION, item])),
    ):
        with pytest.raises(InvalidRequest, match="NUL"):
            await refused
    assert await rows() == before


async def test_items_are_found_by_id_for_their_owner_alone(
    conversations: ConversationStore, history: HistoryStore, turns: TurnStore, new_turn: Callable[..., NewTurn]
) -> None:
    mine, other = await begun(conversations, QUESTION), await begun(conversations, ANSWER, owner="bob")
    asked = new_turn(items=[RESULTS[0]], owner="ann")
    await turns.create(asked)
    [in_mine], [in_other] = await items_of(history, mine), await items_of(history, other)
    ids = [in_mine.id, in_other.id, asked.items[0].id, "unknown"]
    assert await history.owned(ids, "ann") == {in_mine.id: QUESTION, asked.items[0].id: RESULTS[0]}
    assert await history.owned(ids, "bob") == {in_other.id: ANSWER}


@settings(max_examples=15, deadline=None)
@given(
    count=st.integers(0, 12),
    deleted=st.sets(st.integers(0, 11)),
    limit=st.integers(1, 5),
    newest_first=st.booleans(),
)
def test_the_pages_together_are_everything_in_either_direction(
    new_url: Callable[[], str], count: int, deleted: set[int], limit: int, newest_first: bool
) -> None:
    async def scenario() -> None:
        database = Database(new_url())
        await database.open()
        history = HistoryStore(database)
        conversation = Conversation("c", "ann", NOON, NOON)
        new = [NewItem(f"i{number}", Message(Role.USER, str(number))) for number in range(count)]
        await ConversationStore(database).create(conversation, new)
        for number in deleted:
            await history.delete("c", f"i{number}", NOON)
        read: list[str] = []
        more = True
        while more:
            after = read[-1] if read else None
            page = await history.page("c", limit=limit, after=after, newest_first=newest_first)
            assert len(page.items) == limit or not page.has_more
            read += [item.id for item in page.items]
            more = page.has_more
        kept = [f"i{number}" for number in range(count) if number not in deleted]
        assert read == (kept[::-1] if newest_first else kept)
        await database.close()

    asyncio.run(scenario())


@pytest.mark.parametrize("newest_first", [False, True])
async def test_a_cursor_that_was_deleted_is_refused_by_name(
    conversations: ConversationStore, history: HistoryStore, newest_first: bool
) -> None:
    conversation_id = await begun(conversations, QUESTION, *CALLING)
    stored = await items_of(history, conversation_id)
    await history.delete(conversation_id, stored[1].id, NOON)
    with pytest.raises(InvalidRequest, match="was deleted") as refused:
        await history.page(conversation_id, limit=2, after=stored[1].id, newest_first=newest_first)
    assert refused.value.field == "after"
