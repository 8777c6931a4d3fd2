"""Which types a schema accepts, and values brought to them."""

from __future__ import annotations

import json
from typing import Any

import pytest

from quern.grammar.parameter_types import ParameterTypes
from quern.prompt.tools.coercion import Coerced, as_json, from_json, from_text

STRING = frozenset({"string"})
INTEGER = frozenset({"integer"})


def types_of(schema: Any, **parameters: Any) -> set[str]:
    return set(ParameterTypes({"properties": {"x": schema}, **parameters}).of("x"))


SCHEMAS: list[tuple[Any, set[str]]] = [
    ({"type": "integer"}, {"integer"}),
    ({"type": ["string", "null"]}, {"string", "null"}),
    ({"anyOf": [{"type": "integer"}, {"type": "null"}]}, {"integer", "null"}),
    ({"oneOf": [{"type": "integer"}, {"anyOf": [{"type": "array"}]}]}, {"integer", "array"}),
    ({"allOf": [{"description": "x"}, {"type": "object"}]}, {"object"}),
    ({"enum": ["a", 1, None]}, {"string", "integer", "null"}),
    ({"const": True}, {"boolean"}),
    ({"type": "string", "nullable": True}, {"string", "null"}),
    ({"properties": {}}, {"object"}),
    ({"items": {}}, {"array"}),
    ({"anyOf": [{"type": "integer"}, {}]}, set()),
    ({"anyOf": []}, set()),
    ({}, set()),
    (True, set()),
    ({"type": 5, "enum": "no", "anyOf": {"a": 1}}, set()),
    ({"$ref": "https://example.com/schema"}, set()),
]


@pytest.mark.parametrize(("schema", "types"), SCHEMAS)
def test_types_are_found_in_a_schema(schema: Any, types: set[str]) -> None:
    assert types_of(schema) == types


def test_references_are_followed_and_circles_accept_anything() -> None:
    definitions = {"A": {"$ref": "#/$defs/B~1C"}, "B/C": {"type": "number"}, "Me": {"$ref": "#/$defs/Me"}}
    assert types_of({"$ref": "#/$defs/A"}, **{"$defs": definitions}) == {"number"}
    assert types_of({"anyOf": [{"$ref": "#/$defs/A"}, {"type": "null"}]}, **{"$defs": definitions}) == {
        "number",
        "null",
    }
    assert types_of({"$ref": "#/definitions/A"}, definitions={"A": {"type": "array"}}) == {"array"}
    assert types_of({"$ref": "#/$defs/Me"}, **{"$defs": definitions}) == set()
    assert types_of({"$ref": "#/$defs/Nobody"}, **{"$defs": definitions}) == set()


def test_an_argument_that_the_schema_does_not_know_may_be_anything() -> None:
    assert ParameterTypes({}).of("x") == frozenset()
    assert ParameterTypes({"properties": ["x"]}).of("x") == frozenset()


def test_choices_are_known_where_all_are_texts() -> None:
    schema = {
        "properties": {
            "plain": {"enum": ["a", "b"]},
            "const": {"const": "a"},
            "optional": {"anyOf": [{"$ref": "#/$defs/Unit"}, {"type": "null"}]},
            "mixed": {"enum": ["a", 1]},
            "free": {"anyOf": [{"enum": ["a"]}, {"type": "string"}]},
            "text": {"type": "string"},
        },
        "$defs": {"Unit": {"enum": ["c", "f"]}},
    }
    types = ParameterTypes(schema)
    assert types.choices("plain") == ("a", "b")
    assert types.choices("const") == ("a",)
    assert types.choices("optional") == ("c", "f", "null")
    assert [types.choices(name) for name in ("mixed", "free", "text", "unknown")] == [()] * 4


@pytest.mark.parametrize(
    ("text", "types", "value"),
    [
        ("3", INTEGER, Coerced("3")),
        (" 3\n", INTEGER, Coerced("3")),
        ("3.0", INTEGER, Coerced("3", mended=True)),
        ("1_000", INTEGER, Coerced("1000", mended=True)),
        ("1e999", frozenset({"number"}), Coerced('"1e999"')),
        ("NaN", frozenset({"number"}), Coerced('"NaN"')),
        ("9" * 5000, INTEGER, Coerced('"' + "9" * 5000 + '"')),
        ("3", INTEGER | STRING, Coerced("3")),
        ("+3", INTEGER | STRING, Coerced('"+3"')),
        ("3 apples", INTEGER | STRING, Coerced('"3 apples"')),
        ("None", frozenset({"null", "integer"}), Coerced("null", mended=True)),
        ("[1, 'a']", frozenset({"array"}), Coerced('[1, "a"]', mended=True)),
        ("[1] and more", frozenset({"array"}), Coerced('"[1] and more"')),
        ("[" * 300, frozenset({"array"}), Coerced('"' + "[" * 300 + '"')),
        ("{x for x in y}", frozenset({"object"}), Coerced('"{x for x in y}"')),
        ("'\"" * 2000, frozenset({"array"}), Coerced(json.dumps("'\"" * 2000))),
    ],
)
def test_text_becomes_a_value_of_the_types_or_stays_a_string(text: str, types: frozenset[str], value: Coerced) -> None:
    assert from_text(text, types) == value


@pytest.mark.parametrize(
    ("written", "types", "value"),
    [
        ("3", INTEGER, Coerced("3")),
        ("3", frozenset({"number"}), Coerced("3")),
        ("3", frozenset({"boolean"}), Coerced("3")),
        ("3", STRING, Coerced('"3"', mended=True)),
        ("1e300", INTEGER, Coerced("1e300")),
        ('"3"', INTEGER, Coerced("3", mended=True)),
        ('"3"', STRING | INTEGER, Coerced('"3"')),
        ('"null"', frozenset({"integer", "null"}), Coerced("null", mended=True)),
        ('"x"', INTEGER, Coerced('"x"')),
        ('[1, "中"]', STRING, Coerced('"[1, \\"中\\"]"', mended=True)),
        ("null", STRING, Coerced("null")),
    ],
)
def test_json_becomes_a_value_of_the_types_or_stays_itself(written: str, types: frozenset[str], value: Coerced) -> None:
    assert from_json(written, types) == value


def test_characters_are_written_as_themselves() -> None:
    assert as_json("中") == '"中"'


@pytest.mark.parametrize("types", [STRING, frozenset({"object"}), frozenset({"array"}), frozenset[str]()])
def test_half_a_character_in_a_text_that_holds_json_never_comes_out_of_it(types: frozenset[str]) -> None:
    for written in (r'{"a": "\ud83d"}', r'["\udc00"]', r'"\ud83d"', r"\ud83d"):
        from_text(written, types).text.encode()
        from_json(as_json(written), types).text.encode()
