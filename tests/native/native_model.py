"""The native model as the tests use it, and how far its logits are from others."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, cast

import numpy as np
import pytest
from numpy.random import default_rng
from numpy.typing import NDArray

from quern.engine.cpu import _native

from .reference import Array, Config, log_softmax

KvType = Literal["bf16", "int8"]
BLOCK = _native.BLOCK_TOKENS
INSTRUCTION_SETS = [
    pytest.param(
        name, marks=pytest.mark.skipif(name not in _native.kernel_sets(), reason=f"this processor has no {name}")
    )
    for name in ("avx512_bf16", "avx512_vnni", "avx_vnni", "avx2")
]


@dataclass(frozen=True, slots=True)
class Distance:
    """How far logits are from right ones. `rows`: RMS error of each row over that row's standard deviation.

    `divergence`: mean KL(right || said) in nats.
    """

    rows: NDArray[np.float64]
    divergence: float

    @property
    def relative(self) -> float:
        """RMS over the rows."""
        return float(np.sqrt(np.mean(np.square(self.rows))))


def distance(right: Array, said: Array) -> Distance:
    """Compare logits [n, vocabulary]; a constant added to a row changes nothing, as in the probabilities."""
    assert right.shape == said.shape
    first, second = _centred(right), _centred(said)
    rows = np.sqrt(np.sum(np.square(first - second), axis=-1) / np.sum(np.square(first), axis=-1))
    first, second = log_softmax(right), log_softmax(said)
    return Distance(rows, float((np.exp(first) * (first - second)).sum(axis=-1).mean()))


def _centred(logits: Array) -> NDArray[np.float64]:
    wide = logits.astype(np.float64)
    return wide - wide.mean(axis=-1, keepdims=True)


def load(
    path: Path, *, kv_tokens: int = 512, kv_type: KvType = "bf16", quantise: str = "q8", isa: str = ""
) -> _native.Model:
    """A model on two threads."""
    return _native.Model(str(path), threads=2, kv_tokens=kv_tokens, kv_type=kv_type, quantise=quantise, isa=isa)


def blocks_for(tokens: int, first: int = 0) -> list[int]:
    """Enough blocks in a row."""
    return list(range(first, first + -(-tokens // BLOCK)))


def greedy(model: _native.Model, top_logprobs: int = 0) -> _native.Sampler:
    """A sampler that takes the likeliest token."""
    return _native.Sampler(vocabulary_size=model.vocabulary_size, top_logprobs=top_logprobs)


def item(
    model: _native.Model,
    ids: Sequence[int],
    *,
    position: int = 0,
    blocks: Sequence[int] | None = None,
    samples: int | None = None,
) -> _native.Item:
    """A part of a sequence of which all tokens give logits, or the last `samples`."""
    if blocks is None:
        blocks = blocks_for(position + len(ids))
    return _native.Item(ids, position, blocks, greedy(model), len(ids) if samples is None else samples)


def step(model: _native.Model, *items: _native.Item) -> list[Array]:
    """One step's logits."""
    return cast("list[Array]", model.logits(items))


def teacher_forced(model: _native.Model, ids: Sequence[int], blocks: Sequence[int] | None = None) -> Array:
    """The logits after each of `ids`, computed in one step."""
    return step(model, item(model, ids, blocks=blocks))[0]


def random_ids(config: Config, count: int, seed: int = 0) -> list[int]:
    """Ids of the vocabulary."""
    return default_rng(seed).integers(0, config.vocabulary, count).tolist()
