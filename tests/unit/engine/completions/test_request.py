"""What a server of completions is asked for."""

from __future__ import annotations

import json
import math
from dataclasses import fields, replace
from typing import Any

import pytest

from quern.engine.base import GenerateRequest, Priority
from quern.engine.completions.request import ALL, Abilities, Asked, completion_body, restarts
from quern.engine.served.continuation import Restarts
from quern.grammar.kinds import JsonGrammar
from quern.sampling import PARAMETERS, SamplingParams

END = frozenset({50})


def request(**values: Any) -> GenerateRequest:
    asked: dict[str, Any] = {"max_tokens": 10, "temperature": 0.5, "seed": None, **values}
    return GenerateRequest((1, 2, 3), SamplingParams(**asked), cache_salt="salt", stop_token_ids=frozenset({9}))


def body(asked: GenerateRequest, abilities: Abilities = ALL, lark: str | None = None) -> dict[str, Any]:
    return dict(completion_body(Asked(asked, END, lark), "name", abilities))


def test_every_sampling_value_is_passed_on_by_its_name() -> None:
    values: dict[str, Any] = {
        "max_tokens": 7,
        "temperature": 0.6,
        "top_p": 0.9,
        "top_k": 33,
        "min_p": 0.05,
        "repetition_penalty": 1.1,
        "presence_penalty": 0.3,
        "frequency_penalty": -0.2,
        "seed": 5,
        "logprobs": 3,
    }
    sent = body(request(**values))
    assert {name: sent[name] for name in values} == values
    assert set(values) | {"logit_bias", "ignore_eos"} == set(PARAMETERS) == {one.name for one in fields(SamplingParams)}
    assert sent["return_tokens_as_token_ids"] is True


def test_the_answer_is_streamed_with_its_ids_and_counts() -> None:
    sent = body(request())
    assert (sent["model"], sent["prompt"], sent["stream"]) == ("name", (1, 2, 3), True)
    assert sent["return_token_ids"] is True
    assert sent["stream_options"] == {"include_usage": True}
    assert "logprobs" not in sent
    assert "seed" not in sent
    json.dumps(sent, allow_nan=False)


@pytest.mark.parametrize("values", [{"temperature": 0.0}, {"temperature": 1e-9}, {"top_k": 1}, {"top_p": 0.0}])
def test_where_only_the_likeliest_can_be_drawn_it_is_asked_for_as_greedy(values: dict[str, Any]) -> None:
    sent = body(request(**values))
    assert sent["temperature"] == 0.0
    assert not {"top_p", "top_k", "min_p"} & set(sent)


def test_a_bias_stays_within_what_the_server_takes_and_within_json() -> None:
    sent = body(request(logit_bias={1: -math.inf, 2: 1000.0, 3: 0.5}))
    assert sent["logit_bias"] == {"1": -100.0, "2": 100.0, "3": 0.5}
    json.dumps(sent, allow_nan=False)


def test_the_seed_that_means_none_there_becomes_another() -> None:
    assert body(request(seed=-1))["seed"] not in {-1, None}
    assert body(request(seed=-(2**63)))["seed"] == -(2**63)


def test_the_models_own_ends_are_stops_unless_they_are_to_be_ignored() -> None:
    assert body(request())["stop_token_ids"] == [9, 50]
    ignoring = body(request(ignore_eos=True))
    assert (ignoring["stop_token_ids"], ignoring["ignore_eos"]) == ([9], True)


def test_under_a_grammar_the_models_end_ends_the_answer_whatever_was_asked() -> None:
    sent = body(request(ignore_eos=True), lark='start: "a"')
    assert sent["structured_outputs"] == {"grammar": '%llguidance {"no_forcing": true}\nstart: "a"'}
    assert (sent["stop_token_ids"], sent["ignore_eos"]) == ([9, 50], False)


def test_salt_and_priority_are_told() -> None:
    asked = replace(request(), priority=Priority.BACKGROUND)
    assert (body(asked)["cache_salt"], body(asked)["priority"]) == ("salt", 2)
    asked.override.priority = Priority.INTERACTIVE
    assert body(asked)["priority"] == 0
    assert "cache_salt" not in body(replace(asked, cache_salt=""))


def test_what_a_server_does_not_know_is_not_sent() -> None:
    sent = body(request(logprobs=2), Abilities(grammars=False, salts=False, priorities=False, logprobs=False))
    assert not {"cache_salt", "priority", "logprobs", "return_tokens_as_token_ids"} & set(sent)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({}, None),
        ({"repetition_penalty": 1.5}, None),
        ({"seed": 5, "temperature": 0.0}, None),
        ({"seed": 5}, Restarts.SEED),
        ({"presence_penalty": 0.1}, Restarts.PENALTIES),
        ({"temperature": 0.0, "frequency_penalty": -1.0}, Restarts.PENALTIES),
    ],
)
def test_what_begins_anew_where_an_answer_goes_on(values: dict[str, Any], expected: Restarts | None) -> None:
    assert restarts(request(**values)) is expected
    assert restarts(replace(request(**values), grammar=JsonGrammar("{}"))) is Restarts.GRAMMAR


def test_the_rest_of_an_answer_is_asked_for_after_what_there_is_of_it() -> None:
    rest = Asked(request(), END).after((7, 8))
    assert dict(completion_body(rest, "name", ALL)) == {**body(request()), "prompt": (1, 2, 3, 7, 8), "max_tokens": 8}
    assert rest.goes_on
    assert not Asked(request(seed=3), END).goes_on
