"""The native sampler against the naive one, and what each of its options means."""

from __future__ import annotations

import math
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from quern.engine.cpu import _native

from .sampling_cases import INF, SETTINGS, draws, logit_rows, row, sampler
from .sampling_reference import Floats, NaiveSampler, Settings, philox4x32


@settings(deadline=None)
@given(logits=logit_rows(), options=SETTINGS, data=st.data())
def test_every_draw_is_the_naive_samplers(logits: Floats, options: Settings, data: st.DataObject) -> None:
    ids = st.integers(0, logits.size - 1)
    biases = st.one_of(st.floats(-100, 100, width=32), st.just(-INF))
    options.logit_bias = data.draw(st.dictionaries(ids, biases, max_size=5))
    options.logit_bias.pop(0, None)  # one finite logit has to stay
    prompt = data.draw(st.lists(ids, max_size=20))
    native = sampler(logits, **asdict(options))
    native.observe_prompt(prompt)
    naive = NaiveSampler(options, prompt)
    for _ in range(5):
        expected = naive.sample(logits)
        assume(expected.margin > 2e-6)  # nearer than that, single precision may decide otherwise
        assert native.sample(logits).id == expected.id


def test_the_random_numbers_are_philox() -> None:
    digits_of_pi = philox4x32((0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344), (0xA4093822, 0x299F31D0))
    assert digits_of_pi == (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1)
    even = np.zeros(65_536, np.float32)
    naive = NaiveSampler(Settings(temperature=1.0, seed=2**64 - 1))
    assert draws(even, 50, temperature=1.0, seed=2**64 - 1) == [naive.sample(even).id for _ in range(50)]


LIMIT_OF_29_DEGREES = 66.2
"""A chi-square variable with 29 degrees of freedom exceeds it once in ten thousand times."""


def chi_square(observed: Counter[int], probabilities: list[float], count: int) -> float:
    """Pearson's statistic."""
    return sum((observed[token] - p * count) ** 2 / (p * count) for token, p in enumerate(probabilities))


@pytest.mark.parametrize("options", [{}, {"top_k": 30}, {"top_p": 0.999_999}, {"min_p": 1e-6}])
def test_tokens_are_drawn_as_often_as_they_are_probable(options: dict[str, float]) -> None:
    logits = np.random.default_rng(7).normal(0, 1, 30).astype(np.float32)
    weights = np.exp(logits.astype(np.float64) / 0.7)
    probabilities: list[float] = (weights / weights.sum()).tolist()
    of_one_seed = Counter(draws(logits, 20_000, temperature=0.7, seed=1, **options))
    assert chi_square(of_one_seed, probabilities, 20_000) < LIMIT_OF_29_DEGREES
    first_of_each = Counter(draws(logits, 1, temperature=0.7, seed=seed, **options)[0] for seed in range(20_000))
    assert chi_square(first_of_each, probabilities, 20_000) < LIMIT_OF_29_DEGREES


def test_a_seed_repeats_its_tokens_and_another_seed_has_others() -> None:
    even = np.zeros(1000, np.float32)
    assert draws(even, 20, temperature=1.0, seed=5) == draws(even, 20, temperature=1.0, seed=5)
    assert draws(even, 20, temperature=1.0, seed=5) != draws(even, 20, temperature=1.0, seed=6)
    assert draws(even, 20, temperature=1.0, seed=5) != draws(even, 20, temperature=1.0, seed=5 + 2**32)


def test_the_nth_token_does_not_depend_on_the_logits_before() -> None:
    even = np.zeros(1000, np.float32)
    other = sampler(even, temperature=1.0, seed=5)
    other.sample(np.arange(1000, dtype=np.float32))
    assert other.sample(even).id == draws(even, 2, temperature=1.0, seed=5)[1]


