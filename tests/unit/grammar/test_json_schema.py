"""What is asked of a JSON schema before it is compiled."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from quern.errors import InvalidRequest
from quern.grammar.json_schema import (
    FRACTION,
    LAYOUTS,
    MAX_OPTIONAL,
    Llguidance,
    for_llguidance,
    read_schema,
    with_ids_replaced,
)
from quern.grammar.kinds import JsonGrammar, LarkGrammar
from quern.grammar.schema_walk import place_of

OWN: dict[str, Any] = {"x-guidance": LAYOUTS[Llguidance.OWN]}

Make = Callable[[list[Any]], dict[str, Any]]
"""A schema around others."""


def properties(count: int) -> dict[str, Any]:
    return {f"p{n}": {} for n in range(count)}


def test_a_schema_is_read_as_it_is() -> None:
    schema = {"type": "object", "properties": {"城市": {"enum": ["北京"]}}}
    assert read_schema(json.dumps(schema)) == schema


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("{", "is no JSON"),
        ('{"a": 1} {}', "is no JSON"),
        ("[" * 100_000, "nested too deeply"),
        ('{"const": ' + "1" * 5000 + "}", "a number in it is too long"),
        ("true", "is a JSON object, and this one is another value"),
        ("[]", "is a JSON object, and this one is another value"),
    ],
)
def test_what_is_no_schema_is_refused(text: str, sentence: str) -> None:
    with pytest.raises(InvalidRequest, match=sentence):
        read_schema(text)


def test_too_many_optional_properties_are_refused_with_the_place_and_the_count() -> None:
    read_schema(json.dumps({"properties": properties(MAX_OPTIONAL)}))
    read_schema(json.dumps({"properties": properties(2000), "required": [f"p{n}" for n in range(1700)]}))
    inner = {"type": "object", "properties": properties(MAX_OPTIONAL + 2), "required": ["p0", "elsewhere"]}
    with pytest.raises(InvalidRequest, match=f"the object at #/properties/a~1b/items has {MAX_OPTIONAL + 1} optional"):
        read_schema(json.dumps({"properties": {"a/b": {"items": inner}}}))


def strings(count: int) -> list[dict[str, Any]]:
    return [{"type": "string", "pattern": f"^a{{{n}}}$"} for n in range(count)]


MEETING: list[Make] = [
    lambda parts: {"allOf": parts},
    lambda parts: {"anyOf": parts, "pattern": "^a*$"},
    lambda parts: {"$ref": "#/$defs/x", "properties": {"a": {}}, "$defs": {"x": {"anyOf": parts}}},
    lambda parts: {"oneOf": [{}], "anyOf": parts},
    lambda parts: {"properties": {"a": {"allOf": [{}, {}]}, "b": {"prefixItems": parts}}},
    lambda parts: {"$ref": "#/examples/0", "examples": [{"allOf": parts}]},
    lambda parts: {"$ref": "#/properties", "properties": {"allOf": parts}},
]
APART: list[Make] = [
    lambda parts: {"anyOf": parts, "title": "x", "$defs": {}},
    lambda parts: {"allOf": [{"prefixItems": parts}]},
    lambda parts: {"properties": {"a": {"$ref": "#/$defs/x"}}, "$defs": {"x": {"prefixItems": parts}}},
]


@pytest.mark.parametrize("make", MEETING)
def test_where_schemas_meet_there_may_be_so_many_patterns(make: Make) -> None:
    read_schema(json.dumps(make([*strings(9), *strings(9)])))
    with pytest.raises(InvalidRequest, match=r"it has 1[12] different patterns and formats, and at most 10"):
        read_schema(json.dumps(make([*strings(10), {"format": "date"}])))


@pytest.mark.parametrize("make", APART)
def test_where_they_dont_meet_there_may_be_any_number(make: Make) -> None:
    read_schema(json.dumps(make(strings(100))))


@pytest.mark.parametrize("keyword", ["properties", "patternProperties", "$defs", "definitions", "dependentSchemas"])
def test_a_keyword_is_found_where_it_is_one(keyword: str) -> None:
    schema: dict[str, Any] = {keyword: {"not": {"type": "string"}, "a": {"items": [{}, {"not": {}}]}}}
    assert place_of([{}, schema], "not") == f"#/{keyword}/a/items/1"


@pytest.mark.parametrize("keyword", ["const", "enum", "default", "examples"])
def test_a_keyword_is_not_found_in_a_value(keyword: str) -> None:
    assert place_of([{keyword: {"not": 1}}], "not") == ""


def test_the_first_place_of_a_keyword_with_this_value_is_found() -> None:
    schema = {"anyOf": [{"format": "date"}, {"format": ["x"]}, {"format": "x~y"}, {"format": "x~y"}]}
    assert place_of([schema], "format", "x~y") == "#/anyOf/2"
    assert place_of([schema], "format") == "#/anyOf/0"
    assert place_of([schema], "format", "other") == ""


def test_times_get_a_bound_and_everything_else_stays_as_it_is() -> None:
    time = {"type": "string", "format": "time"}
    schema: dict[str, Any] = {
        "properties": {
            "format": time,
            "list": {"items": [{"format": "date-time", "pattern": "^2"}, {"format": "date"}]},
        },
        "enum": [time],
        "format": ["time"],
    }
    properties = {**schema["properties"], "format": {**time, "pattern": FRACTION}}
    properties["list"] = {"items": [{"format": "date-time", "pattern": "^2"}, {"format": "date"}]}
    lark, _ = for_llguidance(JsonGrammar(json.dumps(schema)))
    assert json.loads(lark.removeprefix("start: %json ")) == {**schema, "properties": properties, **OWN}


def test_what_is_nested_too_deeply_is_refused() -> None:
    text = '{"items":' * 900 + "{}" + "}" * 900
    with pytest.raises(InvalidRequest, match="nested too deeply"):
        for_llguidance(JsonGrammar(text))


def test_every_schema_in_a_lark_grammar_gets_the_layout_and_is_returned() -> None:
    lark = (
        'start: <call> a | b\na: %json {"type": "object", "x-guidance": {"lenient": true}}\nb: %json\n {"not": {}} "x"'
    )
    for llguidance in Llguidance:
        changed, schemas = for_llguidance(LarkGrammar(lark), llguidance=llguidance)
        assert schemas == [{"type": "object", "x-guidance": {"lenient": True}}, {"not": {}}]
        layout: dict[str, Any] = {"x-guidance": LAYOUTS[llguidance]}
        first, second = json.dumps({"type": "object", **layout}), json.dumps({"not": {}, **layout})
        assert changed == f'start: <call> a | b\na: %json {first}\nb: %json\n {second} "x"'


def test_special_tokens_are_written_as_their_ids_and_everything_else_as_it_is() -> None:
    lark = 'start: <call> "<call>" /<call>/ <[5]> <other></call> // <call>\n'
    changed, _ = for_llguidance(LarkGrammar(lark), {"<call>": 7, "</call>": 8})
    assert changed == 'start: <[7]> "<call>" /<call>/ <[5]> <other><[8]> // <call>\n'


def test_only_tokens_that_are_named_by_ids_are_replaced() -> None:
    lark = 'start: <[7]> "<[7]>" /<[7]>/ <x> <[1-5,^3]> %json {"const": "<[7]>"} // <[7]>\n'
    assert with_ids_replaced(lark, "<[0]>") == lark.replace("start: <[7]>", "start: <[0]>").replace("1-5,^3", "0")


@pytest.mark.parametrize(
    "lark",
    [
        'start: "%json {}"',
        r'start: "\"%json {}"',
        "start: /%json {}/",
        r"start: /\/%json {}/",
        '// %json {}\nstart: "a"',
        '# %json {}\nstart: "a"',
        "start: %json {",
        "start: %json true",
        "start: " + "%json " + "[" * 100_000,
    ],
)
def test_text_that_is_no_schema_stays_as_it_is(lark: str) -> None:
    assert for_llguidance(LarkGrammar(lark)) == (lark, [])


def test_schemas_in_lark_have_the_same_limits() -> None:
    lark = f"start: a | a\na: %json {json.dumps({'properties': properties(MAX_OPTIONAL + 1)})}"
    with pytest.raises(InvalidRequest, match="the object at # has"):
        for_llguidance(LarkGrammar(lark))
