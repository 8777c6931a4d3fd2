"""What a connection may cost before there is a request: headers, time, pauses, and how many there are. Real sockets."""

from __future__ import annotations

import asyncio
from collections.abc import MutableMapping, Sequence
from typing import Any

import pytest
from structlog.testing import capture_logs

from quern.engine.fake import FakeEngine

from .conftest import Connect, Quern, Start
from .raw_sockets import RawClient, chunked, post, request

CHAT = "/v1/chat/completions"
CHAT_BODY = b'{"messages": [{"role": "user", "content": "hi"}]}'
STREAM_BODY = b'{"messages": [{"role": "user", "content": "hi"}], "stream": true}'
HEALTH = request("GET", "/health")
CHUNKED = request("POST", CHAT, "Transfer-Encoding: chunked", length=-1)
LONG_HEADER = b"GET /health HTTP/1.1\r\nHost: localhost\r\nX-Long: "


async def _send_for_ever(client: RawClient, piece: bytes) -> int:
    """Send the same bytes until the server answers; returns how many were sent."""
    sent = 0
    answered = asyncio.ensure_future(client.reader.readuntil(b"\r\n"))
    async with asyncio.timeout(20):
        while not answered.done():
            client.writer.write(piece)
            sent += len(piece)
            await client.writer.drain()
            await asyncio.sleep(0)
    assert answered.result().startswith(b"HTTP/1.1 431 "), answered.result()
    return sent


HEADER_BYTES, HEADERS = {"max_header_bytes": 2000}, {"max_headers": 50}
HEADER_SECONDS, BODY_SECONDS = {"header_seconds": 0.2}, {"body_seconds": 0.2}


def with_headers(count: int) -> bytes:
    return request("GET", "/health", *(f"X-{number}: a" for number in range(count - 1)))


BOUNDS: dict[str, tuple[dict[str, Any], bytes, int, str]] = {
    "one long header": (HEADER_BYTES, LONG_HEADER + b"x" * 3000 + b"\r\n\r\n", 431, "2000 bytes"),
    "many short headers": (HEADER_BYTES, with_headers(300), 431, "2000 bytes"),
    "a long name": (HEADER_BYTES, HEALTH[:-2] + b"x" * 3000 + b": y\r\n\r\n", 431, "2000 bytes"),
    "a URL without end": (HEADER_BYTES, b"GET /" + b"a" * 3000, 414, "2000 bytes"),
    "one header too many": (HEADERS, with_headers(51), 431, "more than 50 headers"),
    "twenty thousand headers": ({}, with_headers(20_000), 431, "headers"),
    "a byte of a head": (HEADER_SECONDS, b"G", 408, "0.2 seconds"),
    "all but a byte of a head": (HEADER_SECONDS, HEALTH[:-1], 408, "0.2 seconds"),
    "a header without end": (HEADER_SECONDS, LONG_HEADER, 408, "0.2 seconds"),
    "less than the announced body": (BODY_SECONDS, post(CHAT, body=b'{"mess', length=500), 408, "0.2 seconds"),
    "no chunk": (BODY_SECONDS, CHUNKED, 408, "0.2 seconds"),
    "half a chunk": (BODY_SECONDS, CHUNKED + b"5\r\nab", 408, "0.2 seconds"),
    "half a body with an upgrade": (
        BODY_SECONDS,
        post(CHAT, "Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", body=b"{", length=500),
        408,
        "0.2 seconds",
    ),
}
"""Settings, what is sent, the status and what the sentence names besides the setting."""


@pytest.mark.parametrize("name", BOUNDS)
async def test_what_exceeds_a_bound_is_refused_with_the_setting_and_closes(
    start: Start, connect: Connect, name: str
) -> None:
    settings, sent, status, named = BOUNDS[name]
    async with start(live=True, server=settings) as quern:
        client = await connect(quern)
        await client.send(sent)
        answer = await client.answer()
        assert answer.status == status
        assert named in answer.sentence()
        assert all(f"server.{setting}" in answer.sentence() for setting in settings)
        assert answer.headers["connection"] == "close"
        assert await client.closed() == b""
        assert not quern.engine.requests


async def test_headers_just_under_the_limit_are_served(start: Start, connect: Connect) -> None:
    async with start(live=True, server={"max_header_bytes": 2000}) as quern:
        client = await connect(quern)
        await client.send(LONG_HEADER + b"x" * 1900 + b"\r\n\r\n")
        assert (await client.answer()).status == 200


