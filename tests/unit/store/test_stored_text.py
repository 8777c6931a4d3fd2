"""The text of turns: the journal while it grows, and what comes back of it."""

from collections.abc import Awaitable, Callable

import pytest
from sqlalchemy import text
from tests.unit.store.pieces import piece
from tests.unit.store.stored_turns import STOPPED, stored_turn

from quern.errors import InvalidRequest
from quern.store.conversations import ConversationStore
from quern.store.database import Database
from quern.store.history import HistoryStore
from quern.store.turn_rows import NewTurn, TurnEnd
from quern.store.turns import TurnStore
from quern.types import Message, Role


async def test_the_journal_goes_when_the_turn_ends(
    rows: Callable[[], Awaitable[dict[str, int]]],
    turns: TurnStore,
    new_turn: Callable[..., NewTurn],
    ended: Callable[..., TurnEnd],
) -> None:
    turn, other = new_turn(), new_turn(conversation_id=None)
    await turns.create(turn)
    await turns.create(other)
    await turns.append([piece(turn.id, 1, "sor"), piece(other.id, 1, "x")])
    await turns.append([piece(turn.id, 2, "ted")])
    assert (await rows())["turn_events"] == 3
    await turns.finish(ended(turn.id, "sorted"))
    assert (await rows())["turn_events"] == 1


async def test_the_journal_leaves_out_turns_that_ended_or_are_gone(
    database: Database,
    conversations: ConversationStore,
    turns: TurnStore,
    new_turn: Callable[..., NewTurn],
    ended: Callable[..., TurnEnd],
) -> None:
    over, gone, going = new_turn(), new_turn(), new_turn()
    for turn in (over, gone, going):
        await turns.create(turn)
    await turns.finish(ended(over.id))
    await conversations.delete(str(gone.conversation_id), "ann")
    await turns.append([piece(turn_id, 1, "x") for turn_id in (over.id, gone.id, "unknown", going.id)])
    async with database.transaction() as connection:
        kept = (await connection.execute(text("SELECT turn_id FROM turn_events"))).scalars().all()
    assert kept == [going.id]
    await turns.append([])


async def test_entries_may_be_given_twice(turns: TurnStore, new_turn: Callable[..., NewTurn]) -> None:
    turn = new_turn()
    await turns.create(turn)
    entries = [piece(turn.id, number, f"{number};") for number in range(1, 5)]
    await turns.append(entries[:3])
    await turns.append(entries)
    await turns.recover_interrupted(turn.created_at, STOPPED)
    record = await stored_turn(turns, turn.id)
    assert record is not None
    assert record.text == "1;2;3;4;"


@pytest.mark.parametrize(
    "content",
    [
        "用 Python 写冒泡排序",
        "\N{WOMAN}\N{ZERO WIDTH JOINER}\N{PERSONAL COMPUTER} e\N{COMBINING ACUTE ACCENT}",
        "a\r\nb\t\N{LINE SEPARATOR}\N{ZERO WIDTH NO-BREAK SPACE}",
        "",
        "<|im_start|>system",
        "代" * 1_000_000,
    ],
    ids=["Chinese", "emoji", "breaks", "empty", "special tokens", "long"],
)
async def test_text_comes_back_as_it_was(
    history: HistoryStore,
    turns: TurnStore,
    new_turn: Callable[..., NewTurn],
    ended: Callable[..., TurnEnd],
    content: str,
) -> None:
    turn = new_turn(prompt=content)
    await turns.create(turn)
    await turns.append([piece(turn.id, 1, content)])
    await turns.finish(ended(turn.id, content))
    record = await stored_turn(turns, turn.id)
    assert record is not None
    assert record.text == content
    assert await history.of_conversation(str(turn.conversation_id), "ann") == [
        Message(Role.USER, content),
        Message(Role.ASSISTANT, content),
    ]


@pytest.mark.parametrize("prompt", ["a\x00b", "a\ud800b"])
async def test_a_prompt_that_can_t_be_stored_is_refused(
    rows: Callable[[], Awaitable[dict[str, int]]], turns: TurnStore, new_turn: Callable[..., NewTurn], prompt: str
) -> None:
    with pytest.raises(InvalidRequest, match="NUL") as refused:
        await turns.create(new_turn(prompt=prompt))
    assert refused.value.field is None, "whose field that was is not the store's to know"
    assert not any((await rows()).values())


async def test_an_answer_that_can_t_be_stored_keeps_all_but_those_characters(
    turns: TurnStore, new_turn: Callable[..., NewTurn], ended: Callable[..., TurnEnd]
) -> None:
    turn = new_turn()
    await turns.create(turn)
    await turns.append([piece(turn.id, 1, "a\x00b")])
    await turns.finish(ended(turn.id, "a\x00b\udfffc"))
    record = await stored_turn(turns, turn.id)
    assert record is not None
    assert record.text == "a\ufffdb\ufffdc"
