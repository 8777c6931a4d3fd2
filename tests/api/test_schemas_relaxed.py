"""What of a schema can't be kept to, and isn't worth a refusal, is named in the answer's header."""

from __future__ import annotations

from typing import Any

import pytest

from .conftest import Start
from .engines import saying

SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {"n": {"type": "integer", "maximum": 9223372036854775807}, "s": {"type": "string", "format": "slug"}},
}
USER: list[Any] = [{"role": "user", "content": "hi"}]
NAMED: dict[str, Any] = {"type": "json_schema", "name": "x", "schema": SCHEMA}
REQUESTS: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {
        "messages": USER,
        "response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA}},
    },
    "/v1/completions": {"prompt": "hi", "guided_json": SCHEMA},
    "/v1/responses": {"input": "hi", "text": {"format": NAMED}},
    "/v1/messages": {
        "messages": USER,
        "max_tokens": 50,
        "output_config": {"format": {"type": "json_schema", "schema": SCHEMA}},
    },
    "/api/chat": {"messages": USER, "format": SCHEMA},
    "/completion": {"prompt": "hi", "json_schema": SCHEMA},
}


@pytest.mark.parametrize("path", REQUESTS)
async def test_a_bound_and_a_format_that_are_not_kept_to_are_named_beside_unknown_fields(
    start: Start, path: str
) -> None:
    async with start(saying('{"n": 1}')) as quern:
        response = await quern.client.post(path, json={**REQUESTS[path], "mood": 1})
        plain = await quern.client.post("/v1/chat/completions", json={"messages": USER})
    assert response.status_code == 200, response.text
    named = response.headers["x-quern-ignored"]
    assert named.startswith("mood, ")
    assert 'The format "slug" at #/properties/s is not checked.' in named
    assert "9223372036854775807" in named
    assert "x-quern-ignored" not in plain.headers
