"""Fifty varied JSON schemas, each with a question that an answer of its kind could answer."""

from __future__ import annotations

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
    ("A licence plate.", an_object({"plate": {"type": "string", "pattern": "^[A-Z]{2}-[0-9]{3}$"}})),
    ("A version.", an_object({"version": {"type": "string", "pattern": r"^\d+\.\d+\.\d+$"}})),
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
    ("A test's outcome.", an_object({"passed": WHOLE, "failed": WHOLE, "flaky": YES_NO})),
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
    ("Just one of three.", {"enum": [1, "two", None]}),
    ("Five words.", a_list({"type": "string", "maxLength": 12}, 5, 5)),
    ("A pair of a word and a number.", {"type": "array", "prefixItems": [TEXT, WHOLE], "items": False, "minItems": 2}),
    ("Deep nesting.", an_object({"a": an_object({"b": an_object({"c": an_object({"d": YES_NO})})})})),
    ("A route.", an_object({"from": TEXT, "to": TEXT, "stops": a_list(TEXT, 0, 2), "km": NUMBER})),
    ("A small dictionary.", {"type": "object", "additionalProperties": WHOLE, "minProperties": 1, "maxProperties": 3}),
    ("A price.", an_object({"amount": {"type": "number", "minimum": 0}, "currency": {"enum": ["EUR", "CNY", "USD"]}})),
    ("A weekday.", an_object({"day": {"type": "string", "enum": ["Mon", "Tue", "Wed", "Thu", "Fri"]}})),
    ("A multiple of five.", an_object({"n": {"type": "integer", "multipleOf": 5, "minimum": 0, "maximum": 100}})),
    ("A review.", an_object({"stars": {"enum": [1, 2, 3, 4, 5]}, "text": {"type": "string", "maxLength": 80}})),
]
