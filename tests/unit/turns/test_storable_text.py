"""What is told of an answer is what will be stored of it, to the character."""

from __future__ import annotations

import json
from collections.abc import Sequence

import pytest
from tests.unit.turns.live_turns import live_turn
from tests.unit.turns.test_generation import run, tokens

from quern.engine.base import Finished, Logprob, Tokens
from quern.events import TextLogprobs
from quern.grammar.tool_calls import ToolFormat
from quern.prompt.tools.answer_parser import answer_parser
from quern.prompt.tools.protocols import AnswerParser
from quern.store.schema import storable
from quern.turns.answer import Answer
from quern.turns.decoder import OutputParser
from quern.turns.turn import Turn
from quern.types import FinishReason, Timings, Tool, Usage

WRITE = Tool("write", "", {"type": "object", "properties": {"text": {"type": "string"}, "parts": {"type": "object"}}})
NUL_CALL = '<tool_call>\n{"name": "write", "arguments": {"text": "a\x00b"}}\n</tool_call>'
SURROGATE_CALLS = [
    '<tool_call>\n{"name": "write", "arguments": "{\\"text\\": \\"\\ud83d\\"}"}\n</tool_call>',
    '<tool_call>\n{"name": "write", "arguments": {"parts": "{\\"\\udc00\\": 1}"}}\n</tool_call>',
]
"""Their arguments are JSON inside of JSON, whose halves of surrogate pairs come out as such."""


def finished() -> Finished:
    return Finished(FinishReason.STOP, Usage(), Timings())


def parser() -> AnswerParser:
    return answer_parser(ToolFormat.JSON, [WRITE], "call_{}".format)


def read_again(turn: Turn, pieces: Sequence[str]) -> Answer:
    """The answer as it is read from what the store gives back."""
    reader = OutputParser(parser())
    return Answer([*(event for piece in pieces for event in reader.push(piece)), *reader.finish()])


async def test_a_nul_in_what_is_kept_is_told_as_it_will_be_stored() -> None:
    turn = live_turn()
    await run(turn, tokens("a\x00"), tokens("\x00b"), finished())
    assert turn.answer().text == "a\ufffd\ufffdb"
    assert turn.pieces == ["a", "\ufffd", "\ufffd", "b"]


async def test_what_is_not_kept_is_told_as_it_is() -> None:
    turn = live_turn(kept=False)
    await run(turn, tokens("a\x00b"), finished())
    assert turn.answer().text == "a\x00b"


async def test_probabilities_stay_with_their_text_where_a_character_is_replaced() -> None:
    turn = live_turn(logprobs=True)
    await run(turn, Tokens((0, 97), (Logprob(-1.0, ()), Logprob(-2.0, ()))), finished())
    events = [event for event in turn.log.events if isinstance(event, TextLogprobs)]
    assert [token.token for event in events for token in event.tokens] == [b"\x00", b"a"]


@pytest.mark.parametrize("written", [NUL_CALL, *SURROGATE_CALLS])
async def test_a_call_is_told_as_it_will_be_stored_and_read_again(written: str) -> None:
    turn = live_turn(parser=parser())
    await run(turn, tokens(written), finished())
    (call,) = turn.answer().calls
    assert storable(call.arguments) == call.arguments
    assert isinstance(json.loads(call.arguments), dict)
    assert read_again(turn, [storable(piece) for piece in turn.pieces]).items() == turn.answer().items()


@pytest.mark.parametrize("written", SURROGATE_CALLS)
async def test_arguments_can_be_encoded_even_where_they_are_not_kept(written: str) -> None:
    turn = live_turn(parser=parser(), kept=False)
    await run(turn, tokens(written), finished())
    (call,) = turn.answer().calls
    assert isinstance(json.loads(call.arguments.encode()), dict)
