"""One generation as a turn's events: where an answer ends, and what is told of it."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence

import pytest
from tests.unit.turns.live_turns import live_turn
from tests.unit.turns.recording_store import RecordingStore
from tests.unit.turns.scripted_parser import ScriptedParser

from quern.engine.base import EngineEvent, Finished, GenerateRequest, Logprob, Tokens
from quern.engine.fake import FakeEngine
from quern.errors import EngineFailed
from quern.events import ArgumentsDelta, CallEnded, Prefill, Queued, TextDelta, TextLogprobs, TurnEnded, TurnEvent
from quern.obs.metrics import Metrics
from quern.turns.generation import Generation
from quern.turns.journal import Journal
from quern.turns.observer import TurnObserver
from quern.turns.turn import Turn
from quern.types import FinishReason, Message, Role, Timings, ToolCall, TurnState, Usage

USAGE, TIMINGS = Usage(3, 1, 9), Timings(1, 2, 3)


def finished(reason: FinishReason = FinishReason.STOP) -> Finished:
    return Finished(reason, USAGE, TIMINGS)


class ScriptedEngine(FakeEngine):
    """Says exactly these events; `given` counts how many were taken."""

    def __init__(self, *events: EngineEvent) -> None:
        super().__init__()
        self._script = events
        self.given = 0

    async def generate(self, request: GenerateRequest) -> AsyncGenerator[EngineEvent]:
        for event in self._script:
            self.given += 1
            yield event


async def run(turn: Turn, *events: EngineEvent) -> tuple[TurnEnded, ScriptedEngine]:
    engine = ScriptedEngine(*events)
    generation = Generation(turn, journal(), TurnObserver(Metrics(), list))
    end = await generation.consume(engine)
    return end, engine


def journal() -> Journal:
    return Journal(RecordingStore(), interval=60, token_limit=1000)  # pyright: ignore[reportArgumentType]


def told(turn: Turn) -> Sequence[TurnEvent]:
    return turn.log.events


def tokens(text: str) -> Tokens:
    return Tokens(tuple(text.encode()))


async def test_what_the_engine_says_becomes_the_turns_events() -> None:
    turn = live_turn()
    end, _ = await run(
        turn, Queued(2), Queued(1), Prefill(0, 3, 1), Prefill(3, 3, 1), tokens("a"), tokens("bc"), finished()
    )
    assert told(turn) == [
        Queued(2),
        Queued(1),
        Prefill(0, 3, 1),
        Prefill(3, 3, 1),
        TextDelta("a"),
        TextDelta("b"),
        TextDelta("c"),
    ]
    assert end == TurnEnded(TurnState.COMPLETED, FinishReason.STOP, None, USAGE, TIMINGS)
    assert turn.pieces == ["a", "b", "c"]


@pytest.mark.parametrize(
    ("text", "said", "reason"),
    [("see: f{1}", FinishReason.STOP, FinishReason.TOOL_CALLS), ("see:", FinishReason.STOP, FinishReason.STOP)],
)
async def test_an_answer_with_calls_ends_for_them(text: str, said: FinishReason, reason: FinishReason) -> None:
    end, _ = await run(live_turn(parser=ScriptedParser()), tokens(text), finished(said))
    assert end.finish_reason is reason


async def test_a_call_that_the_limit_cut_off_is_no_reason_to_call() -> None:
    turn = live_turn(parser=ScriptedParser())
    end, _ = await run(turn, tokens("f{1"), finished(FinishReason.LENGTH))
    assert (end.finish_reason, end.repairs) == (FinishReason.LENGTH, 1)
    assert told(turn)[-2:] == [ArgumentsDelta(0, "1"), CallEnded(0, whole=False)]
    assert turn.answer().calls == []


@pytest.mark.parametrize("before", ["", "g{2}"])
async def test_a_call_that_a_stop_text_or_the_models_end_cut_off_is_no_reason_to_call(before: str) -> None:
    for text in ("f{rm /tmp/", "f{rm /tmp/build}"):
        turn = live_turn(parser=ScriptedParser(), stops=("build",))
        end, _ = await run(turn, tokens(before + text), finished())
        assert end.finish_reason is FinishReason.STOP
        assert told(turn)[-1] == CallEnded(len(before) // 4, whole=False)
        assert [call.name for call in turn.answer().calls] == ["g"] * bool(before)


async def test_where_one_call_is_wanted_the_engine_is_stopped_with_its_end() -> None:
    turn = live_turn(parser=ScriptedParser(), single_call=True)
    end, engine = await run(turn, tokens("see: f{"), tokens("1}g"), tokens("{2}"), finished())
    assert engine.given == 2
    assert (end.state, end.finish_reason, end.repairs) == (TurnState.COMPLETED, FinishReason.TOOL_CALLS, 0)
    assert end.usage.completion_tokens == 9
    see, call = turn.answer().items()
    assert see == Message(Role.ASSISTANT, "see: ")
    assert isinstance(call, ToolCall)
    assert (call.name, call.arguments) == ("f", "{1}")
    assert told(turn)[-1] == CallEnded(0)


async def test_several_calls_are_waited_for_where_they_are_wanted() -> None:
    turn = live_turn(parser=ScriptedParser())
    end, _ = await run(turn, tokens("f{1}"), tokens("g{2}"), finished())
    assert [call.name for call in turn.answer().calls] == ["f", "g"]
    assert end.finish_reason is FinishReason.TOOL_CALLS


async def test_a_stop_string_ends_the_answer_and_is_named() -> None:
    turn = live_turn(stops=("END", "E!"))
    end, engine = await run(turn, tokens("one E"), tokens("N"), tokens("D two"), tokens("three"), finished())
    assert engine.given == 3
    assert (end.finish_reason, end.stop) == (FinishReason.STOP, "END")
    assert turn.answer().text == "one "


async def test_what_was_held_back_for_a_stop_string_is_told_at_the_end() -> None:
    turn = live_turn(stops=("END",))
    end, _ = await run(turn, tokens("one E"), tokens("N"), finished(FinishReason.LENGTH))
    assert turn.answer().text == "one EN"
    assert (end.finish_reason, end.stop) == (FinishReason.LENGTH, None)


async def test_an_answer_of_which_the_caller_has_enough_is_a_whole_one() -> None:
    turn = live_turn()
    turn.conclude()
    end, engine = await run(turn, tokens("o"), tokens("ne"), finished())
    assert engine.given == 1
    assert (end.state, end.finish_reason) == (TurnState.COMPLETED, FinishReason.STOP)
    assert turn.answer().text == "o"


async def test_probabilities_come_before_the_text_that_they_are_of() -> None:
    turn = live_turn(logprobs=True)
    euro = "€".encode()
    ones = [Logprob(-1.0, ((97, -1.0),))]
    await run(turn, Tokens((97,), tuple(ones)), Tokens(tuple(euro), tuple(ones * 3)), finished())
    first, a, second, sign = told(turn)
    assert isinstance(first, TextLogprobs)
    assert isinstance(second, TextLogprobs)
    assert [token.token for token in first.tokens] == [b"a"]
    assert [token.token for token in second.tokens] == [euro[:1], euro[1:2], euro[2:]]
    assert (a, sign) == (TextDelta("a"), TextDelta("€"))


async def test_an_engine_that_stops_without_a_reason_has_failed() -> None:
    turn = live_turn()
    with pytest.raises(EngineFailed, match="without saying why"):
        await run(turn, tokens("a"))
    assert turn.answer().text == "a"


async def test_a_turn_that_ends_early_tells_what_its_parser_held_back() -> None:
    turn = live_turn(parser=ScriptedParser())
    generation = Generation(turn, journal(), TurnObserver(Metrics(), list))
    with pytest.raises(EngineFailed):
        await generation.consume(ScriptedEngine(Prefill(3, 3, 2), tokens("see: f{1")))
    end = generation.ended_early(TurnState.CANCELLED, "Enough.")
    assert (end.state, end.finish_reason, end.error, end.repairs) == (TurnState.CANCELLED, None, "Enough.", 1)
    assert (end.usage.prompt_tokens, end.usage.cached_tokens, end.usage.completion_tokens) == (3, 2, 8)
    assert told(turn)[-1] == CallEnded(0, whole=False)
    assert turn.answer().items() == [Message(Role.ASSISTANT, "see: ")]
