"""Which part of a schema makes it complex: a guess, for people. Pure."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, cast

from quern.grammar.json_schema import Schema, places

REPEATED = re.compile(r"\{(?:\d+,)?(\d+)\}")
MOST = 1e12
LEAST = 100
"""Nothing below it is worth blaming."""


def heaviest_part(schemas: Iterable[Schema]) -> str:
    """Such as "`pattern` at #/properties/a"; empty where nothing stands out."""
    parts = (
        (min(weight(part[keyword]), MOST), f"`{keyword}` at {pointer}")
        for pointer, part in places(schemas)
        for keyword, weight in WEIGHTS.items()
        if keyword in part
    )
    heaviest, where = max(parts, key=lambda part: part[0], default=(0, ""))
    return where if heaviest >= LEAST else ""


def _pattern(value: Any) -> float:
    """Counts that repeat each other multiply."""
    if not isinstance(value, str):
        return 0
    return len(value) + math.prod(min(float(count), MOST) for count in REPEATED.findall(value))


def _number(value: Any) -> float:
    return abs(float(value)) if isinstance(value, int | float) and abs(value) < MOST else 0


def _members(value: Any) -> float:
    return float(len(cast("list[Any]", value))) if isinstance(value, list | dict) else 0


WEIGHTS: Mapping[str, Callable[[Any], float]] = {
    "pattern": _pattern,
    "multipleOf": _number,
    "patternProperties": lambda value: 100 * _members(value) ** 2,
    "allOf": lambda value: 10 * _members(value) ** 2,
    "anyOf": lambda value: _members(value) ** 2,
    "oneOf": lambda value: _members(value) ** 2,
    "enum": _members,
    "properties": _members,
    "maxLength": lambda value: _number(value) / 1000,
    "maxItems": lambda value: _number(value) / 1000,
    "minItems": lambda value: _number(value) / 1000,
}
