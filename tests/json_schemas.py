"""Fifty varied JSON schemas, each with a question that it could be the answer's of, and some that are too complex."""

from __future__ import annotations

import json
from typing import Any

Schema = dict[str, Any]


def an_object(properties: dict[str, Schema], *, required: list[str] | None = None, **more: Any) -> Schema:
    """An object without further members."""
    wanted = list(properties) if required is None else required
    return {
        "type": "object",
        "properties": properties,
        "required": wanted,
        "additionalProperties": False,
        **more,
    }


TEXT: Schema = {"type": "string", "maxLength": 60}
NUMBER: Schema = {"type": "number"}
WHOLE: Schema = {"type": "integer"}
YES_NO: Schema = {"type": "boolean"}


def a_list(of: Schema, least: int = 1, most: int = 3) -> Schema:
    return {"type": "array", "items": of, "minItems": least, "maxItems": most}


PERSON = an_object({"name": TEXT, "age": {"type": "integer", "minimum": 0, "maximum": 150}})
NODE: Schema = {
    "$ref": "#/$defs/node",
    "$defs": {"node": an_object({"value": WHOLE, "next": {"anyOf": [{"$ref": "#/$defs/node"}, {"type": "null"}]}})},
}
BOTH: Schema = {
    "allOf": [
        {"type": "object", "properties": {"a": {"type": "integer", "minimum": 5}}, "required": ["a"]},
        {"properties": {"a": {"maximum": 9}, "b": TEXT}, "required": ["b"]},
    ],
    "maxProperties": 2,
}
ADDRESS: Schema = {
    "$defs": {"address": an_object({"street": TEXT, "city": TEXT})},
    **an_object({"home": {"$ref": "#/$defs/address"}, "work": {"$ref": "#/$defs/address"}}),
}

