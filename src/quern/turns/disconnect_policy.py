"""What a turn does once its last reader has gone: `DisconnectPolicy`, carried out."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass

from quern.turns.event_log import TurnLog
from quern.types import DisconnectPolicy

CONNECTION_CLOSED = "The client closed the connection"
"""So every sentence begins that says why a turn was cancelled which nobody had asked to cancel."""


@dataclass(frozen=True, slots=True)
class Abandonment:
    """What happens to a turn without readers; `hold_seconds` counts for `DisconnectPolicy.HOLD` only. `retry_seconds`:
    how long a turn that would be cancelled goes on once its stream was lost, as a retry may come for it.
    """

    policy: DisconnectPolicy
    hold_seconds: float
    retry_seconds: float = 0.0


class AttachedReaders:
    """Counts a turn's readers. `cancel` is called with a sentence when the policy says that nobody waits any more for
    the end of its log. `abandoned`: the turn goes on, and the last of its readers has gone.
    """

    def __init__(self, abandonment: Abandonment, log: TurnLog, cancel: Callable[[str], None]) -> None:
        self._abandonment = abandonment
        self._log = log
        self._cancel = cancel
        self._count = 0
        self._hold: asyncio.TimerHandle | None = None
        self.abandoned = False

    @property
    def held(self) -> bool:
        """Whether the turn goes on without a reader, and is cancelled after a while."""
        return self._hold is not None

    @contextmanager
    def attach(self, *, streamed: bool = False) -> Generator[None]:
        """Be a reader for as long as the block runs; `streamed`: one that gets the events as they come."""
        self._count += 1
        self.abandoned = False
        if self._hold is not None:
            self._hold.cancel()
            self._hold = None
        try:
            yield
        finally:
            self._count -= 1
            if self._count == 0 and self._log.end is None:
                self._abandon(streamed=streamed)

    def _abandon(self, *, streamed: bool) -> None:
        self.abandoned = True
        match self._abandonment.policy:
            case DisconnectPolicy.CANCEL if streamed and self._abandonment.retry_seconds:
                self._hold_for(self._abandonment.retry_seconds)
            case DisconnectPolicy.CANCEL:
                self._cancel(f"{CONNECTION_CLOSED}.")
            case DisconnectPolicy.HOLD:
                self._hold_for(self._abandonment.hold_seconds)
            case DisconnectPolicy.FINISH:
                return

    def _hold_for(self, seconds: float) -> None:
        reason = f"{CONNECTION_CLOSED} and nobody came back within {seconds:g} s."
        self._hold = asyncio.get_running_loop().call_later(seconds, self._cancel, reason)
