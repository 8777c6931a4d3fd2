"""A turn's life: one active turn per conversation, exactly one end, and a journal until then."""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import pytest
from sqlalchemy import text
from sqlalchemy.exc import IntegrityError
from tests.unit.store.pieces import piece
from tests.unit.store.stored_turns import active_turn_of, stored_turn

from quern.errors import ConversationBusy, ConversationNotFound, StoreError
from quern.records import StoredItem
from quern.sampling import SamplingParams
from quern.store.conversations import ConversationStore
from quern.store.database import Database
from quern.store.history import HistoryStore
from quern.store.turn_ends import TurnAlreadyEnded
from quern.store.turn_rows import NewTurn, TurnEnd
from quern.store.turns import TurnStore
from quern.types import FinishReason, Message, Role, Timings, TurnState, Usage

START = datetime(2026, 3, 1, 9, 30, 0, 123456, tzinfo=UTC)


def bytes_on_disk(database_file: Path) -> bytes:
    return b"".join(path.read_bytes() for path in sorted(database_file.parent.iterdir()))


def said(stored: StoredItem) -> str:
    assert isinstance(stored.item, Message)
    return stored.item.content


async def test_a_turn_is_queued_then_running_then_completed(
    turns: TurnStore, new_turn: Callable[..., NewTurn], ended: Callable[..., TurnEnd]
) -> None:
    turn = new_turn()
    await turns.create(turn)
    queued = await stored_turn(turns, turn.id)
    assert queued is not None
    assert (queued.state, queued.text, queued.started_at, queued.finished_at) == (TurnState.QUEUED, None, None, None)
    assert (queued.usage, queued.timings) == (Usage(), Timings())
    await turns.append([], {turn.id: START})
    running = await stored_turn(turns, turn.id)
    assert running is not None
    assert running == replace(queued, state=TurnState.RUNNING, started_at=START)
    end = ended(turn.id)
    await turns.finish(end)
    assert await stored_turn(turns, turn.id) == replace(
        running,
        state=TurnState.COMPLETED,
        finish_reason=FinishReason.STOP,
        text=end.text,
        usage=end.usage,
        timings=end.timings,
        finished_at=end.finished_at,
    )


async def test_sampling_values_are_kept(database: Database, turns: TurnStore, new_turn: Callable[..., NewTurn]) -> None:
    await turns.create(new_turn(sampling=SamplingParams(seed=7, logit_bias={5: -1.5})))
    async with database.transaction() as connection:
        kept = (await connection.execute(text("SELECT sampling FROM turns"))).scalar_one()
    assert '"seed": 7' in kept
    assert '"logit_bias": {"5": -1.5}' in kept


async def test_times_of_any_zone_come_back_in_utc(turns: TurnStore, new_turn: Callable[..., NewTurn]) -> None:
    turn = new_turn()
    await turns.create(turn)
    await turns.append([], {turn.id: START.astimezone(timezone(timedelta(hours=8)))})
    record = await stored_turn(turns, turn.id)
    assert record is not None
    assert record.started_at is not None
    assert (record.started_at, record.started_at.tzinfo) == (START, UTC)


async def test_a_time_without_a_zone_is_refused(turns: TurnStore, new_turn: Callable[..., NewTurn]) -> None:
    turn = new_turn()
    await turns.create(turn)
    with pytest.raises(StoreError, match="has no time zone"):
        await turns.append([], {turn.id: START.replace(tzinfo=None)})


async def test_of_twenty_turns_at_once_exactly_one_enters_the_conversation(
    database: Database,
    rows: Callable[[], Awaitable[dict[str, int]]],
    turns: TurnStore,
    new_turn: Callable[..., NewTurn],
    ended: Callable[..., TurnEnd],
) -> None:
    first = new_turn()
    await turns.create(first)
    await turns.finish(ended(first.id))
    rivals = [new_turn(conversation_id=first.conversation_id, new_conversation=False) for _ in range(20)]
    outcomes = await asyncio.gather(*map(turns.create, rivals), return_exceptions=True)
    assert Counter(map(type, outcomes)) == {type(None): 1, ConversationBusy: 19}
    assert await active_turn_of(database, str(first.conversation_id)) == rivals[outcomes.index(None)].id
    assert await rows() == {
        "conversations": 1,
        "turns": 2,
        "items": 3,
        "turn_events": 0,
        "generations": 1,
        "responses": 0,
    }


