"""Matrix products and quantisation alone, on every instruction set and weight type, with shapes that fill nothing.

Products are compared with float64 ones of the same quantised numbers, so only the rounding of float32 sums is allowed
for: at most two roundings of 6e-8 for each 32 inputs, of sums no larger than the largest weight times the activations'
magnitudes. `ROUNDING` is that for 2048 inputs; a single wrong code makes more.
"""

from __future__ import annotations

from typing import cast

import numpy as np
import pytest
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType
from gguf.quants import dequantize, quantize
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.random import Generator, default_rng
from numpy.typing import NDArray

from quern.engine.cpu import _native

from .native_model import INSTRUCTION_SETS
from .random_models import Bytes, Q
from .reference import Array

SCALES = {
    Q.Q4_K: (0, 2), Q.Q5_K: (0, 2), Q.Q6_K: (208,), Q.Q8_0: (0,), Q.Q4_0: (0,), Q.Q4_1: (0, 2), Q.Q5_0: (0,),
    Q.Q5_1: (0, 2), Q.IQ4_NL: (0,),
}  # fmt: skip
"""Where the halves lie in a block of each type; every other bit belongs to a code or an integer scale."""

ROUNDING = 8e-6
OUTPUTS = (1, 15, 16, 17, 50)
BLOCK, SUPERBLOCK = 32, 256

each_isa = pytest.mark.parametrize("isa", INSTRUCTION_SETS)
each_type = pytest.mark.parametrize("kind", SCALES, ids=lambda kind: kind.name)
few = settings(max_examples=8, deadline=None)
seeds = st.integers(0, 2**32 - 1)


