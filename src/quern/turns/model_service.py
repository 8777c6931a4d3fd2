"""Whether the models can be asked now, and by which names."""

from __future__ import annotations

from dataclasses import dataclass

from quern.turns.models import Models, ServedModel
from quern.turns.service import TurnService

STOPPING = "stopping"


@dataclass(frozen=True, slots=True)
class Readiness:
    """Whether turns are taken. `status`: the engine's state, or that the server is about to stop; `load_progress`: 0 to
    1; `running` and `waiting` count the engine's sequences.
    """

    ready: bool
    status: str
    load_progress: float
    running: int
    waiting: int


class ModelService:
    """The served models, for who asks for one."""

    def __init__(self, models: Models, turns: TurnService) -> None:
        self._models = models
        self._turns = turns

    async def named(self, name: str | None) -> ServedModel:
        """The model that a request asks for; where nothing is known of it yet, that takes its load. Raises
        ModelNotServed where there is none of that name, and EngineUnavailable while it can't be asked.
        """
        model = self._models.find(name)
        await self._turns.reach(model)
        return model

    def listed(self) -> list[tuple[str, ServedModel]]:
        """All of them by all of their names, ids before aliases. Raises EngineUnavailable while they are not known."""
        for model in self._models:
            self._turns.check_serving(model)
        ids = [(model.name, model) for model in self._models]
        return [*ids, *((alias, model) for model in self._models for alias in sorted(model.aliases))]

    def readiness(self, model: ServedModel | None = None) -> Readiness:
        """A snapshot, of the default model where none is given; never blocks."""
        model = model or self._models.default
        stats = model.engine.stats()
        stopping = self._turns.stopping
        return Readiness(
            ready=model.available and not stopping,
            status=STOPPING if stopping else stats.state,
            load_progress=stats.load_progress,
            running=stats.running,
            waiting=stats.waiting,
        )
