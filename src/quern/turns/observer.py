"""Is told what happens to turns, and tells the metrics; what it keeps of them says later why they were slow."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection

from quern.events import TurnEnded
from quern.obs.metrics import Metrics, TurnFacts
from quern.obs.tracing import Tracing, TurnTrace
from quern.turns.recent import Occupancy, Queue, RecentTurn, RecentTurns
from quern.turns.request import ChatInput
from quern.turns.turn import Turn


class TurnObserver:
    """`active`: all turns that are queued or running. `recent`: those that ended lately."""

    def __init__(
        self,
        metrics: Metrics,
        active: Callable[[], Collection[Turn]],
        tracing: Tracing | None = None,
    ) -> None:
        self._tracing = tracing
        self.recent = RecentTurns()
        self.occupancy = Occupancy()
        self.observe_gap = metrics.between_tokens.observe
        self.attached = metrics.retry_attached
        self._metrics = metrics
        self._active = active

    def queued(self, turn: Turn) -> None:
        """It has to wait. Only the first time counts."""
        if turn.queue is None:
            turn.queue = Queue.before(turn, self._active())

    def started(self, turn: Turn, now: float) -> None:
        """It is computed from now on."""
        self.occupancy.change(+1, now)
        turn.occupied = self.occupancy.area(now)

    def first_token(self, turn: Turn, now: float) -> None:
        """Its answer begins."""
        self._metrics.first_token.observe(now - turn.arrived_at)

    def ended(self, turn: Turn) -> None:
        """It has come to its end, which is in its log."""
        now, end = time.monotonic(), turn.log.end
        self.recent.add(self.snapshot(turn, now))
        if turn.running_at is not None:
            self.occupancy.change(-1, now)
        if end is not None:
            total, ran = now - turn.arrived_at, turn.running_at is not None
            self._metrics.turn_ended(
                TurnFacts(turn.principal.name, turn.request.priority.label, total_seconds=total, ran=ran, end=end)
            )

            if self._tracing is not None:
                self._tracing.turn_ended(self._trace(turn, end))

    def snapshot(self, turn: Turn, now: float) -> RecentTurn:
        """What would be kept of it."""
        return RecentTurn.of(turn, self.occupancy, now)

    def _trace(self, turn: Turn, end: TurnEnded) -> TurnTrace:
        return TurnTrace(
            id=turn.id,
            parent=turn.traceparent,
            operation="chat" if isinstance(turn.said.given, ChatInput) else "text_completion",
            model=turn.model.name,
            priority=turn.request.priority.label,
            conversation_id=turn.conversation_id,
            sampling=turn.request.sampling,
            arrived_at=turn.arrived_at,
            running_at=turn.running_at,
            first_token_at=turn.first_token_at,
            end=end,
        )
