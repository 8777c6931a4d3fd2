"""Responses: chains and forks of them, what their deletion leaves, and the journals of those in the background."""

from collections.abc import Awaitable, Callable
from datetime import timedelta

import pytest
from tests.unit.store.example_items import ANSWER, CALLING, NOON, QUESTION, RESULTS, new_item
from tests.unit.store.stored_turns import STOPPED, stored_turn

from quern.errors import ResponseNotFound
from quern.records import NewResponse
from quern.store.conversations import ConversationStore
from quern.store.generations import GenerationEnd, GenerationStore
from quern.store.history import HistoryStore
from quern.store.responses import ResponseStore
from quern.store.turn_rows import JournalEntry, NewTurn, TurnEnd
from quern.store.turns import TurnStore
from quern.types import Item, Message, Role, TurnState

Respond = Callable[..., Awaitable[NewTurn]]


def asked(text: str) -> Message:
    return Message(Role.USER, text)


def answered(text: str) -> Message:
    return Message(Role.ASSISTANT, text)


@pytest.fixture
def respond(turns: TurnStore, new_turn: Callable[..., NewTurn], ended: Callable[..., TurnEnd]) -> Respond:
    """A whole response: `Q1` is answered `A1`, unless a keyword says otherwise."""

    async def build(
        question: str,
        previous: NewTurn | None = None,
        *,
        conversation_id: str | None = None,
        owner: str = "ann",
        state: TurnState = TurnState.COMPLETED,
    ) -> NewTurn:
        turn = new_turn(
            items=[asked(question)],
            response=NewResponse(None if previous is None else previous.id, background=False, body={}),
            conversation_id=conversation_id,
            new_conversation=False,
            owner=owner,
        )
        await turns.create(turn)
        await turns.finish(ended(turn.id, question.replace("Q", "A"), state=state))
        return turn

    return build


def exchanges(*numbers: int) -> list[Item]:
    return [item for number in numbers for item in (asked(f"Q{number}"), answered(f"A{number}"))]


async def test_a_response_has_its_turn_and_what_its_caller_asked_for(
    responses: ResponseStore, turns: TurnStore, new_turn: Callable[..., NewTurn], ended: Callable[..., TurnEnd]
) -> None:
    body = {"model": "a-model", "metadata": {"für": "北京\x00"}, "tools": [{"type": "function"}], "user": None}
    response = NewResponse(previous_id="an-earlier-one", background=True, body=body)
    turn = new_turn(conversation_id=None, items=[QUESTION], response=response)
    await turns.create(turn)
    await turns.finish(ended(turn.id, "Cold.", repairs=2))
    record = await responses.get(turn.id, "ann")
    assert record is not None
    assert (record.previous_id, record.background, record.body) == ("an-earlier-one", True, body)
    assert record.turn == await stored_turn(turns, turn.id)
    assert (record.turn.text, record.turn.repairs) == ("Cold.", 2)


async def test_another_owners_response_does_not_exist_and_a_mere_turn_is_none(
    responses: ResponseStore, turns: TurnStore, respond: Respond, new_turn: Callable[..., NewTurn]
) -> None:
    response = await respond("Q1")
    turn = new_turn()
    await turns.create(turn)
    assert await responses.get(response.id, "ann") is not None
    for turn_id, owner in ((response.id, "bob"), (turn.id, "ann"), ("unknown", "ann"), ("\x00", "ann")):
        assert await responses.get(turn_id, owner) is None


async def test_a_response_is_remembered_without_a_conversation(
    history: HistoryStore,
    turns: TurnStore,
    rows: Callable[[], Awaitable[dict[str, int]]],
    new_turn: Callable[..., NewTurn],
    ended: Callable[..., TurnEnd],
) -> None:
    response = NewResponse(previous_id=None, background=False, body={})
    turn = new_turn(conversation_id=None, items=[QUESTION], response=response)
    await turns.create(turn)
    await turns.finish(ended(turn.id, items=CALLING))
    assert await history.of_response(turn.id) == [QUESTION, *CALLING]
    stored = await history.of_turn(turn.id)
    assert [(item.position, item.conversation_id) for item in stored] == [(0, None), (1, None), (2, None), (3, None)]
    assert await rows() == {
        "conversations": 0,
        "turns": 1,
        "items": 4,
        "turn_events": 0,
        "generations": 0,
        "responses": 1,
    }


async def test_a_chain_of_three_is_one_history(history: HistoryStore, respond: Respond) -> None:
    first = await respond("Q1")
    second = await respond("Q2", first)
    third = await respond("Q3", second)
    assert await history.of_response(first.id) == exchanges(1)
    assert await history.of_response(second.id) == exchanges(1, 2)
    assert await history.of_response(third.id) == exchanges(1, 2, 3)


async def test_a_fork_knows_its_own_branch_only(history: HistoryStore, respond: Respond) -> None:
    first = await respond("Q1")
    await respond("Q2", first)
    fork = await respond("Q3", first)
    on_it = await respond("Q4", fork)
    assert await history.of_response(on_it.id) == exchanges(1, 3, 4)


