"""A client that goes away, over a raw socket: in the queue, during prefill and during decode, on both endpoints."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from urllib.parse import urlsplit

import pytest
from structlog.testing import capture_logs

from quern.engine.fake import FakeEngine

from .conftest import Quern, Start

GENERATE = "/v1/code/generate"
CHAT = "/v1/code/chat_stream"


class RawClient:
    """An HTTP client that is nothing but a socket."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self._writer = writer

    @classmethod
    async def post(cls, quern: Quern, path: str, body: str, *headers: str, announced: int | None = None) -> RawClient:
        """Send a form; `announced` is the Content-Length where it isn't the body's own."""
        url = urlsplit(str(quern.client.base_url))
        reader, writer = await asyncio.open_connection(url.hostname, url.port)
        lines = [
            f"POST {path} HTTP/1.1",
            "Host: localhost",
            "Content-Type: application/x-www-form-urlencoded",
            f"Content-Length: {announced or len(body)}",
            *headers,
        ]
        writer.write(("\r\n".join(lines) + "\r\n\r\n" + body).encode())
        await writer.drain()
        return cls(reader, writer)

    async def vanish(self) -> None:
        self._writer.close()
        await self._writer.wait_closed()


async def _until(condition: Callable[[], object], seconds: float = 1.0) -> None:
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.005)


async def _states(quern: Quern) -> list[str]:
    listed = (await quern.client.get("/v1/conversations")).json()["data"]
    conversations = [(await quern.client.get(f"/v1/conversations/{item['id']}")).json() for item in listed]
    return [turn["state"] for conversation in conversations for turn in conversation["turns"]]


def _slow(*, token_delay: float = 0.0, prefill_delay: float = 0.0) -> FakeEngine:
    reply = tuple(b"x" * 3000)
    return FakeEngine(parallel=1, reply=lambda _request: reply, token_delay=token_delay, prefill_delay=prefill_delay)


CANCEL = "X-Quern-On-Disconnect: cancel"


@pytest.mark.parametrize("path", [GENERATE, CHAT])
async def test_a_client_gone_in_mid_decode_frees_its_sequence(start: Start, path: str) -> None:
    async with start(_slow(token_delay=0.01), live=True) as quern:
        client = await RawClient.post(quern, path, "prompt=hello", CANCEL)
        await _until(lambda: quern.engine.stats().running == 1)
        if path == CHAT:
            await client.reader.readuntil(b"x\r\n")
        await client.vanish()
        await _until(lambda: quern.engine.stats().running == 0 and quern.application.turns.active == 0)
        if path == CHAT:
            assert await _states(quern) == ["cancelled"]


@pytest.mark.parametrize("path", [GENERATE, CHAT])
async def test_a_client_gone_during_prefill_frees_its_sequence(start: Start, path: str) -> None:
    async with start(_slow(prefill_delay=0.05), live=True) as quern:
        client = await RawClient.post(quern, path, "prompt=" + "hello" * 200, CANCEL)
        await _until(lambda: quern.engine.stats().running == 1)
        await client.vanish()
        await _until(lambda: quern.engine.stats().running == 0 and quern.application.turns.active == 0)


@pytest.mark.parametrize("path", [GENERATE, CHAT])
async def test_a_client_gone_in_the_queue_leaves_it(start: Start, path: str) -> None:
    async with start(_slow(token_delay=0.01), live=True) as quern:
        runs = await RawClient.post(quern, GENERATE, "prompt=first")
        await _until(lambda: quern.engine.stats().running == 1)
        waits = await RawClient.post(quern, path, "prompt=second", CANCEL)
        await _until(lambda: quern.engine.stats().waiting == 1)
        await waits.vanish()
        await _until(lambda: quern.engine.stats().waiting == 0)
        assert quern.engine.stats().running == 1, "the other one goes on"
        await runs.vanish()
        await _until(lambda: quern.engine.stats().running == 0)


