"""A clock by which old things are deleted, so it must not believe everything that the machine's clock says."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime

import structlog

log = structlog.get_logger(__name__)

JUMP_SECONDS = 600.0
BELIEVED_AFTER_SECONDS = 24 * 3600.0


def seconds_since_boot() -> float:
    """A clock that nobody sets; where the system has it, one that goes on while the machine sleeps."""
    return time.clock_gettime(time.CLOCK_BOOTTIME) if hasattr(time, "CLOCK_BOOTTIME") else time.monotonic()


class CarefulClock:
    """The time, but for a clock that was suddenly set forward: that is believed after a day, and until then the time
    goes on from where it was. Set back, it is believed at once: that makes nothing older. `wall` and `steady`: in
    seconds, since 1970 and since whenever.
    """

    def __init__(self, wall: Callable[[], float] = time.time, steady: Callable[[], float] = seconds_since_boot) -> None:
        self._wall = wall
        self._steady = steady
        self._offset = wall() - steady()
        self._claimed: tuple[float, float] | None = None  # another offset, and since when

    def now(self) -> datetime:
        """The time, in UTC; to be asked from time to time, since jumps are noticed here."""
        steady = self._steady()
        offset = self._wall() - steady
        if offset - self._offset < JUMP_SECONDS:
            self._offset, self._claimed = offset, None
        elif self._claimed is None or abs(offset - self._claimed[0]) >= JUMP_SECONDS:
            log.warning("clock_set_forward", seconds=round(offset - self._offset), believed_in=BELIEVED_AFTER_SECONDS)
            self._claimed = offset, steady
        elif steady - self._claimed[1] >= BELIEVED_AFTER_SECONDS:
            self._offset, self._claimed = offset, None
        return datetime.fromtimestamp(steady + self._offset, UTC)
