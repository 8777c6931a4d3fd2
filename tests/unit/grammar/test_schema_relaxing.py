"""What asks nothing is no reason to refuse a schema, and what can't be kept to exactly is made wider and named."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.grammar.test_schemas_kept_to import compiler, matches

from quern.errors import InvalidRequest
from quern.grammar.json_schema import Llguidance
from quern.grammar.kinds import JsonGrammar
from quern.grammar.schema_relaxing import LARGEST, relaxed, relaxed_text

Schema = dict[str, Any]

AN_OBJECT: Schema = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
INT64: Schema = {"type": "integer", "minimum": -(2**63), "maximum": 2**63 - 1}
ASKS_NOTHING: list[Schema] = [
    *(
        {"$schema": dialect}
        for dialect in (
            "http://json-schema.org/draft-07/schema#", "https://json-schema.org/draft-07/schema#",
            "http://json-schema.org/draft-07/schema", "http://json-schema.org/schema#", "draft-07", "", None, 7,
            "https://json-schema.org/draft/2020-12/schema", "https://spec.openapis.org/oas/3.1/dialect/base",
        )
    ),
    {"required": None}, {"properties": None}, {"type": None}, {"enum": None}, {"items": None}, {"format": None},
    {"anyOf": None}, {"allOf": None}, {"oneOf": None}, {"pattern": None}, {"additionalProperties": None},
    {"minLength": None}, {"maxItems": None}, {"minimum": None}, {"multipleOf": None}, {"$ref": None}, {"not": None},
    {"propertyNames": None}, {"uniqueItems": None}, {"$defs": None}, {"patternProperties": None},
    {"required": []}, {"allOf": []}, {"anyOf": []}, {"oneOf": []}, {"type": []}, {"type": "any"}, {"required": False},
    {"propertyNames": {"type": "string"}}, {"propertyNames": True}, {"propertyNames": {}},
    {"propertyNames": {"title": "Name", "type": "string", "minLength": 0}},
    {"uniqueItems": False}, {"minItems": 0}, {"minProperties": 0}, {"minLength": 0}, {"minItems": -1},
    {"additionalProperties": True}, {"unevaluatedProperties": True}, {"unevaluatedItems": {}}, {"nullable": True},
    {"nullable": False}, {"deprecated": True}, {"default": None}, {"title": "T"}, {"examples": [None]},
    {"x-order": 3}, {"$id": "https://example.com/a.json"}, {"$comment": "c"}, {"contentMediaType": "text/x"},
    {"contentEncoding": "base64"}, {"readOnly": True}, {"discriminator": {"propertyName": "kind"}},
    {"$anchor": "here"}, {"$dynamicAnchor": "meta"}, {"$recursiveAnchor": True}, {"$vocabulary": {}},
    {"dependentRequired": {}}, {"dependentSchemas": {}}, {"dependencies": {}}, {"not": False}, {"then": {}},
    {"else": False}, {"if": {"type": "null"}}, {"minContains": 2}, {"maxContains": 0}, {"definitions": {}},
    {"propertyOrdering": ["a"]}, {"markdownDescription": "m"},
]  # fmt: skip
"""Keywords that mean nothing, whatever they stand beside."""


def accepts(schema: Any, value: Any) -> bool:
    """Whether what is left of the schema compiles, and its grammar allows the value."""
    grammar = compiler(Llguidance.OWN).compile(JsonGrammar(json.dumps(schema)))
    return matches(grammar, json.dumps(value))


PLACES: list[Callable[[Schema], Schema]] = [
    lambda part: {**AN_OBJECT, **part},
    lambda part: {"type": "object", "properties": {"x": {**AN_OBJECT, **part}, "y": part}, "required": ["x"]},
    lambda part: {"type": "array", "items": {"anyOf": [{**AN_OBJECT, **part}, {"type": "null"}]}},
]
VALUES = [({"a": 1}, {"a": "x"}), ({"x": {"a": 1}}, {"x": {"a": "x"}}), ([{"a": 1}, None], [{"a": "x"}])]


@pytest.mark.parametrize("part", ASKS_NOTHING, ids=json.dumps)
@pytest.mark.parametrize("place", range(3))
def test_what_asks_nothing_is_taken_out_wherever_it_stands(part: Schema, place: int) -> None:
    found = relaxed(PLACES[place](part))
    right, wrong = VALUES[place]
    assert found.ignored == ()
    assert accepts(found.schema, right)
    if not {"properties", "type", "required"} & part.keys():
        assert not accepts(found.schema, wrong)


def test_a_schema_without_such_parts_stays_as_it_is() -> None:
    text = json.dumps(AN_OBJECT, indent=3)
    assert relaxed_text(text) == (text, ())
    assert relaxed(AN_OBJECT).schema == AN_OBJECT


@pytest.mark.parametrize("text", ["{", "[]", "null", "5", "[" * 100_000, '{"const": ' + "1" * 5000 + "}"])
def test_what_is_no_schema_is_left_to_be_refused(text: str) -> None:
    assert relaxed_text(text) == (text, ())


def test_what_is_nested_too_deeply_is_left_to_be_refused() -> None:
    schema: Schema = {}
    for _ in range(2000):
        schema = {"items": schema}
    assert relaxed(schema).schema is schema


@pytest.mark.parametrize(
    ("schema", "allowed", "named"),
    [
        (INT64, [0, -5, 2**62], ["minimum at #", "maximum at #"]),
        ({"type": "integer", "minimum": 0, "maximum": 2**64 - 1}, [7], ["maximum at #"]),
        ({"type": "integer", "exclusiveMaximum": 2**63, "minimum": 3}, [3], ["exclusiveMaximum at #"]),
        ({"type": "number", "minimum": -1.79e308, "maximum": 1.79e308}, [0.5], ["minimum", "maximum"]),
        ({"type": "number", "maximum": 3.4028235e38}, [1.5], ["3.4028235e+38"]),
        ({"type": "number", "exclusiveMinimum": 1e-300}, [0.5, 3], ["taken for 0"]),
        ({"type": "number", "minimum": -1e-300}, [0, 3], ["taken for -1e-50"]),
        ({"type": "string", "maxLength": 2**63}, ["x"], ["maxLength"]),
        ({"type": "array", "maxItems": 1e30}, [[1]], ["maxItems"]),
        ({"properties": {"a/b": INT64}}, [{"a/b": 4}], ["#/properties/a~1b", "#/properties/a~1b"]),
        ({"anyOf": [{"type": "null"}, INT64]}, [4, None], ["#/anyOf/1", "#/anyOf/1"]),
        ({"type": "string", "format": "color"}, ["red"], ['"color" at #']),
        ({"format": "uri-reference"}, ["/a", 1], ['"uri-reference"']),
    ],
)  # fmt: skip
def test_what_cant_be_kept_to_is_widened_and_named(schema: Schema, allowed: list[Any], named: list[str]) -> None:
    found = relaxed(schema)
    assert len(found.ignored) == len(named)
    assert all(name in sentence for name, sentence in zip(named, found.ignored, strict=True))
    assert all(accepts(found.schema, value) for value in allowed)


def test_bounds_that_can_be_kept_to_still_are() -> None:
    schema: Schema = {"type": "integer", "minimum": 0, "maximum": 2**63 - 1}
    assert not accepts(relaxed(schema).schema, -1)
    assert relaxed({"type": "integer", "minimum": -LARGEST, "maximum": 2**53}).ignored == ()
    assert not accepts(relaxed({"type": "number", "exclusiveMinimum": 1e-300}).schema, -1)


@given(st.integers() | st.floats(allow_nan=False, allow_infinity=False), st.booleans(), st.booleans())
def test_any_bound_can_be_kept_to_and_rules_out_nothing_that_it_allows(bound: float, upper: bool, whole: bool) -> None:
    keyword, inside = ("maximum", -7) if upper else ("minimum", 7)
    schema: Schema = {"type": "integer" if whole else "number", keyword: bound}
    widened = relaxed(schema).schema
    validator: Any = jsonschema.Draft202012Validator(schema)
    if validator.is_valid(inside):
        assert accepts(widened, inside)
    assert (keyword not in widened) or (widened[keyword] >= bound if upper else widened[keyword] <= bound)


@pytest.mark.parametrize("kind", ["int32", "int64", "float", "double", "decimal"])
def test_a_format_of_a_number_is_no_part_that_is_ignored(kind: str) -> None:
    found = relaxed({"type": "integer", "format": kind})
    assert found.ignored == ()
    assert accepts(found.schema, 3)


IN_ANOTHER_WAY: list[tuple[Schema, list[Any], list[Any]]] = [
        ({"type": "object", "propertyNames": {"enum": ["a", "b"]}, "additionalProperties": {"type": "integer"}},
         [{}, {"a": 1}, {"a": 1, "b": 2}], [{"c": 1}, {"a": "x"}]),
        ({"propertyNames": {"$ref": "#/$defs/k"}, "$defs": {"k": {"enum": ["a"], "title": "K", "type": "string"}}},
         [{}, {"a": "x"}], [{"b": 1}]),
        ({"propertyNames": {"$ref": "#/$defs/n"}, "$defs": {"n": {"type": "string", "description": "x"}}},
         [{}, {"a": "x"}], []),
        ({"propertyNames": {"const": "a"}}, [{"a": 1}], [{"b": 1}]),
        ({"propertyNames": {"pattern": "^a+$"}, "additionalProperties": {"type": "null"}},
         [{}, {"aa": None}], [{"b": None}, {"a": 1}]),
        ({"type": "object", "properties": {"a": {}}, "unevaluatedProperties": False}, [{}, {"a": 1}], [{"b": 1}]),
        ({"prefixItems": [{"type": "null"}], "unevaluatedItems": False}, [[], [None]], [[None, None]]),
        ({"type": "object", "properties": {"a": {"type": "null", "required": True}, "b": {"required": False}}},
         [{"a": None}], [{}, {"b": 1}]),
        ({"type": "STRING", "maxLength": 3.0}, ["abc"], [1, "abcd"]),
        ({"type": "OBJECT", "properties": {"a": {"type": "INTEGER"}}, "required": ["a"]}, [{"a": 1}], [{"a": "1"}]),
        ({"const": None}, [None], [1]),
        ({"properties": {"a": None}, "required": ["a"]}, [{"a": 1}], [{}]),
        ({"properties": {"format": {"type": "null"}, "default": {"type": "null"}, "$schema": {"type": "null"}}},
         [{"format": None, "$schema": None}], [{"format": 1}, {"default": 1}, {"$schema": 1}]),
        ({"enum": [{"format": "color", "required": None}]}, [{"format": "color", "required": None}], [{}]),
    ]  # fmt: skip


@pytest.mark.parametrize(("schema", "allowed", "forbidden"), IN_ANOTHER_WAY)
def test_what_can_be_said_in_another_way_still_holds(schema: Schema, allowed: list[Any], forbidden: list[Any]) -> None:
    found = relaxed(schema)
    assert found.ignored == ()
    assert all(accepts(found.schema, value) for value in allowed)
    assert not any(accepts(found.schema, value) for value in forbidden)


def test_a_circle_may_have_annotations_beside_its_reference() -> None:
    beside = {"default": None, "title": "Next", "deprecated": True, "x-a": 1, "nullable": True, "readOnly": False}
    node = {"type": "object", "properties": {"next": {"$ref": "#/$defs/n", **beside}}}
    assert accepts(relaxed({"$ref": "#/$defs/n", "$defs": {"n": node}}).schema, {"next": {"next": {}}})


ASKS_SOMETHING: list[Schema] = [
    {"uniqueItems": True},
    {"not": {"type": "null"}},
    {"propertyNames": {"maxLength": 3}},
    {"propertyNames": {"enum": ["a"]}, "properties": {"b": {}}},
    {"if": {"type": "null"}, "then": {"const": 1}},
    {"contains": {"const": 1}},
    {"allOf": [{"properties": {"a": {}}}], "unevaluatedProperties": False},
    {"type": "integer", "minimum": 5, "maximum": 3},
    {"dependentRequired": {"a": ["b"]}},
    {"type": "strin"},
    {"required": "a"},
]


@pytest.mark.parametrize("schema", ASKS_SOMETHING)
def test_what_asks_something_else_is_still_refused(schema: Schema) -> None:
    found = relaxed(schema)
    assert found.ignored == ()
    with pytest.raises(InvalidRequest):
        compiler(Llguidance.OWN).compile(JsonGrammar(json.dumps(found.schema)))