async def test_a_long_chain_is_whole_and_in_order(history: HistoryStore, respond: Respond) -> None:
    last = None
    for number in range(40):
        last = await respond(f"Q{number}", last)
    assert last is not None
    assert await history.of_response(last.id) == exchanges(*range(40))


async def test_continuing_a_response_of_a_conversation_sees_it_up_to_there_and_no_further(
    history: HistoryStore,
    turns: TurnStore,
    respond: Respond,
    new_turn: Callable[..., NewTurn],
    ended: Callable[..., TurnEnd],
) -> None:
    begun = new_turn(items=[asked("Q0")])
    await turns.create(begun)
    await turns.finish(ended(begun.id, "A0"))
    conversation_id = str(begun.conversation_id)
    await history.append(conversation_id, [new_item(asked("A note."))], NOON)
    inside = await respond("Q1", conversation_id=conversation_id)
    await history.append(conversation_id, [new_item(asked("A later note."))], NOON)
    await respond("Q2", conversation_id=conversation_id)
    fork = await respond("Q3", inside)
    on_it = await respond("Q4", fork)
    so_far = [*exchanges(0), asked("A note."), *exchanges(1)]
    assert await history.of_response(inside.id) == so_far
    assert await history.of_response(on_it.id) == [*so_far, *exchanges(3, 4)]
    assert await history.of_conversation(conversation_id, "ann") == [*so_far, asked("A later note."), *exchanges(2)]


async def test_what_did_not_complete_in_the_conversation_before_is_left_out(
    history: HistoryStore, turns: TurnStore, respond: Respond, new_turn: Callable[..., NewTurn]
) -> None:
    begun = new_turn(items=[asked("Q0")])
    await turns.create(begun)
    await turns.recover_interrupted(NOON, STOPPED)
    conversation_id = str(begun.conversation_id)
    await respond("Q1", conversation_id=conversation_id, state=TurnState.FAILED)
    inside = await respond("Q2", conversation_id=conversation_id)
    assert await history.of_response(inside.id) == exchanges(2)


async def test_a_chain_with_a_gap_is_not_found(
    history: HistoryStore, responses: ResponseStore, respond: Respond
) -> None:
    first = await respond("Q1")
    second = await respond("Q2", first)
    third = await respond("Q3", second)
    record = await responses.get(first.id, "ann")
    assert record is not None
    await responses.delete(record)
    assert await responses.get(first.id, "ann") is None
    for turn in (first, second, third):
        with pytest.raises(ResponseNotFound, match="was deleted"):
            await history.of_response(turn.id)


async def test_a_response_whose_conversation_was_deleted_can_t_be_built_on(
    conversations: ConversationStore,
    history: HistoryStore,
    turns: TurnStore,
    respond: Respond,
    new_turn: Callable[..., NewTurn],
) -> None:
    begun = new_turn()
    await turns.create(begun)
    await turns.recover_interrupted(NOON, STOPPED)
    inside = await respond("Q1", conversation_id=begun.conversation_id)
    fork = await respond("Q2", inside)
    await conversations.delete(str(begun.conversation_id), "ann")
    for turn in (inside, fork):
        with pytest.raises(ResponseNotFound, match="was deleted"):
            await history.of_response(turn.id)


async def test_a_response_of_which_no_item_is_left_has_no_place_in_its_conversation_any_more(
    history: HistoryStore, turns: TurnStore, respond: Respond, new_turn: Callable[..., NewTurn]
) -> None:
    begun = new_turn(items=[])
    await turns.create(begun)
    await turns.recover_interrupted(NOON, STOPPED)
    conversation_id = str(begun.conversation_id)
    await respond("Q1", conversation_id=conversation_id)
    inside = await respond("Q2", conversation_id=conversation_id)
    question, answer = await history.of_turn(inside.id)
    await history.delete(conversation_id, question.id, NOON)
    assert await history.of_response(inside.id) == [*exchanges(1), answered("A2")]
    await history.delete(conversation_id, answer.id, NOON)
    with pytest.raises(ResponseNotFound, match="was deleted"):
        await history.of_response(inside.id)


async def test_deleting_a_response_takes_all_of_it_along(
    responses: ResponseStore,
    rows: Callable[[], Awaitable[dict[str, int]]],
    turns: TurnStore,
    new_turn: Callable[..., NewTurn],
    ended: Callable[..., TurnEnd],
) -> None:
    response = NewResponse(previous_id=None, background=True, body={})
    turn = new_turn(conversation_id=None, items=[QUESTION], response=response)
    await turns.create(turn)
    await turns.finish(ended(turn.id, items=CALLING, generation=GenerationEnd([1], False, None)))
    record = await responses.get(turn.id, "ann")
    assert record is not None
    await responses.delete(record)
    assert not any((await rows()).values())


