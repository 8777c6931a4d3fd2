"""What llama-server is asked for."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quern.engine.base import GenerateRequest
from quern.engine.llamacpp.request import RANDOM_SEED, completion_request, restarts, sampling_fields
from quern.engine.slots import Lease
from quern.grammar.kinds import LarkGrammar
from quern.sampling import PARAMETERS, SamplingParams

OTHER_VALUES = {"top_p": 0.5, "logit_bias": {3: 1.5}, "ignore_eos": True}


def test_every_sampling_value_is_passed_on_under_llama_cpps_name() -> None:
    sampling = SamplingParams(
        max_tokens=7,
        temperature=0.6,
        top_p=0.9,
        top_k=33,
        min_p=0.05,
        repetition_penalty=1.1,
        seed=5,
        logit_bias={3: -100.0, 4: 1.5, 5: -math.inf},
        ignore_eos=True,
    )
    assert sampling_fields(sampling, 100) == {
        "n_predict": 7,
        "samplers": ("penalties", "temperature", "top_k", "top_p", "min_p"),
        "temperature": 0.6,
        "top_p": 0.9,
        "top_k": 33,
        "min_p": 0.05,
        "repeat_penalty": 1.1,
        "presence_penalty": 0.0,
        "frequency_penalty": 0.0,
        "repeat_last_n": 100,
        "seed": 5,
        "logit_bias": [(3, -100.0), (4, 1.5), (5, False)],
        "ignore_eos": True,
    }


@pytest.mark.parametrize("name", PARAMETERS)
def test_no_sampling_parameter_is_forgotten(name: str) -> None:
    changed = SamplingParams(**{name: OTHER_VALUES.get(name, 1)})  # pyright: ignore[reportArgumentType]
    assert sampling_fields(changed, 100) != sampling_fields(SamplingParams(), 100)


def test_the_repetition_penalty_sees_the_whole_context() -> None:
    request = GenerateRequest((1, 2, 3), SamplingParams(max_tokens=10))
    assert completion_request(request, Lease(0, 0))["repeat_last_n"] == 13


@pytest.mark.parametrize("penalty", [{"presence_penalty": 0.5}, {"frequency_penalty": -0.5}])
def test_penalties_that_count_see_only_recent_tokens(penalty: dict[str, float]) -> None:
    assert sampling_fields(SamplingParams(**penalty), 10_000)["repeat_last_n"] == 64  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("greedy", [{"temperature": 0, "top_p": 0.5}, {"temperature": 1e-9}, {"top_p": 0}])
def test_a_greedy_answer_is_greedy_whatever_the_other_filters_say(greedy: dict[str, float]) -> None:
    fields = sampling_fields(SamplingParams(**greedy, top_k=0, min_p=0.3), 10)  # pyright: ignore[reportArgumentType]
    assert (fields["temperature"], fields["top_k"], fields["top_p"], fields["min_p"]) == (0.0, 1, 1.0, 0.0)


def test_no_seed_is_a_random_one() -> None:
    assert sampling_fields(SamplingParams(seed=None), 10)["seed"] == RANDOM_SEED


@given(st.integers(-(2**63), 2**64 - 1))
def test_every_seed_folds_into_32_bits_and_none_of_them_means_random(seed: int) -> None:
    folded = sampling_fields(SamplingParams(seed=seed), 10)["seed"]
    assert isinstance(folded, int)
    assert 0 <= folded < RANDOM_SEED
    assert folded == sampling_fields(SamplingParams(seed=seed), 10)["seed"]


@given(st.integers(0, RANDOM_SEED - 1))
def test_seeds_of_32_bits_are_passed_as_they_are(seed: int) -> None:
    assert sampling_fields(SamplingParams(seed=seed), 10)["seed"] == seed


@pytest.mark.parametrize(("reusable", "cache_prompt"), [(0, False), (5, True)])
def test_a_slots_cache_is_used_only_where_the_lease_allows_it(reusable: int, cache_prompt: bool) -> None:
    body = completion_request(GenerateRequest((1, 2), SamplingParams()), Lease(3, reusable))
    assert body["id_slot"] == 3
    assert body["cache_prompt"] is cache_prompt
    assert body["prompt"] == (1, 2)


@pytest.mark.parametrize(("asked", "n_probs"), [(0, 1), (1, 1), (5, 5)])
def test_probabilities_are_asked_for_as_they_are_before_sampling(asked: int, n_probs: int) -> None:
    fields = sampling_fields(SamplingParams(logprobs=asked), 10)
    assert fields["n_probs"] == n_probs
    assert fields["post_sampling_probs"] is False


def test_without_a_grammar_none_is_named() -> None:
    body = completion_request(GenerateRequest((1, 2), SamplingParams(ignore_eos=True)), Lease(0, 0))
    assert "grammar" not in body
    assert "n_probs" not in body
    assert body["logit_bias"] == []
    assert body["ignore_eos"] is True


def test_a_grammar_is_marked_as_llguidances_and_can_be_ended() -> None:
    sampling = SamplingParams(logit_bias={5: 1.5}, ignore_eos=True)
    body = completion_request(GenerateRequest((1, 2), sampling), Lease(0, 0), 'start: "a"')
    assert body["grammar"] == '%llguidance {"no_forcing": true}\nstart: "a"'
    assert body["logit_bias"] == [(5, 1.5)]
    assert body["ignore_eos"] is False


@pytest.mark.parametrize(
    ("sampling", "grammar", "expected"),
    [
        (SamplingParams(), None, True),
        (SamplingParams(seed=1), None, False),
        (SamplingParams(seed=1, temperature=0), None, True),
        (SamplingParams(seed=1, top_p=0), None, True),
        (SamplingParams(seed=1, top_k=1), None, True),
        (SamplingParams(temperature=0), LarkGrammar('start: "a"'), False),
    ],
)
def test_only_an_answer_that_goes_on_as_if_it_had_not_been_cut_short_may_be(
    sampling: SamplingParams, grammar: LarkGrammar | None, expected: bool
) -> None:
    assert (restarts(GenerateRequest((1,), sampling, grammar=grammar)) is None) is expected
