"""Who may begin a turn: a bounded number at once, and one of a conversation at a time."""

from __future__ import annotations

from contextlib import ExitStack

import pytest
from tests.unit.turns.live_turns import live_turn

from quern.engine.base import Priority
from quern.errors import ConversationBusy, QueueFull
from quern.turns.queue_limit import (
    LONGEST_RETRY_AFTER,
    UNMEASURED_RETRY_AFTER,
    Places,
    Progress,
    TurnLengths,
    retry_after,
)
from quern.turns.turn import Turn


def places(seconds: int = 7) -> Places:
    return Places(lambda: seconds)


def test_turns_that_are_being_admitted_count_with_those_that_are_active() -> None:
    place, active = places(), [live_turn()]
    with ExitStack() as held:
        for _ in range(2):
            held.enter_context(place.place(Priority.NORMAL, active, 3))
        with pytest.raises(QueueFull) as refused, place.place(Priority.NORMAL, active, 3):
            pass
        assert refused.value.retry_after == 7
        assert str(refused.value) == (
            "All 3 places are taken: every running and waiting turn counts. Try again in 7 s."
        )
    with place.place(Priority.NORMAL, active, 3):
        pass


def test_a_place_is_free_again_where_the_turn_was_refused_after_all() -> None:
    place = places()
    for _ in range(3):
        with pytest.raises(ZeroDivisionError), place.place(Priority.NORMAL, [], 1):
            raise ZeroDivisionError


def test_each_priority_has_places_of_its_own_also_for_those_that_are_being_admitted() -> None:
    place, active = places(), [live_turn(), live_turn()]
    with place.place(Priority.NORMAL, active, 3):
        with place.place(Priority.INTERACTIVE, active, 1), pytest.raises(QueueFull):
            place.place(Priority.INTERACTIVE, active, 1).__enter__()
        with pytest.raises(QueueFull):
            place.place(Priority.NORMAL, active, 3).__enter__()


async def test_what_nobody_reads_any_more_takes_no_place_from_those_who_wait() -> None:
    place, active = places(), [live_turn() for _ in range(3)]
    for turn in active:
        with turn.attach():
            pass
    with place.place(Priority.NORMAL, active, 3), pytest.raises(QueueFull):
        place.place(Priority.BACKGROUND, active, 3).__enter__()
    with active[0].attach(), active[1].attach(), active[2].attach(), pytest.raises(QueueFull):
        place.place(Priority.NORMAL, active, 3).__enter__()


async def test_left_turns_without_end_are_not_admitted_without_end() -> None:
    place, active = places(), list[Turn]()
    for _ in range(3 + 3):
        with place.place(Priority.NORMAL, active, 3):
            active.append(live_turn())
        with active[-1].attach():
            pass
    with pytest.raises(QueueFull):
        place.place(Priority.NORMAL, active, 3).__enter__()


def test_what_became_active_meanwhile_is_counted() -> None:
    place, active = places(), dict[str, Turn]()
    with place.place(Priority.NORMAL, active.values(), 2):
        active["one"] = live_turn()
        with pytest.raises(QueueFull), place.place(Priority.NORMAL, active.values(), 2):
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


def test_without_a_measurement_the_wait_is_the_stated_default() -> None:
    assert retry_after([], None) == UNMEASURED_RETRY_AFTER
    assert retry_after([Progress(generated_tokens=1, decode_seconds=0, max_tokens=10)], 5) == UNMEASURED_RETRY_AFTER


def test_the_wait_is_what_the_turn_closest_to_its_end_still_needs_at_its_measured_speed() -> None:
    slow = Progress(generated_tokens=10, decode_seconds=10, max_tokens=110)
    fast = Progress(generated_tokens=50, decode_seconds=10, max_tokens=110)
    assert retry_after([slow], None) == 100
    assert retry_after([slow, fast], None) == 12


def test_a_typical_length_shortens_the_wait_and_a_turn_past_it_counts_to_its_own_limit() -> None:
    turn = Progress(generated_tokens=10, decode_seconds=10, max_tokens=1000)
    assert retry_after([turn], typical_tokens=40) == 30
    past_it = Progress(generated_tokens=50, decode_seconds=50, max_tokens=60)
    assert retry_after([past_it], typical_tokens=40) == 10


def test_the_wait_is_at_least_a_second_and_at_most_the_stated_longest() -> None:
    assert retry_after([Progress(99, 1, 100)], None) == 1
    assert retry_after([Progress(2, 100, 4096)], None) == LONGEST_RETRY_AFTER


def test_typical_length_follows_completed_turns() -> None:
    lengths = TurnLengths()
    assert lengths.typical is None
    lengths.add(100)
    assert lengths.typical == 100
    lengths.add(200)
    assert lengths.typical == pytest.approx(120)
