"""What the tests of OpenAI's stateful endpoints share."""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from typing import Any

import httpx2
import openai

from .conftest import Quern

WEATHER = {
    "type": "function",
    "name": "weather",
    "description": "The weather of a city.",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    "strict": True,
}


def call_text(city: str) -> str:
    """A call as the model writes it."""
    return f'<tool_call>\n{{"name": "weather", "arguments": {{"city": "{city}"}}}}\n</tool_call>'


@asynccontextmanager
async def official(quern: Quern) -> AsyncGenerator[openai.AsyncOpenAI]:
    """The official client of an application on a real socket; it refuses answers that its models don't allow."""
    url = str(quern.client.base_url).rstrip("/")
    async with openai.AsyncOpenAI(
        base_url=f"{url}/v1", api_key="unused", max_retries=0, _strict_response_validation=True
    ) as client:
        yield client


async def respond(quern: Quern, **body: Any) -> httpx2.Response:
    """A response request."""
    content = json.dumps({"input": "hi", **body})
    return await quern.client.post("/v1/responses", content=content, headers={"content-type": "application/json"})


async def responded(quern: Quern, **body: Any) -> dict[str, Any]:
    """A response."""
    answer = await respond(quern, **body)
    assert answer.status_code == 200, answer.text
    return answer.json()


async def fetched(quern: Quern, response_id: str) -> dict[str, Any]:
    """A response, as it is now."""
    answer = await quern.client.get(f"/v1/responses/{response_id}")
    assert answer.status_code == 200, answer.text
    return answer.json()


async def until(condition: Callable[[], object], seconds: float = 10.0) -> None:
    """Wait for something to become true."""
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.005)


async def writing(quern: Quern) -> str:
    """Wait until the only active turn writes; its response's id."""
    await until(lambda: any(turn.generated_tokens > 2 for turn in quern.application.turns._active.values()))
    (turn,) = quern.application.turns._active.values()
    return f"resp_{uuid.UUID(turn.id).hex}"


async def over(quern: Quern) -> None:
    """Wait until no turn is active."""
    await until(lambda: not quern.application.turns.active)


def events_of(answer: httpx2.Response) -> list[dict[str, Any]]:
    """The events of a stream; each frame names its event's type."""
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "text/event-stream; charset=utf-8"
    frames = answer.text.split("\n\n")
    assert frames.pop() == ""
    events: list[dict[str, Any]] = []
    for frame in frames:
        name, _, data = frame.partition("\n")
        events.append(json.loads(data.removeprefix("data: ")))
        assert name == f"event: {events[-1]['type']}"
    return events


def prompt_text(quern: Quern) -> str:
    """The last prompt that the engine got."""
    return quern.codec.tokenizer.decode(quern.engine.requests[-1].prompt)


def output_text(response: dict[str, Any]) -> str:
    """What a response says."""
    messages = [item for item in response["output"] if item["type"] == "message"]
    return "".join(part["text"] for item in messages for part in item["content"])


def error_of(answer: httpx2.Response, status: int) -> tuple[str | None, str]:
    """The field and the sentence of an error in OpenAI's shape."""
    assert answer.status_code == status, answer.text
    error = answer.json()["error"]
    assert error.keys() == {"message", "type", "param", "code"}
    return error["param"], error["message"]
