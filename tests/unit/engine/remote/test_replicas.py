"""Which server takes which request, as transcripts."""

from __future__ import annotations

import pytest

from quern.engine.remote.replicas import BLOCK_TOKENS, FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS, Choice, Replicas

SYSTEM = tuple(range(1000, 1000 + 4 * BLOCK_TOKENS))


def conversation(number: int, turns: int = 1) -> tuple[int, ...]:
    """Longer than what all begin with, by four blocks a turn and a half."""
    said = tuple(number * 10_000 + token for token in range((4 * turns + 1) * BLOCK_TOKENS + BLOCK_TOKENS // 2))
    return SYSTEM + said


def run(replicas: Replicas, prompt: tuple[int, ...], salt: str = "", now: float = 0.0) -> Choice:
    """A request that ends at once."""
    choice = replicas.choose(prompt, salt, now)
    assert choice is not None
    replicas.ended(choice.index)
    return choice


def begin(replicas: Replicas, prompt: tuple[int, ...], now: float = 0.0, without: tuple[int, ...] = ()) -> int:
    choice = replicas.choose(prompt, "", now, without)
    assert choice is not None
    return choice.index


def test_conversations_are_spread_and_each_stays_where_it_began_under_one_name() -> None:
    replicas = Replicas([1, 1])
    began: dict[int, Choice] = {}
    for number in range(6):
        choice = replicas.choose(conversation(number), "", 0.0)
        assert choice is not None
        began[number] = choice
    assert [choice.index for choice in began.values()] == [0, 1, 0, 1, 0, 1]
    assert len({choice.session for choice in began.values()}) == 6
    for choice in began.values():
        replicas.ended(choice.index)
    for turns in (2, 3):
        assert {number: run(replicas, conversation(number, turns)) for number in range(6)} == began


def test_a_beginning_that_all_have_draws_nobody_to_a_server() -> None:
    replicas = Replicas([1, 1])
    first = begin(replicas, SYSTEM + (1,) * 6 * BLOCK_TOKENS)
    assert begin(replicas, SYSTEM + (2,) * 6 * BLOCK_TOKENS) != first


def test_a_next_turn_may_be_longer_than_all_before_it() -> None:
    replicas = Replicas([1, 1])
    home = run(replicas, conversation(1))
    begin(replicas, conversation(2), without=(1 - home.index,))
    assert run(replicas, conversation(1, 9)) == home


def test_an_edited_prompt_goes_where_most_of_it_is_known_under_a_name_of_its_own() -> None:
    replicas = Replicas([1, 1])
    begin(replicas, conversation(1, 3), without=(0,))
    edited = conversation(1, 3)[:-100] + (5,) * 100
    choice = run(replicas, edited)
    assert (choice.index, choice.session == run(replicas, conversation(1, 3)).session) == (1, False)


def test_a_short_prompt_has_a_name_too() -> None:
    replicas = Replicas([1])
    one, other = run(replicas, (1, 2, 3)), run(replicas, (1, 2, 4))
    assert one.session
    assert one.session != other.session
    assert run(replicas, (1, 2, 3)).session == one.session
    assert len(run(replicas, (1,), "x" * 100).session) == 32


def test_another_salt_is_another_conversation() -> None:
    replicas = Replicas([1, 1])
    assert run(replicas, conversation(1), "ann").session != run(replicas, conversation(1), "bob").session


def test_a_server_of_twice_the_weight_gets_twice_as_many() -> None:
    replicas = Replicas([1, 2])
    indices = [begin(replicas, conversation(number)) for number in range(9)]
    assert (indices.count(0), indices.count(1)) == (3, 6)


def test_a_conversation_leaves_a_server_that_has_far_more_than_its_share_and_keeps_its_name() -> None:
    replicas = Replicas([1, 1])
    home = run(replicas, conversation(1))
    for number in range(2, 6):
        begin(replicas, conversation(number), without=(1 - home.index,))
    moved = run(replicas, conversation(1, 2))
    assert (moved.index, moved.session) == (1 - home.index, home.session)
    assert run(replicas, conversation(1, 3)).index == moved.index, "it stays where it has gone"


def test_a_little_more_than_its_share_moves_nobody() -> None:
    replicas = Replicas([1, 1])
    home = run(replicas, conversation(1))
    begin(replicas, conversation(2), without=(1 - home.index,))
    assert run(replicas, conversation(1, 2)).index == home.index


def test_one_that_is_not_healthy_or_was_tried_gets_nothing() -> None:
    replicas = Replicas([1, 1, 1])
    replicas[0].healthy = False
    assert begin(replicas, conversation(1), without=(1,)) == 2
    assert replicas.choose(conversation(2), "", 0.0, (1, 2)) is None
    replicas[1].healthy = replicas[2].healthy = False
    assert not replicas.any_healthy
    assert replicas.choose(conversation(3), "", 0.0) is None


def test_one_that_fails_is_left_alone_for_longer_each_time_until_it_answers() -> None:
    replicas, now = Replicas([1, 1]), 100.0
    for times in range(8):
        replicas.failed(0, now)
        pause = min(FIRST_PAUSE_SECONDS * 2**times, LONGEST_PAUSE_SECONDS)
        assert run(replicas, conversation(times), now=now + pause - 0.01).index == 1
        now += pause
        assert run(replicas, conversation(100 + times), now=now).index == 0
    replicas.succeeded(0)
    replicas.failed(0, now)
    assert replicas[0].paused_until == pytest.approx(now + FIRST_PAUSE_SECONDS)


def test_where_all_are_left_alone_the_one_that_is_so_for_the_shortest_time_is_tried() -> None:
    replicas = Replicas([1, 1])
    for index in (0, 0, 1):
        replicas.failed(index, 0.0)
    assert begin(replicas, conversation(1)) == 1
