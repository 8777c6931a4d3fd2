"""How far a load is and how long it will still take: written by the thread that loads, read by the event loop."""

from __future__ import annotations

import time
from pathlib import Path

from quern.config import Quantise

ASSUMED_BYTES_PER_SECOND = 500e6
TELLING_SHARE = 0.1
FLOAT_BITS = {"F32": 32, "F16": 16, "BF16": 16}
LOADED_BITS = {Quantise.Q8: 8.5, Quantise.Q4: 5.0}
"""Bits of one weight, in a file and in memory."""


class LoadEstimate:
    """The model's size gives a first guess; once a telling share is loaded, its pace gives a better one."""

    def __init__(self) -> None:
        self._began = time.monotonic()
        self._expected = 0.0
        self.share = 0.0

    def expect(self, size: int) -> None:
        """The model has so many bytes."""
        self._expected = 1 + size / ASSUMED_BYTES_PER_SECOND

    def report(self, share: float) -> None:
        """The share of the work that is done, 0 to 1."""
        self.share = share

    def remaining(self) -> float:
        """Seconds until the model is there, never less than one."""
        elapsed = time.monotonic() - self._began
        if self.share > TELLING_SHARE:
            return max(elapsed * (1 - self.share) / self.share, 1.0)
        return max(self._expected - elapsed, 1.0)


def loaded_bytes(size: int, quantisation: str, quantise: Quantise) -> int:
    """Memory for weights that take `size` bytes on the disk: floats are quantised, all else is kept as it is."""
    file_bits = FLOAT_BITS.get(quantisation)
    return size if file_bits is None else round(size * LOADED_BITS[quantise] / file_bits)


def size_on_disk(path: Path) -> int:
    """Bytes of a model file, or of all the files in a model's folder; 0 where there is nothing to read."""
    try:
        files = [*path.iterdir()] if path.is_dir() else [path]
        return sum(file.stat().st_size for file in files)
    except OSError:
        return 0
