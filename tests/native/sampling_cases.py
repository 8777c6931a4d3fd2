"""What tests of the sampler share: logits, settings, and samplers for them."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from hypothesis import strategies as st

from quern.engine.cpu import _native

from .sampling_reference import Floats, Settings

INF = math.inf


def row(*logits: float) -> Floats:
    """Logits of a small vocabulary."""
    return np.array(logits, np.float32)


def sampler(logits: Floats, **options: Any) -> _native.Sampler:
    """A sampler for the vocabulary of `logits`."""
    return _native.Sampler(vocabulary_size=logits.size, **options)


def draws(logits: Floats, count: int, **options: Any) -> list[int]:
    """`count` tokens of one sampler."""
    one = sampler(logits, **options)
    return [one.sample(logits).id for _ in range(count)]


@st.composite
def logit_rows(draw: st.DrawFn) -> Floats:
    """Rows of any shape: steep or flat, with ties, with values that can't be drawn, around a block's length."""
    size = draw(st.sampled_from([1, 2, 7, 255, 256, 257, 1000, 5000, 70_000]))
    random = np.random.default_rng(draw(st.integers(0, 2**32)))
    logits = random.normal(draw(st.sampled_from([0, 20, -50])), draw(st.sampled_from([0.01, 1, 4, 15])), size)
    if draw(st.booleans()):
        logits = np.round(logits)
    broken = draw(st.sampled_from([0, 0, 0.1, 0.9]))
    logits[1:][random.random(size - 1) < broken] = draw(st.sampled_from([np.nan, -np.inf]))
    return logits.astype(np.float32)


SETTINGS = st.builds(
    Settings,
    temperature=st.sampled_from([0.0, 1e-6, 0.1, 0.7, 1.0, 2.0]),
    top_k=st.sampled_from([0, 0, 1, 2, 20, 300, 100_000]),
    top_p=st.one_of(st.just(1.0), st.floats(0.001, 0.999)),
    min_p=st.one_of(st.just(0.0), st.floats(0.0001, 1)),
    repetition_penalty=st.sampled_from([1.0, 1.05, 2.0, 0.5]),
    presence_penalty=st.sampled_from([0.0, 0.5, -1.0]),
    frequency_penalty=st.sampled_from([0.0, 0.3, -0.2]),
    seed=st.integers(0, 2**64 - 1),
)
