"""Random weights as GGUF's blocks, quickly: a pool of random blocks is made once and written again and again.

Values are near to normal with a standard deviation of `DEVIATION`, so activations neither vanish nor explode. Formats:
ggml's `block_q4_K` and `block_q6_K` in ggml-common.h, 256 values each.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import numpy.typing as npt

DEVIATION = 0.02
BLOCK_VALUES = 256
POOL_BLOCKS = 2**19  # 75 MB of Q4_K: more than a last-level cache, although caches go by address anyway
LEAST_SCALE, MOST_SCALE = 24, 48

Bytes = npt.NDArray[np.uint8]


def _half(values: npt.NDArray[np.float32]) -> Bytes:
    return values.astype("<f2").view(np.uint8).reshape(len(values), 2)


def _q4_k(random: np.random.Generator, blocks: int) -> Bytes:
    """d, dmin, eight 6-bit scales and eight 6-bit minima in 12 bytes, 128 bytes of 4-bit values.

    A value is d * scale * q - dmin * minimum. Minimum equals scale and dmin is 7.5 d, so the mean is zero.
    """
    scales = random.integers(LEAST_SCALE, MOST_SCALE, (blocks, 8), dtype=np.uint8)
    low, high = scales[:, :4], scales[:, 4:]
    first = low | (high >> 4 << 6)
    packed = np.concatenate([first, first, (high & 15) | (high & 15) << 4], axis=1).astype(np.uint8)
    d = np.full(blocks, DEVIATION / (4.61 * (LEAST_SCALE + MOST_SCALE) / 2), np.float32)
    codes = random.integers(0, 256, (blocks, 128), dtype=np.uint8)
    return np.concatenate([_half(d), _half(7.5 * d), packed, codes], axis=1)


def _q6_k(random: np.random.Generator, blocks: int) -> Bytes:
    """192 bytes of 6-bit values, sixteen signed 8-bit scales, d. A value is d * scale * (q - 32)."""
    codes = random.integers(0, 256, (blocks, 192), dtype=np.uint8)
    sign = random.integers(0, 2, (blocks, 16), dtype=np.int8) * 2 - 1
    scales = random.integers(LEAST_SCALE, MOST_SCALE, (blocks, 16), dtype=np.int8) * sign
    d = np.full(blocks, DEVIATION / (18.5 * (LEAST_SCALE + MOST_SCALE) / 2), np.float32)
    return np.concatenate([codes, scales.astype(np.int8).view(np.uint8), _half(d)], axis=1)


MAKERS: dict[str, Callable[[np.random.Generator, int], Bytes]] = {"Q4_K": _q4_k, "Q6_K": _q6_k}


class RandomBlocks:
    """Data for tensors of the types in `MAKERS`, and of F32."""

    def __init__(self, seed: int) -> None:
        self._random = np.random.default_rng(seed)
        self._pools = {name: make(self._random, POOL_BLOCKS) for name, make in MAKERS.items()}

    def quantised(self, kind: str, values: int) -> Iterator[Bytes]:
        """Pieces of the pool, from random starts, that hold `values` values together."""
        pool, blocks = self._pools[kind], values // BLOCK_VALUES
        while blocks:
            start = int(self._random.integers(0, POOL_BLOCKS // 2))
            piece = pool[start : start + blocks]
            yield piece
            blocks -= len(piece)

    def normal(self, values: int, mean: float) -> npt.NDArray[np.float32]:
        """Floats around `mean` with the deviation of all weights."""
        return self._random.normal(mean, DEVIATION, values).astype(np.float32)