def stored(kind: GGMLQuantizationType, outputs: int, inputs: int, halves: NDArray[np.float16], fill: Bytes) -> Bytes:
    """Rows of a GGUF type: its halves from `halves`, everything else from `fill`, both repeated as needed."""
    block, size = GGML_QUANT_SIZES[kind]
    rows = np.resize(fill, (outputs, inputs // block, size))
    for offset in SCALES[kind]:
        rows[..., offset : offset + 2] = np.resize(halves, (outputs, inputs // block, 1)).view(np.uint8)
        halves = np.roll(halves, 1)
    return rows.reshape(outputs, -1)


def random_weights(kind: GGMLQuantizationType, outputs: int, inputs: int, rng: Generator) -> Bytes:
    """Every code is as likely as every other, scales and minimums are of either sign."""
    halves = rng.uniform(-1, 1, outputs * inputs // BLOCK + 1).astype(np.float16)
    return stored(kind, outputs, inputs, halves, rng.integers(0, 256, outputs * inputs * 2, np.uint8))


def random_rows(rows: int, columns: int, rng: Generator) -> Array:
    """Superblocks of very different sizes."""
    sizes = np.exp(rng.normal(0, 2, (rows, -(-columns // SUPERBLOCK)))).repeat(SUPERBLOCK, axis=1)[:, :columns]
    return (rng.standard_normal((rows, columns)) * sizes).astype(np.float32)


def widths(kind: GGMLQuantizationType) -> tuple[int, ...]:
    return (256, 512, 2048) if GGML_QUANT_SIZES[kind][0] == SUPERBLOCK else (32, 64, 256, 288, 896, 2048)


def quantised(x: Array, isa: str, *, coarse: bool) -> tuple[NDArray[np.int8], Array]:
    return cast("tuple[NDArray[np.int8], Array]", _native.quantise(x, isa=isa, coarse=coarse))


def product(
    kind: GGMLQuantizationType, weights: Bytes, x: Array, isa: str, *, coarse: bool = False
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """What `multiply` shall give, and how far it may be off."""
    codes, scales = quantised(x, isa, coarse=coarse or GGML_QUANT_SIZES[kind][0] == SUPERBLOCK)
    activations = codes * scales.astype(np.float64).repeat(BLOCK, axis=1)
    exact = dequantize(weights, kind).astype(np.float64)
    magnitudes = np.abs(activations).sum(axis=1)[:, None] * np.abs(exact).max(axis=1)
    return activations @ exact.T, ROUNDING * magnitudes


def multiply(
    kind: GGMLQuantizationType, weights: Bytes, x: Array, isa: str, *, threads: int = 1, coarse: bool = False
) -> Array:
    return cast("Array", _native.multiply(kind.name, weights, x, isa=isa, threads=threads, coarse=coarse))


def assert_within(said: Array, right: NDArray[np.float64], allowed: NDArray[np.float64]) -> None:
    assert said.shape == right.shape
    assert (np.abs(said - right) <= allowed).all()


@each_type
@pytest.mark.parametrize("outputs", OUTPUTS)
def test_packed_weights_mean_exactly_what_the_file_means(kind: GGMLQuantizationType, outputs: int) -> None:
    """To the bit: a half times integers of up to 13 bits fits float32, and so only adding a minimum rounds, once."""
    for inputs in widths(kind):
        weights = random_weights(kind, outputs, inputs, default_rng(inputs))
        np.testing.assert_array_equal(_native.unpack(kind.name, weights), dequantize(weights, kind))


@pytest.mark.parametrize("kind", [Q.F32, Q.F16, Q.BF16], ids=lambda kind: kind.name)
def test_floats_are_packed_within_half_a_step_of_eight_bits(kind: GGMLQuantizationType) -> None:
    """The step is a half: it may be greater than 1 / 127 of the block's largest weight by 2^-11 of itself."""
    weights = quantize(random_rows(17, 288, default_rng(0)), kind)
    right = dequantize(weights, kind)
    said = cast("Array", _native.unpack(kind.name, weights.view(np.uint8)))
    steps = np.abs(right).reshape(17, -1, BLOCK).max(axis=-1) / 127 * (1 + 2**-10)
    assert (np.abs(said - right).reshape(17, -1, BLOCK) <= steps[:, :, None] / 2).all()


@each_isa
@each_type
@few
@given(data=st.data(), rows=st.tuples(st.sampled_from(OUTPUTS), st.integers(1, 17) | st.just(33)), seed=seeds)
def test_products_of_any_shape(
    kind: GGMLQuantizationType, isa: str, data: st.DataObject, rows: tuple[int, int], seed: int
) -> None:
    inputs = data.draw(st.sampled_from(widths(kind)), label="inputs")
    outputs, tokens = rows
    rng = default_rng(seed)
    weights, x = random_weights(kind, outputs, inputs, rng), random_rows(tokens, inputs, rng)
    assert_within(multiply(kind, weights, x, isa), *product(kind, weights, x, isa))


@each_isa
@each_type
def test_coarse_activations_serve_every_weight_type(kind: GGMLQuantizationType, isa: str) -> None:
    """The matrices that share their input may have different types."""
    rng = default_rng(1)
    weights, x = random_weights(kind, 17, 512, rng), random_rows(9, 512, rng)
    right, allowed = product(kind, weights, x, isa, coarse=True)
    assert_within(multiply(kind, weights, x, isa, coarse=True), right, allowed)


@each_isa
def test_more_tokens_than_a_cache_holds(isa: str) -> None:
    rng = default_rng(2)
    weights, x = random_weights(Q.Q8_0, 17, 2048, rng), random_rows(301, 2048, rng)
    assert_within(multiply(Q.Q8_0, weights, x, isa), *product(Q.Q8_0, weights, x, isa))


@each_isa
@each_type
@pytest.mark.parametrize("fill", [0x00, 0x7F, 0x80, 0xFF], ids=hex)
@pytest.mark.parametrize("sign", [(1,), (-1,), (1, -1)], ids=["plus", "minus", "both"])
def test_extreme_codes_saturate_nothing(kind: GGMLQuantizationType, isa: str, fill: int, sign: tuple[int, ...]) -> None:
    """All weights have the least or greatest codes and scales, all activations the codes 127 and -127."""
    weights = stored(kind, 17, 512, np.ones(1, np.float16), np.array([fill], np.uint8))
    x = np.resize(np.array(sign, np.float32), (5, 512))
    assert_within(multiply(kind, weights, x, isa), *product(kind, weights, x, isa))


@each_isa
@each_type
def test_a_bias_or_what_was_there_is_added_to_the_product(kind: GGMLQuantizationType, isa: str) -> None:
    """To the bit: it is one addition."""
    rng = default_rng(3)
    weights, x = random_weights(kind, 50, 512, rng), random_rows(13, 512, rng)
    alone = multiply(kind, weights, x, isa)
    bias, before = random_rows(1, 50, rng)[0], random_rows(13, 50, rng)
    with_bias = _native.multiply(kind.name, weights, x, isa=isa, bias=bias)
    np.testing.assert_array_equal(with_bias, alone + bias)
    added = _native.multiply(kind.name, weights, x, isa=isa, add_to=before)
    np.testing.assert_array_equal(added, before + alone)


@each_isa
@each_type
def test_a_gated_product_is_swiglu(kind: GGMLQuantizationType, isa: str) -> None:
    """Errors of the gate count up to 1.1 times (silu's steepest slope), float32's exp adds some 1e-6."""
    rng = default_rng(4)
    gate, up = (random_weights(kind, 50, 512, rng) for _ in range(2))
    x = random_rows(13, 512, rng) * np.float32(0.01)
    (left, left_error), (right, right_error) = product(kind, gate, x, isa), product(kind, up, x, isa)
    opened = left * (1 + np.tanh(left / 2)) / 2
    allowed = 1.1 * left_error * (np.abs(right) + right_error) + np.abs(opened) * right_error
    said = cast("Array", _native.multiply_gated(kind.name, gate, up, x, isa=isa, threads=2))
    assert_within(said, opened * right, allowed + 1e-6 * np.abs(opened * right))
    assert (left > 3).any()
    assert (left < -3).any()


@each_isa
@each_type
def test_rows_of_zeros_give_exactly_zero(kind: GGMLQuantizationType, isa: str) -> None:
    rng = default_rng(5)
    weights, x = random_weights(kind, 17, 256, rng), random_rows(9, 256, rng)
    x[[0, 4, 8]] = 0
    said = multiply(kind, weights, x, isa)
    assert (said[[0, 4, 8]] == 0).all()
    assert (said[[1, 3, 5, 7]] != 0).any(axis=1).all()


@each_isa
@each_type
def test_a_row_is_the_same_to_the_bit_alone_in_company_and_on_any_number_of_threads(
    kind: GGMLQuantizationType, isa: str
) -> None:
    """13 rows are a tile of eight, or three of four, and a rest."""
    rng = default_rng(6)
    weights, x = random_weights(kind, 50, 512, rng), random_rows(13, 512, rng)
    together = multiply(kind, weights, x, isa)
    for row in range(13):
        np.testing.assert_array_equal(multiply(kind, weights, x[row : row + 1], isa)[0], together[row])
    for start, end in ((1, 3), (3, 7), (5, 13)):
        np.testing.assert_array_equal(multiply(kind, weights, x[start:end], isa), together[start:end])
    for threads in (2, 3):
        np.testing.assert_array_equal(multiply(kind, weights, x, isa, threads=threads), together)


@each_isa
@pytest.mark.parametrize("coarse", [False, True], ids=["fine", "coarse"])
@few
@given(rows=st.integers(1, 17), columns=st.sampled_from((32, 96, 256, 288, 896)), seed=seeds)
def test_quantised_rows_are_within_half_a_step_and_use_all_codes(
    isa: str, coarse: bool, rows: int, columns: int, seed: int
) -> None:
    x = random_rows(rows, columns, default_rng(seed))
    codes, scales = quantised(x, isa, coarse=coarse)
    width = SUPERBLOCK if coarse else BLOCK
    starts = np.arange(0, columns, width)
    largest = np.maximum.reduceat(np.abs(x), starts, axis=1)
    np.testing.assert_array_equal(scales[:, :: width // BLOCK], largest / np.float32(127))
    steps = scales.repeat(BLOCK, axis=1)
    np.testing.assert_array_equal(steps[:, starts].repeat(width, axis=1)[:, :columns], steps)
    wide = codes.astype(np.int64)
    assert (np.maximum.reduceat(np.abs(wide), starts, axis=1) == 127).all()
    assert (np.abs(x - wide * steps.astype(np.float64)) <= steps * (0.5 + 1e-5)).all()


@each_isa
@pytest.mark.parametrize("coarse", [False, True], ids=["fine", "coarse"])
def test_quantised_zeros_have_no_scale(isa: str, coarse: bool) -> None:
    x = random_rows(10, 288, default_rng(7))
    x[3:9] = 0
    codes, scales = quantised(x, isa, coarse=coarse)
    assert not codes[3:9].any()
    assert not scales[3:9].any()
    assert codes[[0, 1, 2, 9]].any(axis=1).all()


@each_isa
def test_shapes_that_do_not_fit_are_refused(isa: str) -> None:
    rng = default_rng(8)
    weights = random_weights(Q.Q8_0, 17, 64, rng)
    with pytest.raises(ValueError, match="columns"):
        _native.multiply("Q8_0", weights, random_rows(1, 32, rng), isa=isa)
    with pytest.raises(ValueError, match="whole blocks"):
        _native.unpack("Q8_0", np.ascontiguousarray(weights[:, :-1]))
