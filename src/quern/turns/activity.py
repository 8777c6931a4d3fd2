"""What the server does at this moment, for who runs it."""

from __future__ import annotations

import asyncio
from collections import Counter

from quern.engine.base import Engine, EngineState, Priority
from quern.errors import EngineUnavailable
from quern.obs.metrics import Metrics, Snapshot
from quern.turns.service import TurnService

LAG_INTERVAL = 0.5
"""Seconds between two looks at how late the event loop is."""


class ActivityService:
    """Looks at the engine and the turns; changes nothing."""

    def __init__(self, engine: Engine, turns: TurnService, metrics: Metrics) -> None:
        self._engine = engine
        self._turns = turns
        self._metrics = metrics

    async def metrics(self, accept: str) -> tuple[bytes, str]:
        """All metrics as an `Accept` header asks for them, and their content type."""
        return await asyncio.to_thread(self._metrics.expose, self.snapshot(), accept)

    async def watch_event_loop(self) -> None:
        """Measure until cancelled how late the event loop is."""
        loop = asyncio.get_running_loop()
        while True:
            due = loop.time() + LAG_INTERVAL
            await asyncio.sleep(LAG_INTERVAL)
            self._metrics.event_loop_lag.observe(max(0.0, loop.time() - due))

    def snapshot(self) -> Snapshot:
        """What is true now."""
        stats = self._engine.stats()
        waiting = Counter(turn.request.priority for turn in self._turns.all_active() if turn.running_at is None)
        return Snapshot(
            states={state.value: state is stats.state for state in EngineState},
            load_progress=stats.load_progress,
            running=stats.running,
            waiting={priority.label: waiting[priority] for priority in Priority},
            kv=stats.kv,
            model=self._model(),
        )

    def _model(self) -> dict[str, str] | None:
        try:
            info = self._engine.info
        except EngineUnavailable:
            return None
        return {
            "model_name": info.model_id,
            "engine": info.engine,
            "device": info.device,
            "quantisation": info.quantisation,
            "context_length": str(info.context_length),
            "parallel": str(info.parallel),
        }
