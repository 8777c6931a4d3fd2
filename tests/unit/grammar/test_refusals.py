"""Which part of a schema is blamed for its complexity."""

from __future__ import annotations

from typing import Any

import pytest

from quern.grammar.refusals import heaviest_part

SMALL: dict[str, Any] = {"type": "object", "properties": {"a": {"type": "string", "pattern": "^[a-z]{1,20}$"}}}


HEAVY: list[tuple[dict[str, Any], str]] = [
    ({"type": "string", "pattern": "^(a{1000}){1000}$"}, "pattern"),
    ({"type": "integer", "multipleOf": 99_999}, "multipleOf"),
    ({"patternProperties": {f"^{n}": {} for n in range(100)}}, "patternProperties"),
    ({"anyOf": [{"const": n} for n in range(300)]}, "anyOf"),
    ({"allOf": [{"anyOf": [{}, {}]} for _ in range(14)]}, "allOf"),
    ({"enum": list(range(3000))}, "enum"),
    ({"type": "array", "minItems": 10**6}, "minItems"),
    ({"pattern": "a{1}" * 999, "multipleOf": 3}, "pattern"),
]


@pytest.mark.parametrize(("heavy", "keyword"), HEAVY)
def test_the_heaviest_is_named_with_its_place(heavy: dict[str, Any], keyword: str) -> None:
    schema = {**SMALL, "$defs": {"x/y": heavy}}
    assert heaviest_part([SMALL, schema]) == f"`{keyword}` at #/$defs/x~1y"


def test_where_nothing_stands_out_nothing_is_blamed() -> None:
    assert heaviest_part([SMALL, {"const": {"pattern": "a{9999999}"}}]) == ""
    assert heaviest_part([]) == ""


def test_values_of_other_types_weigh_nothing() -> None:
    odd = {"pattern": 5, "multipleOf": "x", "anyOf": True, "maxItems": 10**400, "enum": None, "properties": 1}
    assert heaviest_part([odd]) == ""
    assert heaviest_part([{"pattern": "a{" + "9" * 400 + "}"}]) == "`pattern` at #"
