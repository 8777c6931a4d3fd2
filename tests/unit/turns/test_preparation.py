"""From what was said to a prompt: what the model is shown, what it may write, how that is read."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from tests.unit.turns.live_turns import BYTES

from quern.errors import InvalidRequest
from quern.events import CallStarted
from quern.grammar.kinds import JsonGrammar, LarkGrammar
from quern.grammar.tool_calls import OPENING
from quern.prompt.codec import TextCodec
from quern.prompt.template import InProcessTemplate
from quern.turns.identity import call_id
from quern.turns.preparation import Prepared, call_parser, offered_tools, prepare
from quern.turns.request import CallMode, ChatInput, TokenInput, ToolUse
from quern.types import Message, Role, Tool, ToolCall, ToolResult

WEATHER = Tool("weather", "The weather now.", {"type": "object", "properties": {"city": {"type": "string"}}})
CLOCK = Tool("clock", "The time now.", {"type": "object", "properties": {}})
TURN = "1b4e28ba-2fa1-41d2-883f-0016d3cca427"
SCHEMA = '{\n  "type": "object",\n  "title": "北京 \\n"\n}'
NO_TOOLS = ToolUse()
QUESTION = Message(Role.USER, "Is it cold?")
HISTORY = [
    Message(Role.USER, "Where am I?"),
    ToolCall("call_1", "where", "{}"),
    ToolResult("call_1", "Paris"),
    Message(Role.ASSISTANT, "In Paris."),
]


def text(prepared: Prepared) -> str:
    return BYTES.tokenizer.decode(prepared.ids)


def ask(use: ToolUse = NO_TOOLS, schema: str | None = None, instructions: str | None = None) -> ChatInput:
    return ChatInput((QUESTION,), instructions, use, schema)


def without_tools() -> TextCodec:
    """A model whose template knows no tools."""
    return TextCodec(BYTES.facts, BYTES.tokenizer, InProcessTemplate("{{ messages[-1].content }}", {}), None)


def test_a_plain_question_is_shown_after_its_history_and_nothing_else_is_demanded() -> None:
    prepared = prepare(BYTES, HISTORY, ask())
    assert prepared == Prepared(BYTES.encode_chat([*HISTORY, QUESTION]))


def test_instructions_stand_before_the_history() -> None:
    prepared = prepare(BYTES, HISTORY, ask(instructions="Be brief."))
    assert prepared.ids == BYTES.encode_chat([Message(Role.SYSTEM, "Be brief."), *HISTORY, QUESTION])
    assert prepare(BYTES, [], ask(instructions="")).ids != prepare(BYTES, [], ask()).ids, "empty ones are some too"


def test_a_schema_is_kept_to_where_there_are_no_tools() -> None:
    for use in (ToolUse(), ToolUse((WEATHER,), CallMode.NONE)):
        prepared = prepare(BYTES, [], ask(use, SCHEMA))
        assert prepared.grammars == (JsonGrammar(SCHEMA),)
        assert call_parser(BYTES, use, TURN) is None


def test_tools_that_may_be_called_are_shown_and_their_calls_are_found() -> None:
    use = ToolUse((WEATHER, CLOCK))
    prepared = prepare(BYTES, HISTORY, ask(use))
    assert prepared.ids == BYTES.encode_chat([*HISTORY, QUESTION], [WEATHER, CLOCK])
    assert text(prepared).index('"name": "weather"') < text(prepared).index('"name": "clock"')
    assert call_parser(BYTES, use, TURN) is not None
    assert prepared.grammars == ()
    assert not prepared.single_call


def test_tools_that_must_not_be_called_are_not_even_shown() -> None:
    use = ToolUse((WEATHER,), CallMode.NONE)
    assert offered_tools(use) == ()
    assert call_parser(BYTES, use, TURN) is None
    assert prepare(BYTES, [], ask(use)) == prepare(BYTES, [], ask())
    assert prepare(without_tools(), [], ask(use)).ids == without_tools().encode_chat([QUESTION])


def test_a_demanded_call_is_opened_for_the_model_and_kept_to_by_a_grammar() -> None:
    use = ToolUse((WEATHER, CLOCK), CallMode.REQUIRED)
    prepared = prepare(BYTES, [], ask(use))
    assert text(prepared).endswith(f"assistant\n{OPENING}")
    (grammar,) = prepared.grammars
    assert isinstance(grammar, JsonGrammar)
    assert '"weather"' in grammar.schema
    assert '"clock"' in grammar.schema
    parser = call_parser(BYTES, use, TURN)
    assert parser is not None
    assert CallStarted(0, call_id(TURN, 0), "clock") in parser.push('{"name": "clock", "arguments": {}}')


def test_where_one_tool_is_demanded_all_are_shown_and_only_that_one_can_be_called() -> None:
    prepared = prepare(BYTES, [], ask(ToolUse((WEATHER, CLOCK), CallMode.REQUIRED, only="clock")))
    assert '"name": "weather"' in text(prepared)
    (grammar,) = prepared.grammars
    assert isinstance(grammar, JsonGrammar)
    assert '"clock"' in grammar.schema
    assert '"weather"' not in grammar.schema


def test_where_all_of_a_tools_schema_cant_be_enforced_its_structure_will_do_unless_the_tool_is_strict() -> None:
    mail = Tool("mail", "", {"properties": {"to": {"type": "string", "pattern": "^(?=.)"}}, "required": ["to"]})
    whole, structure = prepare(BYTES, [], ask(ToolUse((mail, WEATHER), CallMode.REQUIRED))).grammars
    assert isinstance(whole, JsonGrammar)
    assert isinstance(structure, JsonGrammar)
    assert "(?=.)" in whole.schema
    assert "(?=.)" not in structure.schema
    assert '"required": ["to"]' in structure.schema
    strict = ToolUse((replace(mail, strict=True), WEATHER), CallMode.REQUIRED)
    assert prepare(BYTES, [], ask(strict)).grammars == (whole,)


def test_what_demands_a_grammar_is_known_by_its_field() -> None:
    asked = replace(ask(schema=SCHEMA), schema_field="response_format")
    assert prepare(BYTES, [], asked).grammar_field == "response_format"
    use = ToolUse((WEATHER, CLOCK), CallMode.REQUIRED, only="clock")
    prepared = prepare(BYTES, [], replace(asked, tool_use=use))
    assert (prepared.grammar_field, prepared.demanded) == ("tools", (CLOCK,))


def test_a_demanded_call_goes_before_a_schema() -> None:
    prepared = prepare(BYTES, [], ask(ToolUse((WEATHER,), CallMode.REQUIRED), SCHEMA))
    (grammar,) = prepared.grammars
    assert isinstance(grammar, JsonGrammar)
    assert grammar.schema != SCHEMA


def test_with_tools_and_a_schema_the_answer_is_a_call_or_keeps_to_the_schema() -> None:
    prepared = prepare(BYTES, [], ask(ToolUse((WEATHER,)), SCHEMA))
    (grammar,) = prepared.grammars
    assert isinstance(grammar, LarkGrammar)
    *_, last = grammar.lark.strip().splitlines()
    assert last.startswith("answer: %json ")
    assert json.loads(last.removeprefix("answer: %json ")) == json.loads(SCHEMA)


@pytest.mark.parametrize("mode", [CallMode.AUTO, CallMode.REQUIRED])
def test_without_parallel_calls_the_answer_ends_after_its_first(mode: CallMode) -> None:
    assert prepare(BYTES, [], ask(ToolUse((WEATHER,), mode, parallel=False))).single_call


@pytest.mark.parametrize("mode", [CallMode.AUTO, CallMode.REQUIRED])
def test_a_model_that_knows_no_tools_says_so(mode: CallMode) -> None:
    with pytest.raises(InvalidRequest, match="knows no tools") as refused:
        prepare(without_tools(), [], ask(ToolUse((WEATHER,), mode)))
    assert refused.value.field == "tools"
    assert call_parser(without_tools(), ToolUse((WEATHER,), mode), TURN) is None


def test_token_ids_are_continued_as_they_are() -> None:
    given = TokenInput((1, 2, 264), frozenset({7}))
    assert prepare(BYTES, HISTORY, given) == Prepared((1, 2, 264), stop_token_ids=frozenset({7}))


@pytest.mark.parametrize("ids", [(), (265,), (-1, 2), (1, 10**12)])
def test_token_ids_that_the_model_does_not_have_are_refused(ids: tuple[int, ...]) -> None:
    with pytest.raises(InvalidRequest) as refused:
        prepare(BYTES, [], TokenInput(ids))
    assert refused.value.field == "prompt"
