"""What fits into the context and when a place is likely to be free."""

import pytest

from quern.errors import ContextExceeded
from quern.turns.budget import (
    LONGEST_RETRY_AFTER,
    UNMEASURED_RETRY_AFTER,
    Progress,
    TurnLengths,
    check_context,
    retry_after,
)


def test_a_request_that_fills_the_context_exactly_is_accepted() -> None:
    check_context(prompt_tokens=60, max_tokens=40, context_length=100)


def test_a_request_one_token_over_the_context_is_refused_with_its_counts() -> None:
    with pytest.raises(ContextExceeded) as refused:
        check_context(prompt_tokens=61, max_tokens=40, context_length=100)
    assert (refused.value.prompt_tokens, refused.value.max_tokens, refused.value.context_length) == (61, 40, 100)
    assert "101 tokens" in str(refused.value)
    assert "61 for the prompt" in str(refused.value)
    assert "limit is 100" in str(refused.value)


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
