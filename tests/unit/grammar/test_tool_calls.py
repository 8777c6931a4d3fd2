"""Grammars of demanded calls: what they allow, what they refuse, and that the parsers read it without a repair."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import llguidance
import pytest
from tests.unit.prompt.tools.answers import TIME, WEATHER, WRITE, parse

from quern.errors import InvalidRequest
from quern.grammar.kinds import JsonGrammar, LarkGrammar
from quern.grammar.tool_calls import ToolFormat, demanded_call
from quern.types import Tool

NODE = Tool(
    "节点",
    "A tree.",
    {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "type": "object",
        "properties": {
            "名字": {"type": "string"},
            "unit": {"anyOf": [{"$ref": "#/$defs/Unit"}, {"type": "null"}]},
            "child": {"$ref": "#"},
            "count": {"$ref": "#/definitions/Count"},
            "default": {"type": "integer", "default": {"$ref": "#/nothing"}},
        },
        "required": ["count"],
        "additionalProperties": False,
        "$defs": {"Unit": {"enum": ['a "quoted"', "\\"]}},
        "definitions": {"Count": {"type": "integer"}},
    },
)
OTHER_UNITS = Tool(
    "other",
    "Has a definition of the same name.",
    {"type": "object", "properties": {"unit": {"$ref": "#/$defs/Unit"}}, "$defs": {"Unit": {"enum": ["kelvin"]}}},
)
TOOLS = (WEATHER, WRITE, TIME, NODE, OTHER_UNITS)
BYTES = llguidance.LLTokenizer("byte")


class Language:
    """What a grammar allows."""

    def __init__(self, grammar: str) -> None:
        self._grammar = grammar
        assert llguidance.LLMatcher.validate_grammar(grammar, BYTES) == ""

    def ends_with(self, text: str) -> bool:
        """Whether the text is a whole answer, after which nothing more can come."""
        matcher = llguidance.LLMatcher(BYTES, self._grammar, log_level=0)
        ids = BYTES.tokenize_str(text)
        return matcher.try_consume_tokens(ids) == len(ids) and matcher.is_accepting() and matcher.is_stopped()

    def allows(self, beginning: str) -> bool:
        """Whether an answer may begin so."""
        ids = BYTES.tokenize_str(beginning)
        return llguidance.LLMatcher(BYTES, self._grammar, log_level=0).try_consume_tokens(ids) == len(ids)


def json_schemas(*tools: Tool) -> list[str]:
    """Of every grammar that will do, strictest first."""
    grammars = demanded_call(ToolFormat.JSON, tools)
    return [grammar.schema for grammar in grammars if isinstance(grammar, JsonGrammar)]


def json_languages(*tools: Tool) -> list[Language]:
    """Of every grammar that will do, strictest first."""
    return [Language(llguidance.LLMatcher.grammar_from_json_schema(schema)) for schema in json_schemas(*tools)]


def xml_languages(*tools: Tool) -> list[Language]:
    """Of every grammar that will do, strictest first."""
    texts = [grammar.lark for grammar in demanded_call(ToolFormat.XML, tools) if isinstance(grammar, LarkGrammar)]
    return [Language(llguidance.LLMatcher.grammar_from_lark(text)) for text in texts]


def call(name: str, arguments: object) -> str:
    return json.dumps({"name": name, "arguments": arguments}, ensure_ascii=False)


def function(name: str, *arguments: tuple[str, str]) -> str:
    parameters = (f"<parameter={key}>\n{value}\n</parameter>\n" for key, value in arguments)
    return "".join([f"<function={name}>\n", *parameters, "</function>"])


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("get_weather", {"city": '北京 "😀"'}),
        ("get_weather", {"city": "", "days": 3, "hourly": True, "unit": "celsius"}),
        (
            "write_file",
            {"path": "a", "content": "x\n{}", "mode": None, "lines": [1], "options": {"a": 1}, "ratio": 0.5},
        ),
        ("get_time", {}),
        ("节点", {"名字": "a", "unit": None, "child": {"count": 1}, "count": 2}),
        ("other", {"unit": "kelvin"}),
    ],
)
def test_a_json_call_of_one_of_the_tools_is_allowed_and_read_without_a_repair(name: str, arguments: object) -> None:
    answer = call(name, arguments)
    for language in json_languages(*TOOLS):
        assert language.ends_with(answer)
    parsed = parse(answer, ToolFormat.JSON, TOOLS, opened=True)
    assert (parsed.text, parsed.arguments(), parsed.repairs) == ("", arguments, 0)


@pytest.mark.parametrize(
    "beginning",
    [
        "Sure",
        '{"name": "fly"',
        '{"name": "get_time", "arguments": {"',
        '{"name": "get_weather", "arguments": {"days"',
        '{"name": "get_weather", "arguments": {"city": 5',
        '{"name": "other", "arguments": {"unit": "c',
        '{"name": "节点", "arguments": {"count": "',
        '{"name": "节点", "arguments": {"child": {"count": "',
        '{"arguments"',
    ],
)
def test_anything_but_a_json_call_is_not(beginning: str) -> None:
    for language in json_languages(*TOOLS):
        assert not language.allows(beginning)


def test_a_single_tool_needs_no_alternatives() -> None:
    schema = json.loads(json_schemas(TIME)[0])
    assert "anyOf" not in schema
    assert schema["properties"]["name"] == {"const": "get_time"}
    (language,) = json_languages(TIME)
    assert language.ends_with(call("get_time", {}))
    assert not language.allows('{"name": "get_w')


UNENFORCEABLE = Tool(
    "post",
    "",
    {
        "type": "object",
        "properties": {
            "to": {"type": "string", "format": "postcode"},
            "either": {"oneOf": [{"type": "integer"}, {"type": "integer", "minimum": 3}]},
        },
        "required": ["to"],
        "if": {"required": ["to"]},
    },
)
"""No engine keeps to all of this."""


def test_where_a_tools_schema_cant_be_enforced_its_structure_can() -> None:
    whole, structure = json_schemas(UNENFORCEABLE, TIME)
    assert '"postcode"' in whole
    language = Language(llguidance.LLMatcher.grammar_from_json_schema(structure))
    assert language.ends_with(call("post", {"to": "x", "either": 5}))
    assert language.ends_with(call("get_time", {}))
    for beginning in ({"to": 5}, {"to": "x", "either": "5"}, {"either": 5}):
        assert not language.allows(call("post", beginning))
    _, structure = demanded_call(ToolFormat.XML, [UNENFORCEABLE])
    assert isinstance(structure, LarkGrammar)
    language = Language(llguidance.LLMatcher.grammar_from_lark(structure.lark))
    assert language.ends_with(function("post", ("to", "x"), ("either", "5")))
    assert not language.allows("<function=post>\n<parameter=to>\nx\n</parameter>\n<parameter=either>\nfive")


def test_of_a_strict_tool_there_is_no_grammar_of_the_structure_alone() -> None:
    assert len(json_schemas(replace(UNENFORCEABLE, strict=True), TIME)) == 1
    whole, loose = json_schemas(replace(UNENFORCEABLE, name="strict", strict=True), UNENFORCEABLE)
    assert (whole.count("postcode"), loose.count("postcode")) == (2, 1)


def test_what_a_schema_says_to_people_makes_no_grammar_longer() -> None:
    said = {"description": "Where to.", "title": "To", "examples": ["x"], "default": "x", "x-order": 1}
    named: dict[str, Any] = {**{name: {"type": "null"} for name in said}, "to": {"type": "string", **said}}
    (schema,) = json_schemas(Tool("post", "", {"properties": named, **said}))
    arguments = json.loads(schema)["properties"]["arguments"]
    properties = {**{name: {"type": "null"} for name in said}, "to": {"type": "string"}}
    assert arguments == {"type": "object", "properties": properties}


@pytest.mark.parametrize(
    ("answer", "arguments"),
    [
        (function("get_weather", ("city", '北京 "😀"')), {"city": '北京 "😀"'}),
        (
            function("get_weather", ("city", ""), ("days", "3"), ("hourly", "true"), ("unit", "celsius")),
            {"city": "", "days": 3, "hourly": True, "unit": "celsius"},
        ),
        (
            function(
                "write_file", ("path", "a"), ("content", "\n</parameter\n\n<a>\n\n"), ("options", '{"a": [1, null]}')
            ),
            {"path": "a", "content": "\n</parameter\n\n<a>\n\n", "options": {"a": [1, None]}},
        ),
        (
            function("write_file", ("path", "a"), ("content", "b"), ("mode", "null")),
            {"path": "a", "content": "b", "mode": None},
        ),
        (function("get_time"), {}),
        (function("节点", ("unit", 'a "quoted"'), ("count", "2")), {"unit": 'a "quoted"', "count": 2}),
        (
            function("节点", ("unit", "\\"), ("child", '{"count": 1}'), ("count", "2")),
            {"unit": "\\", "child": {"count": 1}, "count": 2},
        ),
        (function("other"), {}),
    ],
)
def test_an_xml_call_of_one_of_the_tools_is_allowed_and_read_without_a_repair(answer: str, arguments: object) -> None:
    for language in xml_languages(*TOOLS):
        assert language.ends_with(answer)
    parsed = parse(answer, ToolFormat.XML, TOOLS, opened=True)
    assert (parsed.text, parsed.arguments(), parsed.repairs) == ("", arguments, 0)


@pytest.mark.parametrize(
    "beginning",
    [
        "Sure",
        "<function=fly>",
        "<function=get_time>\n<parameter",
        "<function=get_weather>\n</function>",
        "<function=get_weather>\n<parameter=days>",
        "<function=get_weather>\n<parameter=city>\na\n</parameter>\n<parameter=unit>\nkelvin",
        "<function=get_weather>\n<parameter=city>\na\n</parameter>\n<parameter=days>\nthree",
        "<function=get_weather>\n<parameter=city>\na\n</parameter>\n<parameter=city>",
        "<function=get_weather>\n<parameter=city>\na\n</parameter>x",
    ],
)
def test_anything_but_an_xml_call_is_not(beginning: str) -> None:
    for language in xml_languages(*TOOLS):
        assert not language.allows(beginning)


def test_xml_values_that_are_no_strings_are_json_of_their_schema() -> None:
    beginning = "<function=write_file>\n<parameter=path>\na\n</parameter>\n<parameter=content>\nb\n</parameter>\n"
    for language in xml_languages(WRITE):
        assert language.allows(beginning + "<parameter=lines>\n[1")
        assert not language.allows(beginning + '<parameter=lines>\n["')


@pytest.mark.parametrize("kind", [int, str])
def test_a_grammar_that_outgrows_its_schemas_is_refused(kind: type[int | str]) -> None:
    choices = [kind(number) for number in range(1000)]
    definitions = {f"d{number}": {"enum": choices, "minimum": number} for number in range(2)}

    def tool(arguments: int) -> Tool:
        properties = {f"a{number}": {"$ref": f"#/$defs/d{number % 2}"} for number in range(arguments)}
        return Tool("f", "", {"type": "object", "properties": properties, "$defs": definitions})

    assert demanded_call(ToolFormat.XML, [tool(2)])
    assert demanded_call(ToolFormat.JSON, [tool(1000)])
    with pytest.raises(InvalidRequest, match="too large"):
        demanded_call(ToolFormat.XML, [tool(1000)])
