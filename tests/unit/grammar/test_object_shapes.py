"""A tool's schema is walked from its root, however it says which arguments there are."""

from __future__ import annotations

import json
from typing import Any

import llguidance
import pytest
from tests.unit.grammar.test_tool_calls import Language, call, function
from tests.unit.prompt.tools.answers import parse

from quern.grammar.kinds import JsonGrammar, LarkGrammar
from quern.grammar.object_shapes import MOST_ALTERNATIVES, ObjectShape, object_shapes, one_shape
from quern.grammar.parameter_types import ParameterTypes
from quern.grammar.schema_walk import MOST_NODES
from quern.grammar.tool_calls import ToolFormat, demanded_call
from quern.types import Tool

Schema = dict[str, Any]

WRITE: Schema = {
    "type": "object",
    "properties": {"path": {"type": "string"}, "lines": {"type": "integer"}},
    "required": ["path", "lines"],
}
PATH: Schema = {"type": "object", "properties": {"path": {"type": "string"}}, "required": ["path"]}
LINES: Schema = {"properties": {"lines": {"type": "integer"}}, "required": ["lines"]}
SAME: list[Schema] = [
    WRITE,
    {"$ref": "#/$defs/w", "$defs": {"w": WRITE}},
    {"$ref": "#/definitions/w", "definitions": {"w": {"$ref": "#/definitions/v"}, "v": WRITE}, "title": "W"},
    {"allOf": [{"$ref": "#/$defs/w"}], "$defs": {"w": WRITE}},
    {"allOf": [PATH, LINES]},
    {"type": "object", "allOf": [{"$ref": "#/$defs/p"}, {"$ref": "#/$defs/l"}], "$defs": {"p": PATH, "l": LINES}},
    {**PATH, "allOf": [LINES]},
    {**PATH, "$ref": "#/$defs/l", "$defs": {"l": LINES}},
    {"anyOf": [WRITE]},
    {"oneOf": [{"$ref": "#/$defs/w"}, {"type": "null"}], "$defs": {"w": WRITE}},
    {"anyOf": [{"allOf": [PATH, {"anyOf": [LINES]}]}]},
    {"$ref": "#/$defs/w", "$defs": {"w": {"allOf": [PATH, LINES, {"$ref": "#/$defs/w"}, {"$ref": "#"}]}}},
    {"properties": WRITE["properties"], "anyOf": [{"required": ["path", "lines"]}]},
    {**PATH, "if": {}, "then": LINES, "required": ["path", "lines"]},
    {"$ref": "#/properties/path/x", "properties": {"path": {"x": LINES, "type": "string"}}, "required": ["path"]},
]  # fmt: skip
"""Ways to say the same."""


@pytest.mark.parametrize("schema", SAME, ids=lambda schema: json.dumps(schema)[:50])
def test_arguments_and_their_types_are_found_wherever_they_are_said(schema: Schema) -> None:
    types = ParameterTypes(schema)
    assert (types.of("path"), types.of("lines")) == ({"string"}, {"integer"})
    assert set(types.required) == {"path", "lines"}
    assert types.may_have("path")
    assert not types.may_have("other")


@pytest.mark.parametrize("schema", SAME, ids=lambda schema: json.dumps(schema)[:50])
def test_values_of_an_xml_call_have_their_types(schema: Schema) -> None:
    written = function("write", ("path", "3"), ("lines", "3"))
    parsed = parse(f"<tool_call>\n{written}\n</tool_call>", ToolFormat.XML, [Tool("write", "", schema)])
    assert (parsed.arguments(), parsed.repairs) == ({"path": "3", "lines": 3}, 0)


def languages(form: ToolFormat, schema: Schema) -> list[Language]:
    return [
        Language(
            llguidance.LLMatcher.grammar_from_json_schema(grammar.schema)
            if isinstance(grammar, JsonGrammar)
            else llguidance.LLMatcher.grammar_from_lark(grammar.lark)
        )
        for grammar in demanded_call(form, [Tool("write", "", schema)])
    ]


@pytest.mark.parametrize("schema", SAME, ids=lambda schema: json.dumps(schema)[:50])
def test_a_demanded_xml_call_has_all_of_its_required_arguments(schema: Schema) -> None:
    for language in languages(ToolFormat.XML, schema):
        in_either_order = [(("path", "a"), ("lines", "3")), (("lines", "3"), ("path", "a"))]
        assert sum(language.ends_with(function("write", *arguments)) for arguments in in_either_order) == 1
        assert not language.allows("<function=write>\n</function>")
        assert not language.allows(function("write", ("path", "a")))
        assert not language.allows("<function=write>\n<parameter=lines>\nthree")


@pytest.mark.parametrize("schema", SAME[:9] + SAME[10:11])
def test_a_demanded_json_call_has_all_of_its_required_arguments(schema: Schema) -> None:
    for language in languages(ToolFormat.JSON, schema):
        assert language.ends_with(call("write", {"path": "a", "lines": 3}))
        assert not language.allows('{"name": "write", "arguments": {}')
        assert not language.allows('{"name": "write", "arguments": {"path": "a"}')