async def test_a_conversation_is_free_again_after_any_end(
    database: Database, turns: TurnStore, new_turn: Callable[..., NewTurn], ended: Callable[..., TurnEnd]
) -> None:
    turn = new_turn()
    await turns.create(turn)
    for state in TurnState:
        if state.terminal:
            await turns.finish(ended(turn.id, state=state))
            assert await active_turn_of(database, str(turn.conversation_id)) is None
            turn = new_turn(conversation_id=turn.conversation_id, new_conversation=False)
            await turns.create(turn)
            assert await active_turn_of(database, str(turn.conversation_id)) == turn.id


async def test_a_refused_turn_leaves_no_trace(
    conversations: ConversationStore, turns: TurnStore, new_turn: Callable[..., NewTurn]
) -> None:
    first = new_turn()
    await turns.create(first)
    before = await conversations.get(str(first.conversation_id), "ann")
    refused = new_turn(conversation_id=first.conversation_id, new_conversation=False)
    with pytest.raises(ConversationBusy, match="queued or running"):
        await turns.create(refused)
    assert await stored_turn(turns, refused.id) is None
    assert await conversations.get(str(first.conversation_id), "ann") == before


@pytest.mark.parametrize("conversation_id", ["unknown", "8f8f", "\ud800", "\x00", "'; DROP TABLE turns"])
async def test_an_unknown_conversation_is_not_found(
    rows: Callable[[], Awaitable[dict[str, int]]],
    turns: TurnStore,
    new_turn: Callable[..., NewTurn],
    conversation_id: str,
) -> None:
    with pytest.raises(ConversationNotFound):
        await turns.create(new_turn(conversation_id=conversation_id, new_conversation=False))
    assert not any((await rows()).values())


async def test_another_owner_s_conversation_is_not_found(
    turns: TurnStore, new_turn: Callable[..., NewTurn], ended: Callable[..., TurnEnd]
) -> None:
    turn = new_turn()
    await turns.create(turn)
    await turns.finish(ended(turn.id))
    with pytest.raises(ConversationNotFound):
        await turns.create(new_turn(conversation_id=turn.conversation_id, new_conversation=False, owner="bob"))


async def test_a_turn_id_that_exists_is_an_error_not_a_busy_conversation(
    turns: TurnStore, new_turn: Callable[..., NewTurn]
) -> None:
    turn = new_turn()
    await turns.create(turn)
    with pytest.raises(StoreError, match=r"turns\.id"):
        await turns.create(replace(new_turn(), id=turn.id))


async def test_a_one_shot_prompt_is_not_stored(
    rows: Callable[[], Awaitable[dict[str, int]]],
    database_file: Path,
    turns: TurnStore,
    new_turn: Callable[..., NewTurn],
    ended: Callable[..., TurnEnd],
) -> None:
    turn = new_turn(conversation_id=None, prompt="a prompt with a \x00 that goes nowhere")
    await turns.create(turn)
    await turns.append([], {turn.id: START})
    await turns.finish(ended(turn.id, text=None))
    record = await stored_turn(turns, turn.id)
    assert record is not None
    assert (record.state, record.conversation_id, record.text) == (TurnState.COMPLETED, None, None)
    assert await rows() == {
        "conversations": 0,
        "turns": 1,
        "items": 0,
        "turn_events": 0,
        "generations": 0,
        "responses": 0,
    }
    assert b"goes nowhere" not in bytes_on_disk(database_file)


async def test_one_shot_turns_don_t_exclude_each_other(turns: TurnStore, new_turn: Callable[..., NewTurn]) -> None:
    several = [new_turn(conversation_id=None) for _ in range(3)]
    for turn in several:
        await turns.create(turn)
    assert [record.id for record in await turns.by_ids([turn.id for turn in reversed(several)])] == [
        turn.id for turn in several
    ]