@settings(deadline=None)
@given(logits=logit_rows(), options=SETTINGS, lives=st.lists(st.integers(0, 9), min_size=1, max_size=4), data=st.data())
def test_a_sampler_goes_on_after_what_another_drew_as_that_one_would(
    logits: Floats, options: Settings, lives: list[int], data: st.DataObject
) -> None:
    """Under masks and in several lives too, each a sampler of its own, and its numbers are the same to the bit."""
    ids = st.integers(0, logits.size - 1)
    options.logit_bias = data.draw(st.dictionaries(ids, st.floats(-100, 100, width=32), max_size=5))
    prompt = data.draw(st.lists(ids, max_size=20))
    random = np.random.default_rng(sum(lives))
    rows = [logits + random.normal(0, 2, logits.size).astype(np.float32) for _ in range(sum(lives))]
    masks = [b"\xff" * (logits.size // 8 + 4) if n % 3 else None for n in range(len(rows))]
    undisturbed = sampler(logits, top_logprobs=1, **asdict(options))
    undisturbed.observe_prompt(prompt)
    whole = [_sample(undisturbed, row, mask) for row, mask in zip(rows, masks, strict=True)]
    drawn: list[tuple[int, float, list[tuple[int, float]]]] = []
    for life in lives:
        one = sampler(logits, top_logprobs=1, **asdict(options))
        one.observe_prompt(prompt)
        one.observe_generated([token for token, _, _ in drawn])
        assert one.position == len(drawn)
        drawn += [_sample(one, rows[n], masks[n]) for n in range(len(drawn), len(drawn) + life)]
    assert drawn == whole


def _sample(one: _native.Sampler, logits: Floats, mask: bytes | None) -> tuple[int, float, list[tuple[int, float]]]:
    if mask is not None:
        one.allow(mask)
    token = one.sample(logits)
    return token.id, token.logprob, list(token.top)


@pytest.mark.parametrize("options", [{"temperature": 0.0}, {"temperature": 1.0}, {"temperature": 1.0, "top_k": 1}])
def test_a_draw_moves_the_position_by_one_whatever_it_draws(options: dict[str, float]) -> None:
    one = sampler(row(1, 2, 3), **options)
    for position in range(4):
        assert one.position == position
        one.allow(b"\x04" + bytes(7))
        one.sample(row(1, 2, 3))
    one.observe_prompt([0, 1])
    assert one.position == 4
    with pytest.raises(RuntimeError):
        one.sample(row(-INF, -INF, -INF))
    assert one.position == 4


def test_an_id_that_is_not_in_the_vocabulary_was_never_drawn() -> None:
    one = sampler(row(1, 2, 3), frequency_penalty=1.0)
    for ids in ([0, 3], [-1]):
        with pytest.raises(ValueError, match=r"answer so far has the id -?\d.* 0 to 2"):
            one.observe_generated(ids)
    assert one.position == 0


def test_samplers_may_draw_at_the_same_time() -> None:
    logits = np.random.default_rng(3).normal(0, 2, 20_000).astype(np.float32)

    def run(seed: int) -> list[int]:
        return draws(logits, 50, temperature=1.0, top_p=0.9, repetition_penalty=1.1, seed=seed)

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(run, range(8))) == [run(seed) for seed in range(8)]


@pytest.mark.parametrize("gap", [1, 255, 256, 5000])
def test_greedy_takes_the_lowest_of_equal_ids(gap: int) -> None:
    logits = np.zeros(6000, np.float32)
    logits[[300, 300 + gap]] = 1
    assert draws(logits, 1) == [300]
    assert set(draws(logits, 20, temperature=1.0, top_k=1)) == {300}


def test_top_p_includes_the_token_that_reaches_it() -> None:
    logits = np.log(row(0.5, 0.3, 0.15, 0.05))
    assert set(draws(logits, 200, temperature=1.0, top_p=0.49)) == {0}
    assert set(draws(logits, 200, temperature=1.0, top_p=0.51)) == {0, 1}
    assert set(draws(logits, 200, temperature=1.0, top_p=0.81)) == {0, 1, 2}


def test_top_p_may_be_reached_exactly_and_prefers_the_lower_of_equal_ids() -> None:
    for size in (4, 1000):
        drawn = draws(np.zeros(size, np.float32), 20 * size, temperature=1.0, top_p=0.5)
        assert set(drawn) == set(range(size // 2))


def test_top_p_is_a_share_of_what_top_k_leaves() -> None:
    logits = np.log(row(0.4, 0.3, 0.2, 0.1))
    assert set(draws(logits, 200, temperature=1.0, top_p=0.55)) == {0, 1}
    assert set(draws(logits, 200, temperature=1.0, top_p=0.55, top_k=2)) == {0}


def test_min_p_is_relative_to_the_likeliest() -> None:
    logits = np.log(row(0.5, 0.3, 0.15, 0.05))
    assert set(draws(logits, 200, temperature=1.0, min_p=0.25)) == {0, 1, 2}
    assert set(draws(logits, 200, temperature=1.0, min_p=0.35)) == {0, 1}


def test_temperature_comes_before_truncation() -> None:
    logits = np.log(row(0.5, 0.3, 0.15, 0.05))
    assert set(draws(logits, 200, temperature=0.1, top_p=0.9)) == {0}
    assert set(draws(logits, 200, temperature=100, top_p=0.9)) == {0, 1, 2, 3}


def test_the_repetition_penalty_divides_positive_logits_and_multiplies_negative_ones() -> None:
    for logits in (row(2, 1.5), row(-1.5, -2)):
        for penalty, expected in ((1.3, 0), (1.4, 1)):
            one = sampler(logits, repetition_penalty=penalty)
            one.observe_prompt([0, 0])
            assert one.sample(logits).id == expected


def test_the_repetition_penalty_sees_generated_tokens_too() -> None:
    assert draws(row(2, 1.5, 1.4), 3, repetition_penalty=1.5) == [0, 1, 2]


def test_the_presence_penalty_counts_once_and_only_generated_tokens() -> None:
    one = sampler(row(2, 1.5), presence_penalty=0.6)
    one.observe_prompt([0])
    assert [one.sample(row(2, 1.5)).id for _ in range(4)] == [0, 1, 0, 0]


def test_the_frequency_penalty_grows_with_the_count() -> None:
    assert draws(row(2, 1.0), 5, frequency_penalty=0.4) == [0, 0, 0, 1, 0]


def test_a_bias_forces_or_forbids_a_token() -> None:
    logits = row(20, 0, -20)
    assert set(draws(logits, 50, temperature=1.0, logit_bias={2: 100})) == {2}
    assert set(draws(logits, 50, temperature=1.0, logit_bias={0: -INF})) == {1}
    assert draws(logits, 1, logit_bias={0: -100}) == [1]


def test_a_bias_comes_before_the_penalties() -> None:
    logits = row(-1, 0.2)
    one = sampler(logits, repetition_penalty=2.0, logit_bias={0: 2})
    one.observe_prompt([0])
    assert one.sample(logits).id == 0  # (-1 + 2) / 2; the other way round it would be -1 * 2 + 2


def test_a_nan_is_never_drawn() -> None:
    logits = np.full(600, np.nan, np.float32)
    logits[[17, 400]] = 0, -INF
    assert set(draws(logits, 20, temperature=2.0)) == {17}
    assert draws(logits, 1) == [17]
    assert sampler(logits).sample(logits).logprob == 0


def test_an_infinite_logit_wins() -> None:
    logits = row(5, INF, 1)
    for options in ({}, {"temperature": 1.0}, {"temperature": 1.0, "top_p": 0.9, "repetition_penalty": 0.5}):
        one = sampler(logits, **options)
        assert [one.sample(logits).id for _ in range(2)] == [1, 1]


def test_hopeless_logits_raise_and_leave_the_sampler_as_it_was() -> None:
    even = np.zeros(1000, np.float32)
    one = sampler(even, temperature=1.0, seed=3)
    for hopeless in (np.nan, -INF):
        with pytest.raises(RuntimeError, match=r"Every logit is NaN or -inf.*Check the model file"):
            one.sample(np.full(1000, hopeless, np.float32))
    assert one.sample(even).id == draws(even, 1, temperature=1.0, seed=3)[0]


def test_a_bias_that_leaves_nothing_raises() -> None:
    with pytest.raises(RuntimeError, match="logit_bias rules out every token that the model allows"):
        draws(row(1, -INF), 1, logit_bias={0: -INF})


@pytest.mark.parametrize("spread", [0.01, 1, 10])
def test_logprobs_are_the_models_own_whatever_the_options(spread: float) -> None:
    logits = np.random.default_rng(11).normal(20, spread, 151_936).astype(np.float32)
    doubles = logits.astype(np.float64)
    expected = doubles - doubles.max() - np.log(np.exp(doubles - doubles.max()).sum())
    one = sampler(logits, temperature=1.5, top_p=0.9, repetition_penalty=1.2, logit_bias={7: 5.0}, top_logprobs=7)
    for _ in range(3):
        token = one.sample(logits)
        assert token.logprob == pytest.approx(expected[token.id], abs=2e-5)
        assert [top for top, _ in token.top] == np.argsort(-expected)[:7].tolist()
        assert [logprob for _, logprob in token.top] == pytest.approx(np.sort(expected)[:-8:-1], abs=2e-5)


def test_all_top_logprobs_together_are_certain() -> None:
    logits = np.random.default_rng(12).normal(0, 3, 700).astype(np.float32)
    top = sampler(logits, top_logprobs=700).sample(logits).top
    assert len({token for token, _ in top}) == 700
    assert [logprob for _, logprob in top] == sorted((logprob for _, logprob in top), reverse=True)
    assert math.fsum(math.exp(logprob) for _, logprob in top) == pytest.approx(1, abs=1e-6)


def test_top_logprobs_leave_out_what_cannot_be_drawn() -> None:
    logits = row(0, -INF, 0, math.nan)
    half = pytest.approx(-math.log(2))
    assert sampler(logits, top_logprobs=3).sample(logits).top == [(0, half), (2, half)]


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"vocabulary_size": 0}, "vocabulary_size is 0; it must be at least 1."),
        ({"temperature": -0.1}, "temperature is -0.1; it must be from 0 (greedy) to 100."),
        ({"temperature": math.nan}, "temperature is nan; it must be from 0 (greedy) to 100."),
        ({"top_k": -1}, "top_k is -1; it must be at least 1, or 0 to switch it off."),
        ({"top_p": 0.0}, "top_p is 0; it must be above 0 and at most 1 (off)."),
        ({"top_p": 1.5}, "top_p is 1.5; it must be above 0 and at most 1 (off)."),
        ({"min_p": 1.1}, "min_p is 1.1; it must be from 0 (off) to 1."),
        (
            {"repetition_penalty": 0.0},
            "repetition_penalty is 0; it must be above 0 and at most 100; 1 switches it off.",
        ),
        ({"presence_penalty": INF}, "presence_penalty is inf; it must be from -100 to 100; 0 switches it off."),
        ({"frequency_penalty": -101.0}, "frequency_penalty is -101; it must be from -100 to 100; 0 switches it off."),
        ({"top_logprobs": 11}, "top_logprobs is 11; it must be from 0 to vocabulary_size."),
        (
            {"logit_bias": {10: 1.0}},
            "An id of logit_bias is 10; it must be from 0 to 9, the ids of the vocabulary.",
        ),
        (
            {"logit_bias": {3: INF}},
            "logit_bias of id 3 is inf; it must be finite, or -inf to rule the id out.",
        ),
        (
            {"logit_bias": {3: math.nan}},
            "logit_bias of id 3 is nan; it must be finite, or -inf to rule the id out.",
        ),
    ],
)
def test_an_option_out_of_range_is_refused_with_a_sentence(options: dict[str, Any], sentence: str) -> None:
    invalid: dict[str, Any] = {"vocabulary_size": 10, **options}
    with pytest.raises(ValueError, match=r".") as refused:
        _native.Sampler(**invalid)
    assert str(refused.value) == sentence


def test_a_prompt_with_an_id_outside_of_the_vocabulary_is_refused() -> None:
    one = sampler(row(0, 0), repetition_penalty=1.1)
    for outside in (-1, 2):
        with pytest.raises(ValueError, match=f"The prompt has the id {outside}; ids of this vocabulary are 0 to 1."):
            one.observe_prompt([0, outside])


def test_logits_of_another_length_are_refused() -> None:
    with pytest.raises(ValueError, match=r"There are 3 logits; the sampler's vocabulary has 2, and it needs one for"):
        sampler(row(0, 0)).sample(row(0, 0, 0))
    with pytest.raises(TypeError):
        sampler(row(0, 0)).sample(np.zeros(2, np.float64))
