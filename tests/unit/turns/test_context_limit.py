"""What fits into the context."""

import pytest

from quern.errors import ContextExceeded
from quern.turns.context_limit import LEAST_ANSWER, room_for_answer


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
