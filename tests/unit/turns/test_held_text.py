"""Text that was held back, as it may begin a stop text, is told when its turn ends before its time."""

from __future__ import annotations

from collections.abc import AsyncGenerator

import pytest
from tests.unit.turns.live_turns import live_turn
from tests.unit.turns.scripted_parser import ScriptedParser
from tests.unit.turns.test_generation import journal, tokens

from quern.engine.base import EngineEvent, GenerateRequest
from quern.engine.fake import FakeEngine
from quern.errors import EngineFailed
from quern.obs.metrics import Metrics
from quern.prompt.tools.protocols import AnswerParser
from quern.turns.generation import Generation
from quern.turns.observer import TurnObserver
from quern.turns.turn import Turn
from quern.types import TurnState


class FailingEngine(FakeEngine):
    """Writes these pieces and fails, at the latest when it is told to stop."""

    def __init__(self, *pieces: str) -> None:
        super().__init__()
        self._pieces = pieces

    async def generate(self, request: GenerateRequest) -> AsyncGenerator[EngineEvent]:
        try:
            for piece in self._pieces:
                yield tokens(piece)
        finally:
            raise EngineFailed("It failed.")


async def end_early(turn: Turn, *pieces: str) -> None:
    generation = Generation(turn, journal(), TurnObserver(Metrics(), list))
    with pytest.raises(EngineFailed):
        await generation.consume(FailingEngine(*pieces))
    generation.ended_early(TurnState.FAILED, "It failed.")


@pytest.mark.parametrize("parser", [None, ScriptedParser()])
async def test_a_turn_that_ends_early_tells_what_was_held_back_for_a_stop_text(parser: AnswerParser | None) -> None:
    turn = live_turn(stops=("END",), parser=parser)
    await end_early(turn, "one E", "N")
    assert turn.answer().text == "one EN"
    assert "".join(turn.pieces) == "one EN"


async def test_a_stop_text_that_was_found_is_not_told_when_its_turn_ends_early() -> None:
    turn = live_turn(stops=("END", "ENDING"))
    await end_early(turn, "one END", "ING")
    assert turn.answer().text == "one "
    assert "".join(turn.pieces) == "one "
