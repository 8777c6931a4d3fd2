"""Readers that don't read what they asked for: they cost bounded memory and hold up nobody, and get everything late."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import Callable
from contextlib import ExitStack
from http.client import HTTPResponse
from urllib.parse import urlsplit

import pytest

from quern.engine.fake import FakeEngine
from quern.http_server.protocol import HttpProtocol
from quern.prompt.codec import TextCodec

from .conftest import Quern, Start
from .raw_sockets import post

TOKENS = 4_000
BUFFERED_AT_MOST = 2**18
"""Bytes in the server for one connection: uvicorn's high water mark, and the piece with which it is passed."""

LARGE = {"stream": True, "max_tokens": TOKENS, "logprobs": True, "top_logprobs": 20}
"""More than systems keep for a connection: a kilobyte and more for each token."""

BODY = json.dumps({"messages": [{"role": "user", "content": "long"}], **LARGE}).encode()
REQUEST = post("/v1/chat/completions", body=BODY)


def _without_a_buffer(quern: Quern) -> socket.socket:
    """A connection for which the client's system takes next to nothing."""
    address = urlsplit(str(quern.client.base_url))
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    client.settimeout(60)
    client.connect((address.hostname, address.port))
    return client


def _answer(client: socket.socket) -> bytes:
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2**22)  # it reads now
    with HTTPResponse(client) as response:
        response.begin()
        return response.read()


@pytest.fixture
def buffered(monkeypatch: pytest.MonkeyPatch) -> Callable[[], list[int]]:
    """Tells the bytes that wait in the server, by connection."""
    connections: list[asyncio.Transport] = []
    made = HttpProtocol.connection_made

    def connection_made(protocol: HttpProtocol, transport: asyncio.Transport) -> None:
        connections.append(transport)
        made(protocol, transport)

    monkeypatch.setattr(HttpProtocol, "connection_made", connection_made)
    return lambda: [one.get_write_buffer_size() for one in connections if not one.is_closing()]


def _said(body: bytes) -> str:
    events = [line.removeprefix(b"data: ") for line in body.split(b"\n\n") if line.startswith(b"data: {")]
    return "".join(json.loads(event)["choices"][0]["delta"].get("content") or "" for event in events)


async def test_a_reader_that_stops_costs_bounded_memory_and_gets_everything_once_it_reads(
    start: Start, buffered: Callable[[], list[int]]
) -> None:
    codec = TextCodec.builtin()
    text = "".join(chr(ord("a") + number * 7 % 26) for number in range(TOKENS))
    engine = FakeEngine(reply=lambda _request: text.encode(), vocabulary_size=codec.vocabulary_size)
    async with start(engine, live=True) as quern:
        with ExitStack() as stack:
            slow = [stack.enter_context(_without_a_buffer(quern)) for _ in range(2)]
            for client in slow:
                client.sendall(REQUEST)
            async with asyncio.timeout(60):
                while len(engine.requests) < len(slow) or quern.application.turns.active:
                    await asyncio.sleep(0.02)
                    assert max(buffered()) < BUFFERED_AT_MOST
            assert sum(size > 0 for size in buffered()) == len(slow), "they still wait for most of it"
            assert (await quern.chat("another")).status_code == 200, "and hold up nobody"
            for client in slow:
                assert _said(await asyncio.to_thread(_answer, client)) == text
