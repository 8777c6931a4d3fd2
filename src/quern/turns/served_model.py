"""The served model, as callers see it: what it is, which names it answers to, whether it can be asked now."""

from __future__ import annotations

import re
from dataclasses import dataclass

from quern.engine.base import Engine, EngineInfo, EngineState
from quern.errors import ModelNotServed
from quern.prompt.codec import TextCodec
from quern.turns.service import TurnService

ANY_NAME = "*"
"""An alias that stands for every name."""

STOPPING = "stopping"
PARAMETER_SIZE = re.compile(r"(?i)(?:^|[-_])(\d+(?:\.\d+)?b)(?:$|[-_:])")


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
    """Facts of the one model that is served. `aliases`: further names that it answers to."""

    def __init__(self, engine: Engine, codec: TextCodec, turns: TurnService, aliases: frozenset[str]) -> None:
        self._engine = engine
        self._codec = codec
        self._turns = turns
        self._aliases = aliases

    @property
    def info(self) -> EngineInfo:
        """What the engine serves. To be asked once `check_name` has returned."""
        return self._engine.info

    @property
    def fills_gaps(self) -> bool:
        """Whether it can fill in the middle."""
        return self._codec.gaps.supported

    @property
    def chat_template(self) -> str:
        """Its chat template, as it is in the model's files."""
        return self._codec.template_text

    @property
    def calls_tools(self) -> bool:
        """Whether its template knows tools."""
        return self._codec.tool_format is not None

    @property
    def architecture(self) -> str:
        """Its kind of network, as its files name it."""
        return self._codec.facts.architecture

    @property
    def size_bytes(self) -> int:
        """Its size on the disk."""
        return self._codec.size_bytes

    @property
    def parameter_size(self) -> str:
        """How many parameters it has, as far as its name says: `1.5B`."""
        named = PARAMETER_SIZE.search(self.info.model_id)
        return named[1].upper() if named is not None else ""

    def names(self) -> list[str]:
        """Its id, then its aliases. Raises EngineUnavailable while it is not known."""
        served = self.check_name(None)
        return [served, *sorted(self._aliases - {served, ANY_NAME})]

    def check_name(self, name: str | None) -> str:
        """The model's id. Raises ModelNotServed where the request asks for another one, and EngineUnavailable while it
        is not known. An empty name asks for none: llama.vim sends it where nothing is configured.
        """
        self._turns.check_serving()
        served = self._engine.info.model_id
        if not name or name == served or {name, ANY_NAME} & self._aliases:
            return served
        raise ModelNotServed(
            f"The model {name!r} is not served here; {served!r} is. Ask for that one, or let the server take this name "
            f"for it too (setting model.aliases)."
        )

    def readiness(self) -> Readiness:
        """A snapshot; never blocks."""
        stats = self._engine.stats()
        stopping = self._turns.stopping
        return Readiness(
            ready=stats.state is EngineState.READY and not stopping,
            status=STOPPING if stopping else stats.state,
            load_progress=stats.load_progress,
            running=stats.running,
            waiting=stats.waiting,
        )
