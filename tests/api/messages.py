"""What the tests of the Messages API share."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import anthropic
import httpx2

from .conftest import Quern

USER = [{"role": "user", "content": "hi"}]
WEATHER: dict[str, Any] = {
    "name": "weather",
    "description": "The weather of a city.",
    "input_schema": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
}
NEWS: dict[str, Any] = {"name": "news", "input_schema": {"type": "object", "properties": {}}, "defer_loading": True}
CALL = '<tool_call>\n{"name": "weather", "arguments": {"city": "北京"}}\n</tool_call>'
CALLED = {"type": "tool_use", "id": "c1", "name": "weather", "input": {"city": "Paris"}}


@asynccontextmanager
async def library(quern: Quern) -> AsyncGenerator[anthropic.AsyncAnthropic]:
    url = str(quern.client.base_url)
    async with anthropic.AsyncAnthropic(base_url=url, api_key="x", max_retries=0) as client:
        yield client


async def message(quern: Quern, **body: Any) -> httpx2.Response:
    asked = {"model": "fake", "max_tokens": 1000, "messages": USER, **body}
    return await quern.client.post("/v1/messages?beta=true", json=asked)


async def count(quern: Quern, **body: Any) -> int:
    response = await quern.client.post("/v1/messages/count_tokens", json={"model": "fake", "messages": USER, **body})
    assert response.status_code == 200, response.text
    return response.json()["input_tokens"]


def prompt_text(quern: Quern) -> str:
    return quern.codec.tokenizer.decode(quern.engine.requests[-1].prompt)


def user(*blocks: dict[str, Any]) -> dict[str, Any]:
    return {"role": "user", "content": list(blocks)}
