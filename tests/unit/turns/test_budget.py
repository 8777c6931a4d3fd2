"""What fits into the context and when a place is likely to be free."""

import pytest

from quern.errors import ContextExceeded
from quern.turns.budget import (
    LEAST_ANSWER,
    LONGEST_RETRY_AFTER,
    UNMEASURED_RETRY_AFTER,
    Progress,
    TurnLengths,
    retry_after,
    room_for_answer,
)


@pytest.mark.parametrize("fit", [False, True])
def test_a_request_that_fills_the_context_exactly_is_accepted(fit: bool) -> None:
    assert room_for_answer(60, max_tokens=40, context_length=100, fit=fit) == 40
    assert room_for_answer(60, max_tokens=1, context_length=100, fit=fit) == 1


def test_a_request_one_token_over_the_context_is_refused_with_its_counts() -> None:
    with pytest.raises(ContextExceeded) as refused:
        room_for_answer(61, max_tokens=40, context_length=100, fit=False)
    assert (refused.value.prompt_tokens, refused.value.answer_tokens, refused.value.context_length) == (61, 40, 100)
    assert "101 tokens" in str(refused.value)
    assert "61 for the prompt" in str(refused.value)
    assert "limit is 100" in str(refused.value)


def test_an_answer_that_may_be_shorter_gets_the_room_that_there_is() -> None:
    assert room_for_answer(600, max_tokens=4096, context_length=1000, fit=True) == 400
    assert room_for_answer(1000 - LEAST_ANSWER, max_tokens=4096, context_length=1000, fit=True) == LEAST_ANSWER


@pytest.mark.parametrize("prompt_tokens", [1000 - LEAST_ANSWER + 1, 999, 1000, 1001])
def test_a_prompt_that_leaves_too_little_room_for_any_answer_is_refused_with_the_least_that_it_needs(
    prompt_tokens: int,
) -> None:
    with pytest.raises(ContextExceeded) as refused:
        room_for_answer(prompt_tokens, max_tokens=4096, context_length=1000, fit=True)
    assert (refused.value.prompt_tokens, refused.value.answer_tokens) == (prompt_tokens, LEAST_ANSWER)


def test_a_short_answer_is_not_made_shorter_still() -> None:
    with pytest.raises(ContextExceeded):
        room_for_answer(901, max_tokens=100, context_length=1000, fit=True)


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
