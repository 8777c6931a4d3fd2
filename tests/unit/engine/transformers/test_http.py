"""The child's HTTP with a real uvicorn on a Unix socket, and a generator that does as a test says."""

from __future__ import annotations

import asyncio
import json
import socket
import tempfile
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from pathlib import Path

import httpx2
import pytest
import uvicorn

from quern.engine.transformers.child.completion import Completion, Ended, Event, Refused, Token
from quern.engine.transformers.child.http import Application, Facts

KEY = "secret"
FACTS = Facts(context_length=100, vocabulary_size=50, device="none", dtype="none")


class Scripted:
    """Draws 1, 2, 3, one for each `permission`."""

    def __init__(self) -> None:
        self.permission = asyncio.Semaphore(0)
        self.cancelled = asyncio.Event()
        self.asked: list[Completion] = []
        self.broken = ""
        self.refusal = ""

    @property
    def facts(self) -> Facts:
        return FACTS

    def check(self) -> str:
        return self.broken

    async def generate(self, completion: Completion) -> AsyncGenerator[Sequence[Event]]:
        self.asked.append(completion)
        if self.refusal:
            raise Refused(self.refusal)
        yield []
        try:
            for token in range(1, completion.max_tokens + 1):
                await self.permission.acquire()
                yield [Token(token), *([Ended(stop=False)] if token == completion.max_tokens else [])]
        except asyncio.CancelledError:
            self.cancelled.set()
            raise


@pytest.fixture
def scripted() -> Scripted:
    return Scripted()


@pytest.fixture
async def client(scripted: Scripted) -> AsyncIterator[httpx2.AsyncClient]:
    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder) / "s")
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
            listener.bind(path)
            listener.listen()
            config = uvicorn.Config(Application(scripted, KEY), lifespan="off", ws="none", log_level="warning")
            server = uvicorn.Server(config)
            serving = asyncio.ensure_future(server.serve(sockets=[listener]))
            transport = httpx2.AsyncHTTPTransport(uds=path)
            headers = {"Authorization": f"Bearer {KEY}"}
            async with httpx2.AsyncClient(transport=transport, base_url="http://child", headers=headers) as made:
                yield made
            server.should_exit = True
            await serving


def body(**fields: object) -> dict[str, object]:
    return {"prompt": [1], "max_tokens": 3, "stream": True, **fields}


async def test_an_answer_is_streamed_token_by_token(client: httpx2.AsyncClient, scripted: Scripted) -> None:
    seen: list[int] = []
    async with client.stream("POST", "/v1/completions", json=body()) as response:
        assert response.headers["content-type"] == "text/event-stream"
        scripted.permission.release()
        async for line in response.aiter_lines():
            if line.startswith("data: {"):
                seen += json.loads(line.removeprefix("data: "))["choices"][0]["token_ids"]
                scripted.permission.release()
    assert seen == [1, 2, 3]


async def test_closing_the_connection_cancels_though_nothing_is_written(
    client: httpx2.AsyncClient, scripted: Scripted
) -> None:
    scripted.permission.release()
    async with client.stream("POST", "/v1/completions", json=body()) as response:
        async for _ in response.aiter_lines():
            break
    async with asyncio.timeout(10):
        await scripted.cancelled.wait()


async def test_every_path_needs_the_key(client: httpx2.AsyncClient) -> None:
    for headers in ({"Authorization": "Bearer other"}, {"Authorization": ""}):
        for path in ("/health", "/v1/models", "/nowhere"):
            assert (await client.get(path, headers=headers)).status_code == 401
        assert (await client.post("/v1/completions", json=body(), headers=headers)).status_code == 401


async def test_the_model_is_described(client: httpx2.AsyncClient) -> None:
    (model,) = (await client.get("/v1/models")).json()["data"]
    assert (model["max_model_len"], model["vocabulary_size"]) == (100, 50)


async def test_a_generator_that_is_broken_is_not_healthy(client: httpx2.AsyncClient, scripted: Scripted) -> None:
    assert (await client.get("/health")).status_code == 200
    scripted.broken = "It has ended."
    response = await client.get("/health")
    assert (response.status_code, response.json()["error"]["message"]) == (503, "It has ended.")


async def test_what_can_not_be_served_is_a_400_with_a_sentence(client: httpx2.AsyncClient, scripted: Scripted) -> None:
    response = await client.post("/v1/completions", json=body(prompt=[50]))
    assert response.status_code == 400
    assert "prompt has 50 in it" in response.json()["error"]["message"]
    scripted.refusal = "This grammar can't be kept to."
    response = await client.post("/v1/completions", json=body())
    assert (response.status_code, response.json()["error"]["message"]) == (400, "This grammar can't be kept to.")
    assert (await client.get("/v1/completions")).status_code == 404