async def test_by_default_a_conversations_turn_goes_on_without_its_reader_and_completes(start: Start) -> None:
    engine = FakeEngine(token_delay=0.005, reply=lambda _request: tuple(b"whole answer"))
    async with start(engine, live=True) as quern:
        client = await RawClient.post(quern, CHAT, "prompt=hello")
        await _until(lambda: quern.engine.stats().running == 1)
        await client.vanish()
        await _until(lambda: quern.application.turns.active == 0, 5)
        assert await _states(quern) == ["completed"]
        conversation_id = (await quern.client.get("/v1/conversations")).json()["data"][0]["id"]
        conversation = (await quern.client.get(f"/v1/conversations/{conversation_id}")).json()
    assert conversation["messages"][1]["content"] == "whole answer"


async def test_a_held_turn_that_nobody_comes_back_to_is_cancelled_and_keeps_its_text(start: Start) -> None:
    async with start(_slow(token_delay=0.01), live=True, turns={"hold_seconds": 0.1}) as quern:
        client = await RawClient.post(quern, CHAT, "prompt=hello")
        await _until(lambda: quern.engine.stats().running == 1)
        await client.reader.readuntil(b"x\r\n")
        await client.vanish()
        assert quern.application.turns.active == 1
        await _until(lambda: quern.application.turns.active == 0)
        conversation_id = (await quern.client.get("/v1/conversations")).json()["data"][0]["id"]
        turn = (await quern.client.get(f"/v1/conversations/{conversation_id}")).json()["turns"][0]
    assert turn["state"] == "cancelled"
    assert turn["text"].startswith("xxx")
    assert "nobody came back" in turn["error"]


async def test_a_reader_that_comes_back_in_time_gets_the_text_from_the_start_and_keeps_the_turn_alive(
    start: Start,
) -> None:
    engine = FakeEngine(token_delay=0.01, reply=lambda _request: tuple(b"0123456789" * 4))
    async with start(engine, live=True, turns={"hold_seconds": 0.2}) as quern:
        client = await RawClient.post(quern, CHAT, "prompt=hello")
        await _until(lambda: quern.engine.stats().running == 1)
        await client.vanish()
        conversation_id = (await quern.client.get("/v1/conversations")).json()["data"][0]["id"]
        response = await quern.client.get(f"/v1/conversations/{conversation_id}/stream")
        assert response.text == "0123456789" * 4
        assert await _states(quern) == ["completed"]
        gone = await quern.client.get(f"/v1/conversations/{conversation_id}/stream")
        assert gone.status_code == 404


async def test_finish_goes_on_however_long_nobody_listens(start: Start) -> None:
    engine = FakeEngine(token_delay=0.01, reply=lambda _request: tuple(b"x" * 40))
    async with start(engine, live=True, turns={"hold_seconds": 0.05}) as quern:
        client = await RawClient.post(quern, CHAT, "prompt=hello", "X-Quern-On-Disconnect: finish")
        await _until(lambda: quern.engine.stats().running == 1)
        await client.vanish()
        await _until(lambda: quern.application.turns.active == 0, 5)
        assert await _states(quern) == ["completed"]


async def test_an_unknown_policy_is_a_422_that_names_the_header_and_its_values(quern: Quern) -> None:
    response = await quern.client.post(GENERATE, data={"prompt": "x"}, headers={"x-quern-on-disconnect": "explode"})
    assert response.status_code == 422
    assert response.json()["detail"][0] == {
        "type": "enum",
        "loc": ["header", "x-quern-on-disconnect"],
        "msg": "The header x-quern-on-disconnect takes one of cancel, finish, hold.",
        "input": "explode",
    }


async def test_a_client_that_leaves_in_mid_request_starts_no_turn(start: Start) -> None:
    async with start(live=True) as quern:
        client = await RawClient.post(quern, CHAT, "prompt=half", announced=1000)
        with capture_logs() as lines:
            await client.vanish()
            await _until(lambda: any(line["event"] == "request" for line in lines))
        assert [line["status"] for line in lines if line["event"] == "request"] == [499]
        assert not [line for line in lines if line["log_level"] == "error"]
        assert not quern.engine.requests
        assert await _states(quern) == []
