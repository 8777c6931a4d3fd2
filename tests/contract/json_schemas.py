"""JSON schemas that a small model finds its way through, and such as nobody should be asked to keep to."""

from __future__ import annotations

import json
from typing import Any

Schema = dict[str, Any]

SHORT: Schema = {"type": "string", "maxLength": 20}


def closed(**properties: Any) -> Schema:
    """An object with exactly these properties."""
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }


PAIR = closed(name=SHORT, size={"enum": ["small", "large"]})

SCHEMAS: dict[str, Schema] = {
    "nested objects": closed(
        name=SHORT,
        address=closed(street=SHORT, geo=closed(lat={"type": "integer", "minimum": -90, "maximum": 90})),
    ),
    "array of bounded length": {"type": "array", "items": {"enum": ["a", "b"]}, "minItems": 3, "maxItems": 5},
    "tuple": {"type": "array", "prefixItems": [SHORT, {"type": "boolean"}], "items": False, "minItems": 2},
    "enum of several types": {"enum": ["red", 7, None, True, ["x"], {"y": 1}]},
    "const with every escape": closed(kind={"const": 'a/b "c" \\ d\n\t\u001f'}),
    "choice": {
        "anyOf": [
            closed(kind={"const": "circle"}, radius={"type": "integer", "minimum": 0, "maximum": 99}),
            closed(kind={"const": "text"}, text=SHORT),
        ]
    },
    "oneOf told apart by a constant": {
        "oneOf": [closed(kind={"const": kind}, value={"enum": [kind.upper()]}) for kind in ("cat", "dog")]
    },
    "bounded integer": {"type": "integer", "minimum": -3, "exclusiveMaximum": 1000},
    "bounded number": closed(share={"type": "number", "minimum": 0, "maximum": 1, "multipleOf": 0.25}),
    "pattern": {"type": "string", "pattern": "^[A-Z]{2}-[0-9]{4}(-[a-z]+)?$", "maxLength": 20},
    "formats": closed(
        day={"type": "string", "format": "date"},
        id={"type": "string", "format": "uuid"},
        host={"type": "string", "format": "ipv4"},
    ),
    "recursive": {
        "$ref": "#/$defs/tree",
        "$defs": {
            "tree": closed(
                value={"type": "integer", "minimum": 0, "maximum": 99},
                children={"type": "array", "items": {"$ref": "#/$defs/tree"}, "maxItems": 1},
            )
        },
    },
    "Chinese": closed(城市={"enum": ["北京", "上海", "深圳"]}, 简介={"type": "string", "maxLength": 12}),
    "types and optional properties": {
        "type": "object",
        "properties": {"a": {"type": ["string", "null"], "maxLength": 5}, "b": {"type": "boolean"}},
        "additionalProperties": False,
        "required": ["a"],
    },
    "intersection": {
        "allOf": [
            {"type": "object", "properties": {"a": {"type": "integer", "minimum": 5}}, "required": ["a"]},
            {"properties": {"a": {"maximum": 9}, "b": SHORT}, "required": ["b"]},
        ],
        "maxProperties": 2,
    },
}
"""Everything is bounded, or a small model might write on for ever."""

GIVES_UP: Schema = {"type": "string", "pattern": r"^(\p{L}{1,1000}\w){1,1000}$"}
"""llguidance finds out only while the answer is written that this is too complex."""

HARD = "(a|b)*a(a|b){12}"
LARGE: list[Schema] = [
    {"enum": [f"value number {n}" for n in range(3000)]},
    {"type": "string", "pattern": "^(((a{1,1000}){1,1000}b?){1,1000}c?){1,1000}$"},
    {"type": "string", "pattern": f"^{HARD}{HARD}$", "minLength": 50},
    *({"type": "string", "allOf": [{"pattern": f"^((a|b)*a(a|b){{{m}}})?$"} for m in range(n)]} for n in (5, 10, 30)),
    {"type": "array", "items": {"type": "integer"}, "minItems": 99_999, "maxItems": 100_000},
    {"anyOf": [closed(**{f"p{n}": SHORT}) for n in range(400)]},
    {"allOf": [{"anyOf": [{"properties": {f"p{n}{m}": {}}} for m in "ab"]} for n in range(14)]},
    {
        "$ref": "#/$defs/d0",
        "$defs": {
            **{f"d{n}": {"allOf": [{"$ref": f"#/$defs/d{n + 1}"}] * 2} for n in range(30)},
            "d30": {"type": "string"},
        },
    },
    {"$ref": "#"},
    {"type": "object", "properties": {f"p{n}": {} for n in range(5000)}},
    {"type": "object", "patternProperties": {f"^p{n}{HARD}": {} for n in range(1000)}},
    {"type": "integer", "multipleOf": 999_999_999},
]
PATHOLOGICAL = [*map(json.dumps, LARGE), '{"items":' * 5000 + "{}" + "}" * 5000]
