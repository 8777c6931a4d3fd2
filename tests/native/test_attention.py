"""Attention alone, through a paged KV cache, on every instruction set.

It is compared with float64 softmax over the same rounded numbers: queries, keys and values as bfloat16, or keys and
values as bytes with a scale for each vector. What is left is the rounding of the softmax's weights to bfloat16, up to
2^-8 of each, and of float32 sums, some 1e-4 in the scores' exponentials: `ROUNDING`, of the magnitudes that are summed.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import cast

import numpy as np
import pytest
from gguf.quants import dequantize, quantize
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.random import default_rng
from numpy.typing import NDArray

from quern.engine.cpu import _native

from .native_model import BLOCK, INSTRUCTION_SETS
from .random_models import Q
from .reference import Array

ROUNDING = 2**-8 + 3e-4

each_isa = pytest.mark.parametrize("isa", INSTRUCTION_SETS)
each_cache = pytest.mark.parametrize("int8", [False, True], ids=["bf16", "int8"])


@dataclass(frozen=True, slots=True)
class Sequence:
    """Queries [tokens, heads, dim] of the last tokens; keys and values [context, kv_heads, dim]."""

    queries: Array
    keys: Array
    values: Array
    blocks: list[int]

    @property
    def position(self) -> int:
        """Of the first query."""
        return len(self.keys) - len(self.queries)


def random_sequence(
    context: int, tokens: int, *, group: int = 4, kv_heads: int = 2, dim: int = 64, seed: int = 0
) -> Sequence:
    """In scattered blocks."""
    rng = default_rng(seed)

    def draw(length: int, heads: int) -> Array:
        return rng.standard_normal((length, heads, dim)).astype(np.float32)

    count = -(-context // BLOCK)
    blocks = rng.permutation(count + 3)[:count].tolist()
    keys, values = draw(context, kv_heads), draw(context, kv_heads)
    return Sequence(draw(tokens, group * kv_heads), keys, values, blocks)


def attend(sequence: Sequence, isa: str, *, int8: bool) -> Array:
    return cast(
        "Array",
        _native.attend(
            sequence.queries,
            sequence.keys,
            sequence.values,
            blocks=sequence.blocks,
            position=sequence.position,
            isa=isa,
            int8=int8,
        ),
    )


def as_bfloat16(x: Array) -> NDArray[np.float64]:
    return dequantize(quantize(x, Q.BF16), Q.BF16).astype(np.float64)


def as_bytes(x: Array) -> NDArray[np.float64]:
    """With a scale for each vector."""
    largest = np.abs(x).max(axis=-1, keepdims=True)
    return np.rint(x * (np.float32(127) / largest)) * (largest / np.float32(127)).astype(np.float64)


def right_and_allowed(sequence: Sequence, *, int8: bool) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """What `attend` shall give, and how far it may be off."""
    kept = as_bytes if int8 else as_bfloat16
    group = sequence.queries.shape[1] // sequence.keys.shape[1]
    scale = np.float32(1 / math.sqrt(sequence.queries.shape[2]))
    queries = as_bfloat16(sequence.queries * scale).transpose(1, 0, 2)
    keys, values = (kept(part).repeat(group, axis=1).transpose(1, 0, 2) for part in (sequence.keys, sequence.values))
    scores = queries @ keys.transpose(0, 2, 1)
    future = np.tri(queries.shape[1], keys.shape[1], sequence.position) == 0
    scores[:, future] = -np.inf
    weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
    weights /= weights.sum(axis=-1, keepdims=True)
    magnitudes = weights @ np.abs(values)
    return (weights @ values).transpose(1, 0, 2), ROUNDING * magnitudes.transpose(1, 0, 2)


@each_isa
@each_cache
@settings(max_examples=15, deadline=None)
@given(
    lengths=st.tuples(st.sampled_from((1, 31, 32, 33, 100, 300)), st.integers(1, 70)),
    heads=st.tuples(st.sampled_from((1, 4, 5, 6, 7, 8)), st.integers(1, 2), st.sampled_from((32, 64, 96, 128, 256))),
    seed=st.integers(0, 2**32 - 1),
)
def test_attention_of_any_shape(
    isa: str, int8: bool, lengths: tuple[int, int], heads: tuple[int, int, int], seed: int
) -> None:
    """The queries are the context's last tokens, in as many tasks as they take."""
    context, tokens = lengths[0], min(lengths)
    group, kv_heads, dim = heads
    sequence = random_sequence(context, tokens, group=group, kv_heads=kv_heads, dim=dim, seed=seed)
    right, allowed = right_and_allowed(sequence, int8=int8)
    assert (np.abs(attend(sequence, isa, int8=int8) - right) <= allowed).all()


@each_isa
@each_cache
@pytest.mark.parametrize("group", [1, 5, 8])
def test_a_token_attends_the_same_to_the_bit_alone_and_in_company(isa: str, int8: bool, group: int) -> None:
    """Across the ends of blocks and of tasks."""
    whole = random_sequence(100, 75, group=group)
    together = attend(whole, isa, int8=int8)
    for start, end in ((0, 1), (6, 8), (7, 20), (38, 39), (39, 75), (74, 75)):
        seen = whole.position + end
        part = Sequence(whole.queries[start:end], whole.keys[:seen], whole.values[:seen], whole.blocks)
        np.testing.assert_array_equal(attend(part, isa, int8=int8), together[start:end])


@each_isa
@each_cache
@pytest.mark.parametrize("context", [1, 31, 33, 100])
def test_what_another_sequence_left_in_unused_slots_has_no_influence(isa: str, int8: bool, context: int) -> None:
    """Not even infinities, NaNs and numbers whose products overflow."""
    sequence = random_sequence(context, min(context, 5), group=6)
    empty = -context % BLOCK
    keys, values = (
        np.concatenate([part, np.resize(np.array(garbage, np.float32), (empty, *part.shape[1:]))])
        for part, garbage in (
            (sequence.keys, [1e38, np.nan, -1e38]),
            (sequence.values, [np.inf, 1e38, -np.inf, np.nan]),
        )
    )
    said = _native.attend(
        sequence.queries, keys, values, blocks=sequence.blocks, position=sequence.position, isa=isa, int8=int8
    )
    np.testing.assert_array_equal(said, attend(sequence, isa, int8=int8))


@each_isa
@pytest.mark.parametrize("chosen", [0, 31, 32, 99])
def test_a_key_that_fits_far_better_than_all_others_gives_its_value(isa: str, chosen: int) -> None:
    """Scores of thousands overflow no exponential, wherever the largest one comes."""
    sequence = random_sequence(100, 1, group=1)
    sequence.queries[0] = 1000 * sequence.keys[chosen]
    right = as_bfloat16(sequence.values[chosen])
    np.testing.assert_allclose(attend(sequence, isa, int8=False)[0], right, rtol=1e-6)


@each_isa
def test_shapes_that_do_not_fit_are_refused(isa: str) -> None:
    right = random_sequence(33, 2)
    for wrong in (
        Sequence(right.queries, right.keys, right.values[:-1], right.blocks),
        Sequence(right.queries, right.keys, right.values, right.blocks[:1]),
        Sequence(right.queries[:, :7], right.keys, right.values, right.blocks),
        Sequence(right.queries, right.keys, right.values, [0, -1]),
    ):
        with pytest.raises(ValueError, match="fit together"):
            attend(wrong, isa, int8=False)
