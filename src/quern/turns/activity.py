"""What the server does at this moment, for who runs it."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from dataclasses import dataclass

from quern.engine.base import EngineInfo, EngineState, EngineStats, Priority
from quern.obs.metrics import Metrics, Snapshot
from quern.turns.models import Models, ServedModel
from quern.turns.service import TurnService
from quern.turns.turn import Turn

LAG_INTERVAL = 0.5
"""Seconds between two looks at how late the event loop is."""


@dataclass(frozen=True, slots=True)
class ActiveTurn:
    """A turn that waits or runs. `state`: `queued`, `prefill` or `decode`; `tokens_per_second`: None while it can't be
    told.
    """

    id: str
    owner: str
    key: str
    state: str
    priority: str
    age_seconds: float
    prompt_tokens: int
    prefilled_tokens: int
    cached_tokens: int
    generated_tokens: int
    max_tokens: int
    tokens_per_second: float | None


@dataclass(frozen=True, slots=True)
class EngineActivity:
    """What one model's engine does; `info`: None until it is known."""

    model: str
    stats: EngineStats
    info: EngineInfo | None


@dataclass(frozen=True, slots=True)
class Activity:
    """What goes on. `engines`: one for each model, the default's first; `turns`: those that run, the oldest first, then
    those that wait.
    """

    stopping: bool
    engines: tuple[EngineActivity, ...]
    turns: tuple[ActiveTurn, ...]


class ActivityService:
    """Looks at the engines and the turns; changes nothing."""

    def __init__(self, models: Models, turns: TurnService, metrics: Metrics) -> None:
        self._models = models
        self._turns = turns
        self._metrics = metrics

    def now(self) -> Activity:
        """What goes on now."""
        at = time.monotonic()
        turns = sorted(self._turns.all_active(), key=lambda turn: (turn.running_at is None, turn.arrived_at))
        active = tuple(_active(turn, at) for turn in turns)
        engines = tuple(EngineActivity(one.name, one.engine.stats(), one.info_so_far) for one in self._models)
        return Activity(self._turns.stopping, engines, active)

    async def metrics(self, accept: str) -> tuple[bytes, str]:
        """All metrics as an `Accept` header asks for them, and their content type."""
        return await asyncio.to_thread(self._metrics.expose, self.snapshots(), accept)

    async def watch_event_loop(self) -> None:
        """Measure until cancelled how late the event loop is."""
        loop = asyncio.get_running_loop()
        while True:
            due = loop.time() + LAG_INTERVAL
            await asyncio.sleep(LAG_INTERVAL)
            self._metrics.event_loop_lag.observe(max(0.0, loop.time() - due))

    def snapshots(self) -> list[Snapshot]:
        """What is true now, of each model."""
        return [self._snapshot(model) for model in self._models]

    def _snapshot(self, model: ServedModel) -> Snapshot:
        stats, turns = model.engine.stats(), self._turns.all_active()
        waiting = Counter(turn.request.priority for turn in turns if turn.running_at is None and turn.model is model)
        return Snapshot(
            name=model.name,
            states={state.value: state is stats.state for state in EngineState},
            load_progress=stats.load_progress,
            running=stats.running,
            waiting={priority.label: waiting[priority] for priority in Priority},
            kv=stats.kv,
            facts=_facts(model.info_so_far),
        )


def _facts(info: EngineInfo | None) -> dict[str, str] | None:
    if info is None:
        return None
    return {
        "model_name": info.model_id,
        "engine": info.engine,
        "device": info.device,
        "quantisation": info.quantisation,
        "context_length": str(info.context_length),
        "parallel": str(info.parallel),
    }


def _active(turn: Turn, now: float) -> ActiveTurn:
    computing = "prefill" if turn.first_token_at is None else "decode"
    timings = turn.timings(now)
    return ActiveTurn(
        id=turn.id,
        owner=turn.owner,
        key=turn.principal.name,
        state="queued" if turn.running_at is None else computing,
        priority=turn.request.priority.label,
        age_seconds=now - turn.arrived_at,
        prompt_tokens=len(turn.request.prompt),
        prefilled_tokens=turn.progress.done if turn.progress is not None else 0,
        cached_tokens=turn.progress.cached if turn.progress is not None else 0,
        generated_tokens=turn.generated_tokens,
        max_tokens=turn.request.sampling.max_tokens,
        tokens_per_second=timings.tokens_per_second(turn.generated_tokens),
    )
