"""Schemas whose parts refer to each other: read in bounded work, whatever a client thinks of."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from quern.grammar.parameter_types import MOST_CHOICE_TEXT, ParameterTypes
from quern.grammar.schema_walk import DEEPEST, MOST_NODES, SchemaWalk, steps
from quern.grammar.tool_schemas import structure_of

Schema = dict[str, Any]


def reference(name: object) -> Schema:
    return {"$ref": f"#/$defs/{name}"}


def levels(count: int, last: Schema, *, keyword: str = "anyOf", branches: int = 2) -> Schema:
    """Parameters with an argument `x`, which leads to `last` on `branches ** count` ways."""
    definitions = {str(level): {keyword: [reference(level + 1)] * branches} for level in range(count)}
    return {"properties": {"x": reference(0)}, "$defs": {**definitions, str(count): last}}


@pytest.mark.parametrize("keyword", ["anyOf", "oneOf"])
def test_levels_of_references_cost_no_more_than_their_text(keyword: str) -> None:
    types = ParameterTypes(levels(40, {"enum": ["a", "b"]}, keyword=keyword))
    assert types.of("x") == {"string"}
    assert types.choices("x") == ("a", "b")
    assert ParameterTypes(levels(40, {}, keyword="allOf")).of("x") == frozenset()


def test_levels_written_out_in_each_other_may_be_as_many_as_are_sent() -> None:
    schema: Schema = {"type": "integer"}
    for _ in range(DEEPEST - 2):
        schema = {"anyOf": [schema]}
    assert ParameterTypes({"properties": {"x": schema}}).of("x") == {"integer"}


@pytest.mark.parametrize("branches", [1, 2])
def test_what_is_too_deep_accepts_anything(branches: int) -> None:
    types = ParameterTypes(levels(5000, {"enum": ["a"]}, branches=branches))
    assert types.of("x") == frozenset()
    assert types.choices("x") == ()
    alias = {str(level): reference(level + 1) for level in range(5000)}
    assert ParameterTypes({"properties": {"x": reference(0)}, "$defs": alias}).of("x") == frozenset()


def test_no_more_schemas_are_visited_than_allowed() -> None:
    visited = 0

    def find(schema: Mapping[str, Any]) -> int:
        nonlocal visited
        visited += 1
        return max(map(walk.of, schema.get("anyOf", ())), default=1)

    walk = SchemaWalk(None, find, 0)
    wide: Schema = {"anyOf": [{}] * (MOST_NODES // 4)}
    assert walk.of({"anyOf": [wide] * 3}) == 1
    assert walk.of({"anyOf": [wide] * 3}) == 1
    assert visited == MOST_NODES
    assert walk.of({}) == 0
    assert visited == MOST_NODES


def test_long_lists_of_choices_are_not_put_together_without_end() -> None:
    choices = {"enum": [str(number) for number in range(1000)]}
    few, many = ({"anyOf": [reference("c")] * count} for count in (3, MOST_NODES // 2))
    types = ParameterTypes({"properties": {"few": few, "many": many}, "$defs": {"c": choices}})
    assert types.choices("few") == tuple(choices["enum"])
    assert types.choices("many") == ()


def test_the_same_long_choices_are_not_told_for_every_argument() -> None:
    text = "x" * (MOST_CHOICE_TEXT // 2)
    types = ParameterTypes({"properties": dict.fromkeys("abc", reference("c")), "$defs": {"c": {"const": text}}})
    assert [types.choices(name) for name in "abc"] == [(text,), (text,), ()]


def test_a_circle_of_many_ways_accepts_anything() -> None:
    definitions = {str(a): {"anyOf": [reference(b) for b in range(30)]} for a in range(30)}
    types = ParameterTypes({"properties": {"x": reference(0)}, "$defs": definitions})
    assert types.of("x") == frozenset()


def test_names_that_the_schema_does_not_know_use_nothing_up() -> None:
    types = ParameterTypes({"properties": {"x": {"type": "integer"}}})
    assert {types.of(f"unknown {number}") for number in range(MOST_NODES + 1)} == {frozenset()}
    assert types.of("x") == {"integer"}


@pytest.mark.parametrize(
    ("referred", "path"),
    [
        ("#", ()),
        ("#/", ("",)),
        ("#/$defs/Unit", ("$defs", "Unit")),
        ("#/a~1b/~01/%7E0/%63%2Fd", ("a/b", "~1", "~", "c", "d")),
        ("#anchor", None),
        ("", None),
        ("other.json", None),
        ("other/properties/x", None),
        ("https://example.com/#/a", None),
    ],
)
def test_a_pointers_steps_are_those_of_a_uri_fragment(referred: str, path: tuple[str, ...] | None) -> None:
    assert steps(referred) == path


@pytest.mark.parametrize(
    ("referred", "types"),
    [
        ("#/properties/y/anyOf/1", {"integer"}),
        ("#/properties/y/anyOf/2", set[str]()),
        ("#/properties/y/anyOf/-1", set[str]()),
        ("#/properties/y/anyOf/" + "9" * 5000, set[str]()),
        ("other/properties/z", set[str]()),
    ],
)
def test_references_lead_into_lists_and_never_to_another_place(referred: str, types: set[str]) -> None:
    properties = {"x": {"$ref": referred}, "y": {"anyOf": [{}, {"type": "integer"}]}, "z": {"type": "null"}}
    assert ParameterTypes({"properties": properties}).of("x") == types


def test_a_long_chain_of_references_keeps_its_structure() -> None:
    chain: Schema = {str(level): reference(level + 1) for level in range(5000)}
    schema: Schema = {"properties": {"x": reference(0)}, "$defs": {**chain, "5000": {"type": "null"}}}
    assert structure_of(schema) == schema
    schema["$defs"]["5000"] = reference(0)
    assert structure_of(schema) == {"properties": {"x": {}}, "$defs": {name: {} for name in schema["$defs"]}}