@pytest.mark.parametrize(
    ("before", "piece"),
    [
        (LONG_HEADER, b"x" * 65536),
        (b"GET /health HTTP/1.1\r\nHost: a\r\n", b"y" * 65536),
        (b"GET /health HTTP/1.1\r\nHost: a\r\n", b"X-Header: value\r\n" * 4000),
        (CHUNKED + b"1;", b"x" * 65536),
        (CHUNKED + b"1\r\na\r\n0\r\nX: ", b"x" * 65536),
        (CHUNKED + b"1\r\na\r\n0\r\n", b"X: y\r\n" * 10_000),
    ],
    ids=["a value", "a name", "headers", "a chunk's extension", "a trailer's value", "trailers"],
)
async def test_endless_headers_are_refused_after_little_more_than_the_limit(
    start: Start, connect: Connect, before: bytes, piece: bytes
) -> None:
    async with start(live=True, server={"max_headers": 10_000}) as quern:
        client = await connect(quern)
        await client.send(before)
        # What the kernel's buffers hold was sent, not read.
        assert await _send_for_ever(client, piece) < 32 * 2**20
        assert (await quern.client.get("/health")).status_code == 200


async def test_as_many_headers_as_the_limit_are_served(start: Start, connect: Connect) -> None:
    async with start(live=True, server=HEADERS) as quern:
        client = await connect(quern)
        await client.send(with_headers(50))
        assert (await client.answer()).status == 200


async def test_headers_after_a_body_in_chunks_are_bounded_and_never_become_the_requests(
    start: Start, connect: Connect
) -> None:
    async with start(live=True, server={"max_header_bytes": 2000}) as quern:
        client = await connect(quern)
        head = request("POST", CHAT, "Content-Type: application/json", "Transfer-Encoding: chunked", length=-1)
        await client.send(head + chunked(CHAT_BODY)[:-2] + b"X-Request-Id: from-behind\r\n\r\n")
        answer = await client.answer()
        assert answer.status == 200, answer.body
        assert answer.headers["x-request-id"] != "from-behind"
        await client.send(head + chunked(CHAT_BODY)[:-2] + b"X: y\r\n" * 1000 + b"\r\n")
        assert (await client.answer()).status == 431


async def test_headers_that_trickle_in_are_a_408_although_something_always_comes(
    start: Start, connect: Connect
) -> None:
    async with start(live=True, server={"header_seconds": 0.3}) as quern:
        client = await connect(quern)
        await client.send(LONG_HEADER)
        answered = asyncio.ensure_future(client.answer())
        while not answered.done():
            await client.send(b"x")
            await asyncio.sleep(0.02)
        assert answered.result().status == 408


async def test_empty_lines_keep_no_connection_open(start: Start, connect: Connect) -> None:
    async with start(live=True, server={"header_seconds": 0.2}) as quern:
        client = await connect(quern)
        closed = asyncio.ensure_future(client.closed())
        while not closed.done():
            client.writer.write(b"\r\n")
            await asyncio.sleep(0.02)
        assert closed.result() == b""


async def test_a_body_that_trickles_is_a_408_and_so_is_one_of_empty_talk(start: Start, connect: Connect) -> None:
    async with start(live=True, server={"body_seconds": 0.3, "min_body_rate": 10_000}) as quern:
        for head, piece in [
            (post(CHAT, body=b"", length=100_000), b"x"),
            (request("POST", CHAT, "Transfer-Encoding: chunked", length=-1) + b"5;", b"extension"),
        ]:
            client = await connect(quern)
            await client.send(head)
            answered = asyncio.ensure_future(client.answer())
            while not answered.done():
                await client.send(piece)
                await asyncio.sleep(0.02)
            assert answered.result().status == 408


async def test_a_slow_body_that_brings_what_it_must_is_served(start: Start, connect: Connect) -> None:
    async with start(live=True, server={"body_seconds": 5, "min_body_rate": 1, "header_seconds": 0.2}) as quern:
        client = await connect(quern)
        await client.send(post(CHAT, body=b"", length=len(CHAT_BODY)))
        for byte in CHAT_BODY:
            await client.send(bytes([byte]))
            await asyncio.sleep(0.01)
        assert (await client.answer()).status == 200


async def test_a_stream_outlasts_every_one_of_these_times(start: Start, connect: Connect) -> None:
    engine = FakeEngine(reply=lambda _: b"x" * 20, token_delay=0.05)
    limits = {"header_seconds": 0.1, "body_seconds": 0.1, "idle_seconds": 0.1}
    async with start(engine, live=True, server=limits) as quern:
        client = await connect(quern)
        await client.send(post(CHAT, body=STREAM_BODY))
        answer = await client.answer()
        assert answer.status == 200
        assert answer.body.endswith(b"data: [DONE]\n\n")
        assert await client.closed() == b""


async def test_a_connection_without_a_request_is_closed_in_silence(start: Start, connect: Connect) -> None:
    async with start(live=True, server={"idle_seconds": 0.2}) as quern:
        fresh, used = await connect(quern), await connect(quern)
        await used.send(HEALTH)
        assert (await used.answer()).status == 200
        assert await fresh.closed() == b""
        assert await used.closed() == b""