SCHEMAS: list[tuple[str, Schema]] = [
    ("Name a person.", PERSON),
    ("Name two people.", a_list(PERSON, 2, 2)),
    ("Is Python typed?", an_object({"typed": YES_NO})),
    ("What is 6 times 7?", an_object({"result": {"const": 42}})),
    ("Pick a colour.", an_object({"colour": {"enum": ["red", "green", "blue"]}})),
    ("Pick a number or a word.", an_object({"value": {"anyOf": [WHOLE, TEXT]}})),
    ("A point in the plane.", an_object({"x": NUMBER, "y": NUMBER})),
    ("A probability.", an_object({"p": {"type": "number", "minimum": 0, "maximum": 1}})),
    ("A die's result.", an_object({"eyes": {"type": "integer", "minimum": 1, "maximum": 6}})),
    ("A temperature below zero.", an_object({"celsius": {"type": "integer", "exclusiveMaximum": 0}})),
    ("Three primes.", an_object({"primes": a_list({"type": "integer", "minimum": 2}, 3, 3)})),
    ("A matrix of two rows.", an_object({"rows": a_list(a_list(WHOLE, 2, 2), 2, 2)})),
    ("A hex colour.", an_object({"hex": {"type": "string", "pattern": "^#[0-9a-f]{6}$"}})),
    ("A licence plate.", an_object({"plate": {"type": "string", "pattern": "^[A-Z]{2}-[0-9]{4}(-[a-z]{1,3})?$"}})),
    ("A version.", an_object({"version": {"type": "string", "pattern": r"^\d{1,2}\.\d{1,2}\.\d{1,3}$"}})),
    ("Today's date.", an_object({"date": {"type": "string", "format": "date"}})),
    ("The time.", an_object({"time": {"type": "string", "format": "time"}})),
    ("A moment.", an_object({"at": {"type": "string", "format": "date-time"}})),
    ("A mail address.", an_object({"email": {"type": "string", "format": "email"}})),
    ("An identifier.", an_object({"id": {"type": "string", "format": "uuid"}})),
    ("An address in the network.", an_object({"ip": {"type": "string", "format": "ipv4"}})),
    ("A short word.", an_object({"word": {"type": "string", "minLength": 3, "maxLength": 8}})),
    ("Where do you live?", ADDRESS),
    ("A linked list.", NODE),
    ("A person who may have a nickname.", an_object({"name": TEXT, "nickname": TEXT}, required=["name"])),
    ("A setting that may be unset.", an_object({"value": {"type": ["string", "null"], "maxLength": 40}})),
    ("An empty object.", an_object({})),
    ("一个城市。", an_object({"城市": TEXT, "人口": {"type": "integer", "minimum": 0}})),
    ("选一个颜色。", an_object({"颜色": {"enum": ["红色", "绿色", "蓝色"]}})),
    ("列出三种水果。", an_object({"水果": a_list({"type": "string", "maxLength": 12}, 3, 3)})),
    ("A shop's order.", an_object({"order": an_object({"items": a_list(an_object({"sku": TEXT, "count": WHOLE}))})})),
    ("A function's signature.", an_object({"name": TEXT, "parameters": a_list(an_object({"name": TEXT}), 0, 3)})),
    ("A bug report.", an_object({"title": TEXT, "severity": {"enum": ["low", "high"]}, "steps": a_list(TEXT)})),
    ("A text with every escape.", an_object({"text": {"const": 'a/b "c" \\ d\n\t\u001f'}})),
    ("A circle or a square.", {"anyOf": [an_object({"radius": NUMBER}), an_object({"side": NUMBER})]}),
    (
        "A shape with its kind.",
        {
            "oneOf": [
                an_object({"kind": {"const": "circle"}, "radius": NUMBER}),
                an_object({"kind": {"const": "square"}, "side": NUMBER}),
            ]
        },
    ),
    ("Just a number.", {"type": "integer", "minimum": 10, "maximum": 99}),
    ("Just a word.", {"type": "string", "minLength": 1, "maxLength": 20}),
    ("Just yes or no.", {"type": "boolean"}),
    ("Just nothing.", {"type": "null"}),
    ("Just one of six.", {"enum": [7, "two", None, True, ["x"], {"y": 1}]}),
    ("Five words.", a_list({"type": "string", "maxLength": 12}, 5, 5)),
    ("A pair of a word and a number.", {"type": "array", "prefixItems": [TEXT, WHOLE], "items": False, "minItems": 2}),
    ("Deep nesting.", an_object({"a": an_object({"b": an_object({"c": an_object({"d": YES_NO})})})})),
    ("A route.", an_object({"from": TEXT, "to": TEXT, "stops": a_list(TEXT, 0, 2), "km": NUMBER})),
    ("A small dictionary.", {"type": "object", "additionalProperties": WHOLE, "minProperties": 1, "maxProperties": 3}),
    ("A share.", an_object({"share": {"type": "number", "minimum": 0, "maximum": 1, "multipleOf": 0.25}})),
    ("What meets two schemas.", BOTH),
    ("A multiple of five.", an_object({"n": {"type": "integer", "multipleOf": 5, "minimum": 0, "maximum": 100}})),
    ("A review.", an_object({"stars": {"enum": [1, 2, 3, 4, 5]}, "text": {"type": "string", "maxLength": 80}})),
]

GIVES_UP: Schema = {"type": "string", "pattern": r"^(\p{L}{1,1000}\w){1,1000}$"}
"""llguidance finds out only while the answer is written that this is too complex."""

HARD = "(a|b)*a(a|b){12}"
COMPLEX: list[Schema] = [
    {"enum": [f"value number {n}" for n in range(3000)]},
    {"type": "string", "pattern": "^(((a{1,1000}){1,1000}b?){1,1000}c?){1,1000}$"},
    {"type": "string", "pattern": f"^{HARD}{HARD}$", "minLength": 50},
    *({"type": "string", "allOf": [{"pattern": f"^((a|b)*a(a|b){{{m}}})?$"} for m in range(n)]} for n in (5, 10, 30)),
    {"type": "array", "items": {"type": "integer"}, "minItems": 99_999, "maxItems": 100_000},
    {"anyOf": [an_object({f"p{n}": TEXT}) for n in range(400)]},
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
PATHOLOGICAL = [*map(json.dumps, COMPLEX), '{"items":' * 5000 + "{}" + "}" * 5000]