async def test_deleting_a_response_of_a_conversation_keeps_what_was_said_there(
    history: HistoryStore,
    responses: ResponseStore,
    turns: TurnStore,
    respond: Respond,
    new_turn: Callable[..., NewTurn],
) -> None:
    begun = new_turn(items=[asked("Q0")])
    await turns.create(begun)
    await turns.recover_interrupted(NOON, STOPPED)
    conversation_id = str(begun.conversation_id)
    kept = await respond("Q1", conversation_id=conversation_id)
    broken = await respond("Q2", conversation_id=conversation_id, state=TurnState.CANCELLED)
    after = await respond("Q3", conversation_id=conversation_id)
    before = await history.page(conversation_id, limit=20, after=None)
    for turn in (kept, broken):
        record = await responses.get(turn.id, "ann")
        assert record is not None
        await responses.delete(record)
        assert await responses.get(turn.id, "ann") is None
        assert await stored_turn(turns, turn.id) == record.turn
    assert await history.of_conversation(conversation_id, "ann") == exchanges(1, 3)
    assert await history.of_response(after.id) == exchanges(1, 3), "its context is whole: it is the conversation's"
    assert await history.page(conversation_id, limit=20, after=None) == before, "unanswered questions stay too"


async def test_a_deleted_response_of_a_conversation_can_t_be_built_on(
    history: HistoryStore,
    responses: ResponseStore,
    turns: TurnStore,
    respond: Respond,
    new_turn: Callable[..., NewTurn],
) -> None:
    begun = new_turn()
    await turns.create(begun)
    await turns.recover_interrupted(NOON, STOPPED)
    inside = await respond("Q1", conversation_id=begun.conversation_id)
    fork = await respond("Q2", inside)
    record = await responses.get(inside.id, "ann")
    assert record is not None
    await responses.delete(record)
    for turn in (inside, fork):
        with pytest.raises(ResponseNotFound, match="was deleted"):
            await history.of_response(turn.id)


async def test_deleting_a_background_response_of_a_conversation_takes_its_pieces_along(
    responses: ResponseStore,
    turns: TurnStore,
    rows: Callable[[], Awaitable[dict[str, int]]],
    new_turn: Callable[..., NewTurn],
    ended: Callable[..., TurnEnd],
) -> None:
    turn = new_turn(items=[QUESTION], response=NewResponse(None, background=True, body={}))
    await turns.create(turn)
    await turns.finish(ended(turn.id, items=[ANSWER], generation=GenerationEnd([1], False, None)))
    record = await responses.get(turn.id, "ann")
    assert record is not None
    await responses.delete(record)
    assert await rows() == {
        "conversations": 1,
        "turns": 1,
        "items": 2,
        "turn_events": 0,
        "generations": 0,
        "responses": 0,
    }


async def test_after_a_crash_a_background_response_is_kept_as_it_came_for_ever_and_others_for_a_while(
    generations: GenerationStore,
    responses: ResponseStore,
    turns: TurnStore,
    rows: Callable[[], Awaitable[dict[str, int]]],
    new_turn: Callable[..., NewTurn],
) -> None:
    saved: dict[bool, NewTurn] = {}
    for background in (True, False):
        turn = new_turn(conversation_id=None, response=NewResponse(None, background=background, body={}))
        await turns.create(turn)
        await turns.append([JournalEntry(turn.id, 1, 2, ("sor", "te"), (7, 8))])
        saved[background] = turn
    assert await turns.recover_interrupted(NOON, STOPPED, NOON + timedelta(hours=1)) == 2
    for turn in saved.values():
        record = await responses.get(turn.id, "ann")
        assert record is not None
        assert (record.turn.state, record.turn.text) == (TurnState.INTERRUPTED, "sorte")
        kept = await generations.get(turn.id)
        assert kept is not None
        assert (kept.prompt, kept.generated) == (tuple(range(12)), (7, 8))
    assert await generations.forget(NOON + timedelta(hours=2)) == 1
    assert await generations.get(saved[True].id) is not None
    assert (await rows())["turn_events"] == 0


async def test_a_response_that_was_interrupted_before_its_first_word_has_an_empty_text(
    responses: ResponseStore, turns: TurnStore, new_turn: Callable[..., NewTurn]
) -> None:
    turn = new_turn(conversation_id=None, response=NewResponse(None, background=False, body={}))
    await turns.create(turn)
    await turns.recover_interrupted(NOON, STOPPED)
    record = await responses.get(turn.id, "ann")
    assert record is not None
    assert record.turn.text == ""


async def test_what_was_said_in_calls_is_continued_with_their_results(
    history: HistoryStore, turns: TurnStore, new_turn: Callable[..., NewTurn], ended: Callable[..., TurnEnd]
) -> None:
    first = new_turn(conversation_id=None, items=[QUESTION], response=NewResponse(None, background=False, body={}))
    await turns.create(first)
    await turns.finish(ended(first.id, items=CALLING))
    second = new_turn(conversation_id=None, items=RESULTS, response=NewResponse(first.id, background=False, body={}))
    await turns.create(second)
    await turns.finish(ended(second.id, items=[ANSWER]))
    assert await history.of_response(second.id) == [QUESTION, *CALLING, *RESULTS, ANSWER]
