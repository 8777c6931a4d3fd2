"""What llama-server is asked for the rest of an answer, and which answers can't go on there."""

from __future__ import annotations

from typing import Any

import pytest

from quern.engine.base import Finished, GenerateRequest, Tokens
from quern.engine.llamacpp.continuation import of_whole, require_continuable, rest_of
from quern.engine.llamacpp.request import completion_request
from quern.engine.slots import Lease
from quern.errors import InvalidRequest
from quern.grammar.kinds import JsonGrammar
from quern.sampling import SamplingParams
from quern.types import FinishReason, Timings, Usage


def request(generated: tuple[int, ...] = (), **values: Any) -> GenerateRequest:
    asked: dict[str, Any] = {"max_tokens": 10, "temperature": 0, **values}
    sampling = SamplingParams(**asked)
    return GenerateRequest((1, 2, 3), sampling, generated=generated)


@pytest.mark.parametrize("penalty", [{}, {"repetition_penalty": 1.3}, {"presence_penalty": 1.0}])
def test_the_rest_begins_after_what_there_is_with_the_same_window_of_penalties(penalty: dict[str, Any]) -> None:
    whole = completion_request(request(**penalty), Lease(0, 0))
    rest = completion_request(rest_of(request((7, 8, 7, 9), **penalty)), Lease(0, 0))
    assert rest == {**whole, "prompt": (1, 2, 3, 7, 8, 7, 9), "n_predict": 6}


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"seed": 5},
        {"seed": 5, "temperature": 1.0, "top_p": 0.0},
        {"seed": 5, "temperature": 1e-9},
        {"seed": 5, "temperature": 1.0, "top_k": 1},
        {"temperature": 1.0},
    ],
)
def test_where_the_likeliest_is_drawn_or_no_seed_was_asked_for_an_answer_goes_on(values: dict[str, Any]) -> None:
    require_continuable(request(**values))


def test_a_seeds_draws_and_a_grammar_cant_be_gone_on_with_and_the_sentence_says_what_can() -> None:
    with pytest.raises(InvalidRequest, match=r"drawn with a seed.*engine cpu"):
        require_continuable(request(seed=0, temperature=0.2))
    for seed in (None, 5):
        constrained = GenerateRequest((1,), SamplingParams(temperature=0, seed=seed), grammar=JsonGrammar("{}"))
        with pytest.raises(InvalidRequest, match=r"keep to a grammar.*engine cpu"):
            require_continuable(constrained)


def test_the_end_counts_the_whole_answer() -> None:
    timings = Timings(1, 2, 3, 4)
    end = Finished(FinishReason.STOP, Usage(7, 6, 2), timings)
    assert of_whole(end, request((7, 8, 7, 9))) == Finished(FinishReason.STOP, Usage(3, 3, 6), timings)
    assert of_whole(end, request((7, 8, 7, 9))) == of_whole(
        Finished(FinishReason.STOP, Usage(7, 3, 2), timings), request((7, 8, 7, 9))
    )
    tokens = Tokens((5,))
    assert of_whole(tokens, request((7,))) is tokens