EDIT: Schema = {
    "anyOf": [
        {"properties": {"do": {"const": "cut"}, "at": {"type": "integer"}}, "required": ["do", "at"]},
        {"properties": {"do": {"const": "put"}, "text": {"type": "string"}}, "required": ["do", "text"]},
    ]
}


def test_of_alternatives_a_demanded_xml_call_has_the_arguments_of_one() -> None:
    (language,) = languages(ToolFormat.XML, EDIT)
    assert language.ends_with(function("write", ("do", "cut"), ("at", "3")))
    assert language.ends_with(function("write", ("do", "put"), ("text", "3")))
    for other in ([("do", "cut"), ("text", "3")], [("do", "cut")], [("at", "3")], []):
        assert not language.allows(function("write", *other))


def test_of_alternatives_an_argument_has_the_types_of_all() -> None:
    types = ParameterTypes({"oneOf": [PATH, {"properties": {"path": {"type": "integer"}, "n": {"type": "null"}}}]})
    assert (types.of("path"), types.of("n")) == ({"string", "integer"}, {"null"})
    assert types.required == ()
    assert ParameterTypes(EDIT).choices("do") == ("cut", "put")
    assert ParameterTypes({"allOf": [{"properties": {"a": {"enum": ["x"]}}}, {"properties": {"a": {"type": "string"}}}]}
    ).choices("a") == ("x",)  # fmt: skip


def test_too_many_alternatives_are_one_with_the_members_of_all() -> None:
    many: list[Schema] = [
        {"properties": {"all": {}, f"p{n}": {}}, "required": ["all", f"p{n}"]} for n in range(MOST_ALTERNATIVES)
    ]
    assert len(object_shapes({"anyOf": many})) == MOST_ALTERNATIVES
    (shape,) = object_shapes({"anyOf": many, "oneOf": many})
    assert (shape.required, len(shape.properties)) == (("all",), MOST_ALTERNATIVES + 1)


def test_an_argument_that_is_required_and_not_described_may_be_anything() -> None:
    schema: Schema = {**PATH, "required": ["path", "more"]}
    assert ParameterTypes(schema).of("more") == frozenset()
    for form, written in (
        (ToolFormat.XML, function("write", ("path", "a"), ("more", "b"))),
        (ToolFormat.JSON, call("write", {"path": "a", "more": "b"})),
    ):
        for language in languages(form, schema):
            assert language.ends_with(written)
    for language in languages(ToolFormat.JSON, {"type": "object", "required": ["more"]}):
        assert not language.allows('{"name": "write", "arguments": {}')


@pytest.mark.parametrize(
    "schema",
    [
        {},
        {"$ref": "#"},
        {"$ref": "#/none"},
        {"allOf": [{"$ref": "#"}]},
        {"type": "null"},
        {"anyOf": 5, "properties": 1},
    ],
)
def test_a_schema_that_says_nothing_names_no_argument(schema: Schema) -> None:
    assert object_shapes(schema) == (ObjectShape(),)
    assert ParameterTypes(schema).may_have("x")


def test_who_welcomes_others_may_have_any() -> None:
    welcoming: list[Schema] = [
        {"additionalProperties": True},
        {"additionalProperties": {}},
        {"patternProperties": {"^x": {}}},
    ]
    for more in welcoming:
        assert ParameterTypes({**PATH, **more}).may_have("x")
    others: list[Schema] = [
        {"additionalProperties": False},
        {"patternProperties": {}},
        {"unevaluatedProperties": False},
    ]
    for more in others:
        assert not ParameterTypes({**PATH, **more}).may_have("x")


def test_an_argument_that_nothing_satisfies_is_none() -> None:
    assert ParameterTypes({"properties": {"a": False, "b": True}}).may_have("a") is False


def test_schemas_that_stand_for_many_more_are_walked_in_bounded_work() -> None:
    wide = {f"d{n}": {"allOf": [{"$ref": f"#/$defs/d{n + 1}"}] * 30} for n in range(30)}
    members: Schema = {f"p{n}": {} for n in range(2000)}
    schema: Schema = {"$ref": "#/$defs/d0", "$defs": {**wide, "d30": {"properties": members}}}
    assert len(one_shape(object_shapes(schema)).properties) in {0, 2000}
    one_shape(object_shapes({"anyOf": [{"anyOf": [{"properties": members}] * 9}] * MOST_NODES}))


def test_a_reference_to_a_part_of_the_schema_itself_still_holds_in_the_grammar_of_a_call() -> None:
    schema: Schema = {"allOf": [PATH, {"properties": {"inner": {"$ref": "#/allOf/0"}, "deep": {"$ref": "#"}}}]}
    for grammar in demanded_call(ToolFormat.XML, [Tool("write", "", schema)])[:1]:
        assert isinstance(grammar, LarkGrammar)
        language = Language(llguidance.LLMatcher.grammar_from_lark(grammar.lark))
        assert language.ends_with(function("write", ("path", "a"), ("inner", '{"path": "b"}')))
        assert not language.allows("<function=write>\n<parameter=path>\na\n</parameter>\n<parameter=inner>\n{}")
