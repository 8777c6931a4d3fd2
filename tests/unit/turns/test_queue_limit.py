"""Who may begin a turn: a bounded number at once, and one of a conversation at a time."""

from __future__ import annotations

from contextlib import ExitStack

import pytest
from tests.unit.turns.live_turns import live_turn

from quern.engine.base import Priority
from quern.errors import ConversationBusy, QueueFull
from quern.turns.queue_limit import Places
from quern.turns.turn import Turn


def places(seconds: int = 7) -> Places:
    return Places(lambda: seconds)


def test_turns_that_are_being_admitted_count_with_those_that_are_active() -> None:
    place, active = places(), [live_turn()]
    with ExitStack() as held:
        for _ in range(2):
            held.enter_context(place.place(Priority.NORMAL, "ann", active, 3))
        with pytest.raises(QueueFull) as refused, place.place(Priority.NORMAL, "ann", active, 3):
            pass
        assert refused.value.retry_after == 7
        assert str(refused.value) == (
            "All 3 places are taken: every running and waiting turn counts. Try again in 7 s."
        )
    with place.place(Priority.NORMAL, "ann", active, 3):
        pass


def test_a_place_is_free_again_where_the_turn_was_refused_after_all() -> None:
    place = places()
    for _ in range(3):
        with pytest.raises(ZeroDivisionError), place.place(Priority.NORMAL, "ann", [], 1):
            raise ZeroDivisionError


def test_each_priority_has_places_of_its_own_also_for_those_that_are_being_admitted() -> None:
    place, active = places(), [live_turn(), live_turn()]
    with place.place(Priority.NORMAL, "ann", active, 3):
        with place.place(Priority.INTERACTIVE, "ann", active, 1), pytest.raises(QueueFull):
            place.place(Priority.INTERACTIVE, "ann", active, 1).__enter__()
        with pytest.raises(QueueFull):
            place.place(Priority.NORMAL, "ann", active, 3).__enter__()


async def test_what_nobody_reads_any_more_takes_no_place_from_those_who_wait() -> None:
    place, active = places(), [live_turn() for _ in range(3)]
    for turn in active:
        with turn.attach():
            pass
    with place.place(Priority.NORMAL, "ann", active, 3), pytest.raises(QueueFull):
        place.place(Priority.BACKGROUND, "ann", active, 3).__enter__()
    with active[0].attach(), active[1].attach(), active[2].attach(), pytest.raises(QueueFull):
        place.place(Priority.NORMAL, "ann", active, 3).__enter__()


async def test_left_turns_without_end_are_not_admitted_without_end() -> None:
    place, active = places(), list[Turn]()
    for _ in range(3 + 3):
        with place.place(Priority.NORMAL, "ann", active, 3):
            active.append(live_turn())
        with active[-1].attach():
            pass
    with pytest.raises(QueueFull):
        place.place(Priority.NORMAL, "ann", active, 3).__enter__()


def test_what_became_active_meanwhile_is_counted() -> None:
    place, active = places(), dict[str, Turn]()
    with place.place(Priority.NORMAL, "ann", active.values(), 2):
        active["one"] = live_turn()
        with pytest.raises(QueueFull), place.place(Priority.NORMAL, "ann", active.values(), 2):
            pass


def test_one_turn_of_a_conversation_is_admitted_at_a_time() -> None:
    place = places()
    with place.alone_in("c1", "ann", []):
        with pytest.raises(ConversationBusy, match="never interleave"), place.alone_in("c1", "ann", []):
            pass
        with place.alone_in("c2", "ann", []):
            pass
    with place.alone_in("c1", "ann", []):
        pass


def test_a_conversation_with_an_active_turn_admits_none() -> None:
    place, active = places(), [live_turn(conversation_id="c1")]
    with pytest.raises(ConversationBusy), place.alone_in("c1", "ann", active):
        pass
    with place.alone_in("c2", "ann", active):
        pass


def test_turns_outside_of_conversations_are_in_nobodys_way() -> None:
    place, active = places(), [live_turn(), live_turn()]
    with place.alone_in(None, "ann", active), place.alone_in(None, "ann", active):
        pass


def test_a_refusal_leaves_the_one_that_is_being_admitted_alone() -> None:
    place = places()
    with place.alone_in("c1", "ann", []):
        for _ in range(2):
            with pytest.raises(ConversationBusy), place.alone_in("c1", "ann", []):
                pass


def test_no_turn_begins_while_something_is_put_into_its_conversation_and_the_other_way_round() -> None:
    place = places()
    with place.changing("c1", "ann", []):
        with place.changing("c1", "ann", []):
            pass
        with pytest.raises(ConversationBusy), place.alone_in("c1", "ann", []):
            pass
        with place.alone_in("c2", "ann", []), pytest.raises(ConversationBusy), place.changing("c2", "ann", []):
            pass
    with place.alone_in("c1", "ann", []):
        pass
    with pytest.raises(ConversationBusy), place.changing("c1", "ann", [live_turn(conversation_id="c1")]):
        pass


def test_what_happens_in_somebody_elses_conversation_is_not_told() -> None:
    place, active = places(), [live_turn(conversation_id="c1")]
    with place.changing("c2", "ann", []), place.alone_in("c1", "bob", active), place.alone_in("c2", "bob", active):
        pass


def test_who_has_few_places_finds_one_where_somebody_else_has_taken_all() -> None:
    place, active = places(), [live_turn() for _ in range(8)]
    with pytest.raises(QueueFull):
        place.place(Priority.NORMAL, "ann", active, 8).__enter__()
    with ExitStack() as held:
        for _ in range(2):
            held.enter_context(place.place(Priority.NORMAL, "ben", active, 8))
        with pytest.raises(QueueFull):
            held.enter_context(place.place(Priority.NORMAL, "cleo", active, 8))
        with pytest.raises(QueueFull):
            held.enter_context(place.place(Priority.NORMAL, "ann", active, 8))


def test_whoever_is_alone_has_all_places_and_no_more() -> None:
    place = places()
    with ExitStack() as held:
        for _ in range(8):
            held.enter_context(place.place(Priority.NORMAL, "ann", [], 8))
        with pytest.raises(QueueFull):
            held.enter_context(place.place(Priority.NORMAL, "ann", [], 8))
