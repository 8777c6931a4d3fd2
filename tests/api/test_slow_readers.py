"""Readers that don't read what they asked for: they cost bounded memory and hold up nobody, and get everything late."""

from __future__ import annotations

import asyncio
import gc
import json
import socket
from typing import cast
from urllib.parse import urlsplit

from quern.engine.fake import FakeEngine
from quern.http_server.protocol import HttpProtocol
from quern.prompt.codec import TextCodec

from .conftest import Quern, Start
from .raw_sockets import RawClient, post

TOKENS = 30_000
BUFFERED_AT_MOST = 2**18
"""Bytes in the server for one connection: uvicorn's high water mark, and the piece with which it is passed."""

BODY = json.dumps({"messages": [{"role": "user", "content": "long"}], "stream": True, "max_tokens": TOKENS}).encode()
REQUEST = post("/v1/chat/completions", body=BODY)


async def _without_a_buffer(quern: Quern) -> RawClient:
    """A client whose system takes next to nothing for it."""
    address = urlsplit(str(quern.client.base_url))
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    client.setblocking(False)
    await asyncio.get_running_loop().sock_connect(client, (address.hostname, address.port))
    return RawClient(*await asyncio.open_connection(sock=client, limit=4096))


def _buffered() -> list[int]:
    """Bytes that wait in the server, by connection."""
    protocols = [cast("HttpProtocol", one) for one in gc.get_objects() if type(one) is HttpProtocol]
    return [
        protocol.transport.get_write_buffer_size()
        for protocol in protocols
        if protocol.transport is not None and not protocol.transport.is_closing()
    ]


def _said(body: bytes) -> str:
    events = [line.removeprefix(b"data: ") for line in body.split(b"\n\n") if line.startswith(b"data: {")]
    return "".join(json.loads(event)["choices"][0]["delta"].get("content") or "" for event in events)


async def test_a_reader_that_stops_costs_bounded_memory_and_gets_everything_once_it_reads(start: Start) -> None:
    codec = TextCodec.builtin()
    text = "".join(chr(ord("a") + number * 7 % 26) for number in range(TOKENS))
    engine = FakeEngine(reply=lambda _request: text.encode(), vocabulary_size=codec.vocabulary_size)
    async with start(engine, live=True) as quern:
        slow = [await _without_a_buffer(quern) for _ in range(3)]
        for client in slow:
            await client.send(REQUEST)
        async with asyncio.timeout(60):
            while len(engine.requests) < len(slow) or quern.application.turns.active:
                await asyncio.sleep(0.02)
                assert max(_buffered()) < BUFFERED_AT_MOST
            assert sum(size > 0 for size in _buffered()) == len(slow), "they still wait for most of it"
            assert (await quern.chat("another")).status_code == 200, "and hold up nobody"
            for client in slow:
                client.reader._limit = 2**16  # pyright: ignore[reportAttributeAccessIssue] - it reads now
                assert _said((await client.answer()).body) == text
                await client.close()
