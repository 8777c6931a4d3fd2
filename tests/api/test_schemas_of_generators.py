"""Schemas as generators of schemas write them: what asks nothing in them is no reason to refuse a request."""

from __future__ import annotations

import json
from typing import Any

import pytest
from tests.unit.grammar.test_schemas_kept_to import compiler

from quern.grammar.json_schema import Llguidance

from .conftest import Start
from .engines import saying

INT64 = {"type": "integer", "minimum": -(2**63), "maximum": 2**63 - 1, "format": "int64"}
SCHEMA: dict[str, Any] = {
    "$schema": "https://json-schema.org/draft-07/schema#",
    "$id": "https://example.com/answer",
    "title": "Answer",
    "type": "object",
    "required": None,
    "minProperties": 0,
    "properties": {
        "count": INT64,
        "names": {"type": "array", "uniqueItems": False, "minItems": 0, "items": {"type": "string", "format": "color"}},
        "map": {"type": "object", "propertyNames": {"type": "string"}, "additionalProperties": INT64, "default": None},
        "any": {"type": "any", "nullable": True, "x-nullable": True, "deprecated": False},
    },
}
ANSWER = json.dumps({"count": 5, "names": ["red"], "map": {"a": 1}, "any": None})
TURN = {"messages": [{"role": "user", "content": "hi"}]}
REQUESTS: list[tuple[str, dict[str, Any]]] = [
    (
        "/v1/chat/completions",
        {**TURN, "response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": SCHEMA}}},
    ),
    ("/v1/responses", {"input": "hi", "text": {"format": {"type": "json_schema", "name": "a", "schema": SCHEMA}}}),
    (
        "/v1/messages",
        {
            **TURN,
            "model": "fake",
            "max_tokens": 500,
            "output_config": {"format": {"type": "json_schema", "schema": SCHEMA}},
        },
    ),
]
CALL = json.dumps({"name": "run", "arguments": json.loads(ANSWER)})
DEMANDS: list[tuple[str, dict[str, Any]]] = [
    (
        "/v1/chat/completions",
        {
            **TURN,
            "tools": [{"type": "function", "function": {"name": "run", "parameters": SCHEMA, "strict": True}}],
            "tool_choice": "required",
        },
    ),
    (
        "/v1/responses",
        {
            "input": "hi",
            "tools": [{"type": "function", "name": "run", "parameters": SCHEMA, "strict": True}],
            "tool_choice": "required",
        },
    ),
    (
        "/v1/messages",
        {
            **TURN,
            "model": "fake",
            "max_tokens": 500,
            "tools": [{"name": "run", "input_schema": SCHEMA, "strict": True}],
            "tool_choice": {"type": "any"},
        },
    ),
]


@pytest.mark.parametrize(("path", "body"), REQUESTS)
async def test_an_answers_schema_is_served_and_what_is_widened_is_named(
    start: Start, path: str, body: dict[str, Any]
) -> None:
    engine = saying(ANSWER)
    async with start(engine) as quern:
        response = await quern.client.post(path, json=body)
    assert response.status_code == 200, response.text
    assert compiler(Llguidance.OWN).compile(engine.grammars[-1])
    parts = response.headers["x-quern-ignored"].split(", ")
    places = [
        "/properties/count",
        "/properties/count",
        "/properties/names/items",
        "/properties/map/additionalProperties",
        "/properties/map/additionalProperties",
    ]
    named = [part.partition("#")[2].split()[0].strip(".") for part in parts]
    assert all(place.startswith(name) for place, name in zip(places, named, strict=True)), "a long name is cut"


@pytest.mark.parametrize(("path", "body"), DEMANDS)
async def test_a_strict_tools_schema_is_served(start: Start, path: str, body: dict[str, Any]) -> None:
    engine = saying(CALL)
    async with start(engine) as quern:
        response = await quern.client.post(path, json=body)
    assert response.status_code == 200, response.text
    assert compiler(Llguidance.OWN).compile(engine.grammars[-1])
    parts = response.headers["x-quern-ignored"].split(", ")
    assert all(part.startswith("Tool 'run': ") for part in parts)
