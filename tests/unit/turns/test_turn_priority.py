"""How urgent a turn is while it lives."""

from __future__ import annotations

from tests.unit.turns.live_turns import live_turn

from quern.engine.base import Priority
from quern.turns.turn import Turn


async def test_what_nobody_reads_any_more_is_a_background_turn_until_a_reader_comes_back() -> None:
    turn = live_turn()
    assert turn.priority is Priority.NORMAL, "its first reader is only about to come"
    with turn.attach():
        with turn.attach():
            pass
        assert turn.priority is Priority.NORMAL, "one of its readers is there"
    assert turn.priority is Priority.BACKGROUND
    with turn.attach():
        assert turn.priority is Priority.NORMAL


async def test_what_asked_for_the_background_stays_there_although_it_is_read() -> None:
    turn = live_turn(priority=Priority.BACKGROUND)
    with turn.attach():
        assert turn.priority is Priority.BACKGROUND


def _grown(turn: Turn, tokens: int) -> Priority:
    for _ in range(tokens):
        turn.count(65)
    return turn.priority


async def test_what_fills_a_gap_is_urgent_for_its_first_tokens() -> None:
    turn = live_turn(priority=Priority.INTERACTIVE)
    assert _grown(turn, 256) is Priority.INTERACTIVE
    assert _grown(turn, 1) is Priority.NORMAL
    with turn.attach():
        pass
    assert turn.priority is Priority.BACKGROUND
    with turn.attach():
        assert turn.priority is Priority.NORMAL


async def test_other_answers_may_become_as_long_as_they_like() -> None:
    assert _grown(live_turn(), 1000) is Priority.NORMAL
    assert _grown(live_turn(priority=Priority.BACKGROUND), 1000) is Priority.BACKGROUND
