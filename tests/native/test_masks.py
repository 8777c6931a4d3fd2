"""The native sampler where only some ids are allowed, against the naive one."""

from __future__ import annotations

import math
from dataclasses import asdict
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from .sampling_cases import INF, SETTINGS, draws, logit_rows, row, sampler
from .sampling_reference import Bools, Floats, NaiveSampler, Settings


def mask_of(allowed: Bools) -> bytes:
    """The bits of a mask, as `allow` takes it."""
    words = np.zeros(-(-allowed.size // 32) * 32, np.bool_)
    words[: allowed.size] = allowed
    return np.packbits(words, bitorder="little").tobytes()


def only(size: int, *ids: int) -> bytes:
    """A mask that allows these ids of a vocabulary."""
    allowed = np.zeros(size, np.bool_)
    allowed[list(ids)] = True
    return mask_of(allowed)


@settings(deadline=None)
@given(
    logits=logit_rows(),
    options=SETTINGS,
    share=st.sampled_from([0.0, 0.001, 0.3, 0.97, 1.0]),
    seed=st.integers(0, 2**32),
    data=st.data(),
)
def test_every_draw_under_a_mask_is_the_naive_samplers(
    logits: Floats, options: Settings, share: float, seed: int, data: st.DataObject
) -> None:
    ids = st.integers(0, logits.size - 1)
    options.logit_bias = data.draw(st.dictionaries(ids, st.floats(-100, 100, width=32), max_size=5))
    prompt = data.draw(st.lists(ids, max_size=20))
    native = sampler(logits, **asdict(options))
    native.observe_prompt(prompt)
    naive = NaiveSampler(options, prompt)
    random = np.random.default_rng(seed)
    for turn in range(6):
        allowed = random.random(logits.size) < share if turn % 3 < 2 else None
        if allowed is not None:
            allowed[0] = True  # one finite logit has to stay
            native.allow(mask_of(allowed))
        expected = naive.sample(logits, allowed)
        assume(expected.margin > 2e-6)
        drawn = native.sample(logits)
        assert drawn.id == expected.id
        assert allowed is None or allowed[drawn.id]


@pytest.mark.parametrize("forbidden", [1, 255, 256, 999])
@pytest.mark.parametrize(
    "options",
    [{}, {"temperature": 100.0}, {"temperature": 1.0, "top_k": 5}, {"temperature": 1.0, "top_p": 0.9}],
)
def test_no_bias_penalty_or_temperature_brings_a_forbidden_id_back(options: dict[str, Any], forbidden: int) -> None:
    logits = np.full(1000, -50, np.float32)
    logits[forbidden] = 50
    one = sampler(
        logits, presence_penalty=-100.0, repetition_penalty=0.01, logit_bias={forbidden: 100.0, 7: 1.0}, **options
    )
    one.observe_prompt([forbidden])
    allowed = np.ones(1000, np.bool_)
    allowed[forbidden] = False
    for _ in range(50):
        one.allow(mask_of(allowed))
        assert one.sample(logits).id != forbidden


def test_a_mask_is_for_one_draw() -> None:
    logits = row(5, 1, 0)
    one = sampler(logits)
    one.allow(only(3, 2))
    one.allow(only(3, 1))
    assert [one.sample(logits).id for _ in range(2)] == [1, 0]


def test_logprobs_under_a_mask_are_those_of_all_ids() -> None:
    logits = np.log(row(0.5, 0.3, 0.2))
    one = sampler(logits, top_logprobs=2)
    one.allow(only(3, 2))
    token = one.sample(logits)
    assert (token.id, token.logprob) == (2, pytest.approx(math.log(0.2)))
    assert token.top == [(0, pytest.approx(math.log(0.5))), (1, pytest.approx(math.log(0.3)))]


def test_bits_beyond_the_vocabulary_dont_matter() -> None:
    logits = row(1, 2)
    for mask in (b"\xfd\xff\xff\xff", b"\xfd", b"\xfd" + b"\xff" * 4000):
        one = sampler(logits)
        one.allow(mask)
        assert one.sample(logits).id == 0


def test_a_mask_that_leaves_nothing_raises_and_leaves_the_sampler_as_it_was() -> None:
    even = np.zeros(1000, np.float32)
    one = sampler(even, temperature=1.0, seed=3, logit_bias={5: -INF})
    for mask in (only(1000), only(1000, 5)):
        one.allow(mask)
        with pytest.raises(RuntimeError, match="The mask and logit_bias rule out every token that the model allows"):
            one.sample(even)
    one.allow(mask_of(np.ones(1000, np.bool_)))
    assert one.sample(even).id == draws(even, 1, temperature=1.0, seed=3, logit_bias={5: -INF})[0]


def test_a_mask_that_is_too_short_is_refused() -> None:
    one = sampler(np.zeros(1000, np.float32))
    with pytest.raises(ValueError, match=r"The mask has 992 bits; the sampler's vocabulary has 1000 ids, and it needs"):
        one.allow(bytes(124))
    with pytest.raises(TypeError):
        one.allow("1" * 1000)  # pyright: ignore[reportArgumentType]
