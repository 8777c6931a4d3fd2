"""The structure of a schema: what every engine can enforce of it, and nothing that it doesn't allow is ruled out."""

from __future__ import annotations

from typing import Any

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quern.grammar.tool_schemas import structure_of

Schema = dict[str, Any]


def an_object(**properties: Schema) -> Schema:
    return {"type": "object", "properties": properties}


@pytest.mark.parametrize(
    ("schema", "structure"),
    [
        ({"type": "string", "format": "uri", "pattern": "^(?=a)", "maxLength": 9}, {"type": "string"}),
        ({"type": "integer", "multipleOf": 3, "minimum": 1, "not": {"const": 6}}, {"type": "integer"}),
        ({"type": "array", "uniqueItems": True, "items": {"type": "string", "format": "x"}, "minItems": 1},
         {"type": "array", "items": {"type": "string"}}),
        ({"type": "array", "prefixItems": [{"type": "string", "minLength": 1}, True], "items": False},
         {"type": "array", "prefixItems": [{"type": "string"}, {}]}),
        ({"type": "array", "items": [{"type": "string"}]}, {"type": "array"}),
        ({"enum": ["a", "b"], "type": "string", "minLength": 1}, {"enum": ["a", "b"]}),
        ({"const": None}, {"enum": [None]}),
        ({"enum": []}, {}),
        ({"type": "any"}, {}),
        ({"type": ["string", "null"]}, {"type": ["string", "null"]}),
        ({"oneOf": [{"type": "integer"}, {"type": "number", "maximum": 3}], "title": "x"},
         {"anyOf": [{"type": "integer"}, {"type": "number"}]}),
        ({"allOf": [{"$ref": "#/$defs/a"}], "description": "x", "$defs": {"a": {"type": "null"}}},
         {"allOf": [{"$ref": "#/$defs/a"}], "$defs": {"a": {"type": "null"}}}),
        ({"allOf": [{"type": "string"}, {"minLength": 3}]}, {}),
        ({"type": "string", "nullable": True}, {"type": ["string", "null"]}),
        ({"enum": ["a"], "nullable": True}, {"enum": ["a", None]}),
        ({"properties": {"a": True, "b": {}}, "required": ["a", 5], "minProperties": 1},
         {"properties": {"a": {}, "b": {}}, "required": ["a"]}),
        ({"properties": {"a": {}}, "required": ["a", "c"], "additionalProperties": False},
         {"properties": {"a": {}}, "required": ["a"], "additionalProperties": False}),
        ({"properties": {"a": {}}, "patternProperties": {"^x": {}}, "additionalProperties": False},
         {"properties": {"a": {}}}),
        ({"properties": {"a": {}}, "anyOf": [{"required": ["a"]}], "additionalProperties": False},
         {"properties": {"a": {}}}),
        ({"additionalProperties": {"type": "integer", "minimum": 3}}, {"additionalProperties": {"type": "integer"}}),
        ({"type": "object", "properties": [], "required": "a"}, {"type": "object"}),
    ],
)  # fmt: skip
def test_the_structure_is_what_is_left_of_it(schema: Schema, structure: Schema) -> None:
    assert structure_of(schema) == structure


@pytest.mark.parametrize(
    "reference",
    ["#", "#/$defs/a", "#/definitions/b~1c", "#/properties/other/items", "#/properties/%63hoice/anyOf/1"],
)
def test_a_reference_to_a_schema_stays(reference: str) -> None:
    schema: Schema = {
        **an_object(
            x={"$ref": reference, "description": "see there"},
            other={"type": "array", "items": {"type": "null"}},
            choice={"anyOf": [{}, {"type": "null"}]},
        ),
        "$defs": {"a": {"$ref": "#/definitions/b~1c"}},
        "definitions": {"b/c": {"type": "null"}},
    }
    assert structure_of(schema)["properties"]["x"] == {"$ref": reference}


@pytest.mark.parametrize(
    "reference",
    ["http://elsewhere/x.json", "#/$defs/none", "#anchor", "#/properties", "#/properties/x/if", "#/$defs/loop"],
)
def test_a_reference_that_leads_to_no_schema_allows_anything(reference: str) -> None:
    loop: Schema = {"loop": {"$ref": "#/$defs/pool"}, "pool": {"$ref": "#/$defs/loop"}}
    schema = {**an_object(x={"type": "string", "if": {}}, y={"$ref": reference}), "$defs": loop}
    assert structure_of(schema)["properties"]["y"] == {}


NAMES = st.sampled_from(["a", "b", "c"])
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 3) | st.sampled_from([0.5, "", "a", "bb"]),
    lambda below: st.lists(below, max_size=3) | st.dictionaries(NAMES, below, max_size=3),
    max_leaves=5,
)
VALIDATOR: Any = jsonschema.Draft202012Validator
TYPES = st.sampled_from(["object", "array", "string", "number", "integer", "boolean", "null"])
SCHEMAS: st.SearchStrategy[Any] = st.recursive(
    st.booleans() | st.just({"$ref": "#/$defs/a"}) | st.fixed_dictionaries({"type": TYPES}),
    lambda below: st.fixed_dictionaries(
        {},
        optional={
            "type": TYPES | st.lists(TYPES, min_size=1, max_size=3, unique=True),
            "properties": st.dictionaries(NAMES, below, max_size=3),
            "required": st.lists(NAMES, max_size=2, unique=True),
            "additionalProperties": below,
            "patternProperties": st.dictionaries(st.just("^a"), below, max_size=1),
            "items": below,
            "prefixItems": st.lists(below, min_size=1, max_size=2),
            "minItems": st.integers(0, 2),
            "enum": st.lists(VALUES, min_size=1, max_size=3),
            "const": VALUES,
            "anyOf": st.lists(below, min_size=1, max_size=2),
            "oneOf": st.lists(below, min_size=1, max_size=2),
            "allOf": st.lists(below, min_size=1, max_size=2),
            "not": below,
            "minimum": st.integers(-2, 2),
            "maxLength": st.integers(0, 2),
        },
    ),
    max_leaves=6,
)


@settings(deadline=None)
@given(schema=SCHEMAS, definition=SCHEMAS, values=st.lists(VALUES, min_size=1, max_size=8))
def test_whatever_a_schema_allows_its_structure_allows_too(schema: Any, definition: Any, values: list[Any]) -> None:
    whole: Schema = {"items": schema, "$defs": {"a": definition}}
    structure = structure_of(whole)
    for value in values:
        try:
            VALIDATOR(whole).validate([value])
        except (jsonschema.ValidationError, RecursionError):
            continue
        VALIDATOR(structure).validate([value])
