"""What llama-server is asked for the rest of an answer, and which answers can't go on there."""

from __future__ import annotations

import re
from typing import Any

import pytest

from quern.engine.base import Finished, GenerateRequest, Tokens
from quern.engine.llamacpp.request import completion_request, restarts
from quern.engine.served.continuation import Restarts, of_whole, refusal, rest_of
from quern.engine.slots import Lease
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
    assert restarts(request(**values)) is None


def test_a_seeds_draws_and_a_grammar_cant_be_gone_on_with() -> None:
    assert restarts(request(seed=0, temperature=0.2)) is Restarts.SEED
    for seed in (None, 5):
        constrained = GenerateRequest((1,), SamplingParams(temperature=0, seed=seed), grammar=JsonGrammar("{}"))
        assert restarts(constrained) is Restarts.GRAMMAR


@pytest.mark.parametrize(
    ("what", "words"),
    [(Restarts.SEED, "drawn with a seed"), (Restarts.GRAMMAR, "keep to a grammar"), (Restarts.PENALTIES, "penalty")],
)
def test_what_cant_go_on_is_refused_with_the_reason_and_the_engine_that_can(what: Restarts, words: str) -> None:
    assert re.search(rf"{words}.*engine llamacpp.*engine cpu", str(refusal(what, "llamacpp")))


def test_the_end_counts_the_whole_answer() -> None:
    timings = Timings(1, 2, 3, 4)
    end = Finished(FinishReason.STOP, Usage(7, 6, 2), timings)
    assert of_whole(end, request((7, 8, 7, 9))) == Finished(FinishReason.STOP, Usage(3, 3, 6), timings)
    assert of_whole(end, request((7, 8, 7, 9))) == of_whole(
        Finished(FinishReason.STOP, Usage(7, 3, 2), timings), request((7, 8, 7, 9))
    )
    tokens = Tokens((5,))
    assert of_whole(tokens, request((7,))) is tokens
