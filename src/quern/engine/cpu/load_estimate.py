"""How long a model will still take to load."""

from __future__ import annotations

import time

ASSUMED_BYTES_PER_SECOND = 500e6
MEANINGFUL_SHARE = 0.1


class LoadEstimate:
    """How far a load is and how long it will still take: written by the thread that loads, read by the event loop.

    The model's size gives a first guess; once enough is loaded, its pace gives a better one.
    """

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
        if self.share > MEANINGFUL_SHARE:
            return max(elapsed * (1 - self.share) / self.share, 1.0)
        return max(self._expected - elapsed, 1.0)