async def test_only_completed_answers_enter_the_conversation(
    history: HistoryStore,
    turns: TurnStore,
    new_turn: Callable[..., NewTurn],
    ended: Callable[..., TurnEnd],
) -> None:
    first = new_turn(prompt="one")
    await turns.create(first)
    await turns.finish(ended(first.id, "answer one"))
    for state in (TurnState.CANCELLED, TurnState.FAILED, TurnState.INTERRUPTED):
        broken = new_turn(conversation_id=first.conversation_id, new_conversation=False, prompt=f"{state}?")
        await turns.create(broken)
        await turns.finish(ended(broken.id, "half an ans", state=state, error="Something happened."))
        record = await stored_turn(turns, broken.id)
        assert record is not None
        assert (record.text, record.error, record.finish_reason) == ("half an ans", "Something happened.", None)
    last = new_turn(conversation_id=first.conversation_id, new_conversation=False, prompt="two")
    await turns.create(last)
    await turns.finish(ended(last.id, "answer two"))
    current = new_turn(conversation_id=first.conversation_id, new_conversation=False, prompt="three")
    await turns.create(current)
    assert await history.of_conversation(str(first.conversation_id), "ann") == [
        Message(Role.USER, "one"),
        Message(Role.ASSISTANT, "answer one"),
        Message(Role.USER, "two"),
        Message(Role.ASSISTANT, "answer two"),
    ]
    page = await history.page(str(first.conversation_id), limit=20, after=None)
    assert [(stored.position, said(stored)) for stored in page.items] == [
        *enumerate(["one", "answer one", "cancelled?", "failed?", "interrupted?", "two", "answer two", "three"])
    ]


@pytest.mark.parametrize("state", [state for state in TurnState if state.terminal])
async def test_a_turn_keeps_its_first_end(
    conversations: ConversationStore,
    turns: TurnStore,
    new_turn: Callable[..., NewTurn],
    ended: Callable[..., TurnEnd],
    state: TurnState,
) -> None:
    turn = new_turn()
    await turns.create(turn)
    await turns.finish(ended(turn.id, "first", state=state))
    first = await stored_turn(turns, turn.id)
    seen = await conversations.get(str(turn.conversation_id), "ann")
    for again in (TurnState.COMPLETED, TurnState.FAILED):
        with pytest.raises(StoreError, match=f"is {state} already"):
            await turns.finish(ended(turn.id, "second", state=again))
    await turns.append([], {turn.id: START})
    assert await stored_turn(turns, turn.id) == first
    assert await conversations.get(str(turn.conversation_id), "ann") == seen


async def test_of_several_ends_at_once_exactly_one_counts(
    turns: TurnStore, new_turn: Callable[..., NewTurn], ended: Callable[..., TurnEnd]
) -> None:
    turn = new_turn()
    await turns.create(turn)
    ends = [ended(turn.id, str(number)) for number in range(10)]
    outcomes = await asyncio.gather(*map(turns.finish, ends), return_exceptions=True)
    assert Counter(map(type, outcomes)) == {bool: 1, TurnAlreadyEnded: 9}
    record = await stored_turn(turns, turn.id)
    assert record is not None
    assert record.text == str(outcomes.index(True))


async def test_a_state_that_does_not_exist_can_t_be_written(
    database: Database, turns: TurnStore, new_turn: Callable[..., NewTurn]
) -> None:
    await turns.create(new_turn())
    with pytest.raises(StoreError) as refused:
        async with database.transaction() as connection:
            await connection.execute(text("UPDATE turns SET state = 'lost'"))
    assert isinstance(refused.value.__cause__, IntegrityError)


async def test_nothing_happens_to_a_turn_whose_conversation_was_deleted(
    rows: Callable[[], Awaitable[dict[str, int]]],
    conversations: ConversationStore,
    turns: TurnStore,
    new_turn: Callable[..., NewTurn],
    ended: Callable[..., TurnEnd],
) -> None:
    turn = new_turn()
    await turns.create(turn)
    await turns.append([piece(turn.id, 1, "x")])
    assert await conversations.delete(str(turn.conversation_id), "ann")
    await turns.append([], {turn.id: START})
    await turns.append([piece(turn.id, 2, "y")])
    await turns.finish(ended(turn.id))
    assert not any((await rows()).values())


async def test_turns_are_found_by_id_oldest_first(
    turns: TurnStore, new_turn: Callable[..., NewTurn], ended: Callable[..., TurnEnd]
) -> None:
    first = new_turn()
    await turns.create(first)
    await turns.finish(ended(first.id))
    second = new_turn(conversation_id=first.conversation_id, new_conversation=False)
    await turns.create(second)
    found = await turns.by_ids([second.id, "unknown", first.id, "\ud800"])
    assert [record.id for record in found] == [first.id, second.id]
    assert await turns.by_ids([]) == []
