"""Content-Type of requests: clients that were written for Ollama or llama.cpp send a form's, or none."""

from __future__ import annotations

import json
from typing import Any

import pytest

from .conftest import Quern, Start

CHAT: dict[str, Any] = {"messages": [{"role": "user", "content": "hi"}]}
BODIES: dict[str, dict[str, Any]] = {
    "/api/chat": {**CHAT, "model": "fake", "stream": False},
    "/api/generate": {"model": "fake", "prompt": "hi", "stream": False},
    "/api/show": {"model": "fake"},
    "/v1/chat/completions": CHAT,
    "/v1/completions": {"prompt": "hi"},
    "/v1/responses": {"input": "hi"},
    "/v1/messages": {**CHAT, "model": "fake", "max_tokens": 9},
    "/v1/messages/count_tokens": {**CHAT, "model": "fake"},
    "/v1/fim/completions": {"prompt": "a", "suffix": "b"},
    "/v1/conversations": {},
    "/completion": {"prompt": "hi"},
    "/infill": {"input_prefix": "a", "input_suffix": "b"},
    "/tokenize": {"content": "hi"},
}
LITELLM_TO_OLLAMA = b"""{"model": "qwen2.5-coder-1.5b", "messages": [{"role": "user", "content": "hi"}], \
"options": {"num_predict": 20}, "stream": false}"""
"""As litellm 1.110.2 sends it to /api/chat, without any Content-Type."""


@pytest.mark.parametrize(
    "content_type", [None, "", "application/x-www-form-urlencoded", "text/plain; charset=UTF-8", "application/x-json"]
)
@pytest.mark.parametrize("path", BODIES)
async def test_a_json_body_is_read_whatever_type_it_is_said_to_have(
    quern: Quern, path: str, content_type: str | None
) -> None:
    headers = {} if content_type is None else {"content-type": content_type}
    response = await quern.client.post(path, content=json.dumps(BODIES[path]), headers=headers)
    assert response.status_code == 200, response.text


async def test_a_large_body_without_a_type_is_read_too(quern: Quern) -> None:
    long = {"messages": [{"role": "user", "content": "word " * 4000}]}
    response = await quern.client.post("/v1/chat/completions", content=json.dumps(long))
    assert response.json()["usage"]["prompt_tokens"] > 20_000


async def test_what_litellm_sends_to_ollama_is_answered(start: Start) -> None:
    async with start(model={"aliases": "*"}) as quern:
        response = await quern.client.post("/api/chat", content=LITELLM_TO_OLLAMA)
        assert response.json()["done"] is True


@pytest.mark.parametrize("path", BODIES)
@pytest.mark.parametrize(
    "fetch", [{"origin": "https://evil.example"}, {"origin": "null"}, {"sec-fetch-site": "cross-site"}]
)
async def test_a_foreign_page_can_not_pass_json_off_as_text_which_browsers_let_it_send(
    quern: Quern, path: str, fetch: dict[str, str]
) -> None:
    headers = {"content-type": "text/plain", **fetch}
    response = await quern.client.post(path, content=json.dumps(BODIES[path]), headers=headers)
    assert response.status_code == 403
    assert not quern.engine.requests


@pytest.mark.parametrize("path", ["/api/chat", "/v1/chat/completions", "/v1/messages"])
async def test_a_form_where_json_belongs_is_a_400_that_says_so(quern: Quern, path: str) -> None:
    response = await quern.client.post(path, data={"prompt": "hi"})
    assert response.status_code == 400
    assert "not valid JSON" in response.text
    assert "Send one JSON object" in response.text