async def _busy(quern: Quern, connect: Connect, count: int) -> list[RawClient]:
    """Connections with a request under way each."""
    clients = [await connect(quern) for _ in range(count)]
    for client in clients:
        await client.send(post(CHAT, body=STREAM_BODY))
        await client.reader.readuntil(b"\r\n\r\n")
    return clients


def _slow() -> FakeEngine:
    return FakeEngine(reply=lambda _: b"x" * 5, token_delay=0.3, parallel=8)


@pytest.mark.parametrize("setting", ["max_connections", "max_connections_per_address"])
async def test_one_connection_too_many_is_a_503_with_the_setting_and_frees_nobodys_place(
    start: Start, connect: Connect, setting: str
) -> None:
    async with start(_slow(), live=True, server={setting: 3}) as quern:
        clients = await _busy(quern, connect, 3)
        for _ in range(5):
            refused = await connect(quern)
            answer = await refused.answer()
            assert answer.status == 503
            assert f"server.{setting}" in answer.sentence()
            assert answer.headers["retry-after"] == "1"
            assert await refused.closed() == b""
        for client in clients:
            assert b"data: [DONE]" in await client.reader.readuntil(b"0\r\n\r\n")
            await client.close()


async def _opens_until_served(quern: Quern, connect: Connect) -> RawClient:
    async with asyncio.timeout(20):
        while True:
            client = await connect(quern)
            await client.send(HEALTH)
            if (await client.answer()).status == 200:
                return client
            await client.close()
            await asyncio.sleep(0.05)


@pytest.mark.parametrize("held", [b"", b"GET /health HTTP/1.1\r\nX-Slow: "], ids=["silent", "slow headers"])
async def test_connections_without_a_request_give_way_to_one_that_has_one(
    start: Start, connect: Connect, held: bytes
) -> None:
    async with start(live=True, server={"max_connections_per_address": 5}) as quern:
        holding = [await connect(quern) for _ in range(5)]
        for client in holding:
            await client.send(held)
        await _opens_until_served(quern, connect)
        given_way = await holding[0].closed()
        assert not held or b"503" in given_way.split(b"\r\n")[0]


async def test_closed_connections_leave_their_places(start: Start, connect: Connect) -> None:
    async with start(live=True, server={"max_connections": 2}) as quern:
        for number in range(20):
            client = await _opens_until_served(quern, connect)
            if number % 2:
                client.writer.transport.abort()
            else:
                await client.close()


@pytest.mark.parametrize(
    "sent",
    [b"", b"GET /hea", post(CHAT, body=b"{", length=50)],
    ids=["nothing", "half a head", "half a body"],
)
async def test_a_half_closed_connection_without_a_whole_request_is_closed(
    start: Start, connect: Connect, sent: bytes
) -> None:
    async with start(live=True) as quern:
        client = await connect(quern)
        await client.send(sent)
        client.writer.write_eof()
        assert await client.closed() == b""


@pytest.mark.parametrize("count", [1, 3])
async def test_whoever_half_closes_after_a_request_is_answered(start: Start, connect: Connect, count: int) -> None:
    async with start(live=True) as quern:
        client = await connect(quern)
        await client.send(HEALTH * count)
        client.writer.write_eof()
        for _ in range(count):
            assert (await client.answer()).status == 200
        assert await client.closed() == b""


async def test_a_refused_client_that_goes_on_sending_reads_why(start: Start, connect: Connect) -> None:
    async with start(live=True, server={"max_header_bytes": 2000}) as quern:
        client = await connect(quern)
        await client.send(LONG_HEADER + b"x" * 3000)
        for _ in range(50):
            await client.send(b"x" * 10_000)
            await asyncio.sleep(0)
        assert (await client.answer()).status == 431


def _codes(logs: Sequence[MutableMapping[str, Any]]) -> list[str]:
    return [entry["code"] for entry in logs if entry["event"] == "connection_refused"]


async def test_what_is_refused_before_there_is_a_request_has_a_line_in_the_log(start: Start, connect: Connect) -> None:
    async with start(live=True, server={"max_headers": 10, "header_seconds": 0.2}) as quern:
        with capture_logs() as logs:
            for sent in (request("GET", "/", *["A: b"] * 20), b"GET / HT", b"NONSENSE\r\n\r\n"):
                client = await connect(quern)
                await client.send(sent)
                await client.answer()
        assert _codes(logs) == ["too_many_headers", "headers_too_slow", "invalid_http"]
        assert all(entry["client"] == "127.0.0.1" for entry in logs if entry["event"] == "connection_refused")
