"""HTTP as bytes: upgrades, HTTP/1.0, pipelines, what is no HTTP at all. Real sockets."""

from __future__ import annotations

import asyncio
import json

import pytest

from quern.engine.fake import FakeEngine

from .conftest import Connect, Start
from .raw_sockets import RawClient, chunked, post, request

CHAT = "/v1/chat/completions"
HELLO = b'{"messages": [{"role": "user", "content": "hello"}]}'
STREAM = b'{"messages": [{"role": "user", "content": "hello"}], "stream": true}'
BODIES = {
    CHAT: HELLO,
    "/v1/completions": b'{"prompt": "hello"}',
    "/v1/responses": b'{"input": "hello"}',
    "/v1/messages": b'{"messages": [{"role": "user", "content": "hello"}], "max_tokens": 99}',
    "/infill": b'{"input_prefix": "hel", "input_suffix": "lo"}',
}
STREAMS = {path: body[:-1] + b', "stream": true}' for path, body in BODIES.items()}
H2C = ("Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAMAAABkAAQCAAAAAAIAAAAA")
WEBSOCKET = (
    "Connection: Upgrade",
    "Upgrade: websocket",
    "Sec-WebSocket-Version: 13",
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
)
HEALTH = request("GET", "/health")


@pytest.mark.parametrize("upgrade", [H2C, ("Connection: keep-alive, Upgrade", "Upgrade: TLS/1.2, IRC/6.9")])
async def test_an_upgrade_is_ignored_and_its_body_read_in_every_dialect(
    start: Start, connect: Connect, upgrade: tuple[str, ...]
) -> None:
    async with start(live=True) as quern:
        client = await connect(quern)
        for path, body in BODIES.items():
            await client.send(post(path, *upgrade, body=body))
            answer = await client.answer()
            assert answer.status == 200, answer.body
            assert "upgrade" not in answer.headers


@pytest.mark.parametrize("size", [1, 7, 10_000])
async def test_an_upgrade_may_come_in_any_pieces_and_its_body_in_chunks(
    start: Start, connect: Connect, size: int
) -> None:
    head = request("POST", CHAT, "Content-Type: application/json", "Transfer-Encoding: chunked", *H2C, length=-1)
    sent = head + chunked(HELLO, 20) + HEALTH
    async with start(live=True) as quern:
        client = await connect(quern)
        for start_at in range(0, len(sent), size):
            await client.send(sent[start_at : start_at + size])
            await asyncio.sleep(0)
        answer = await client.answer()
        assert answer.status == 200, answer.body
        assert answer.json()["choices"][0]["message"]["content"] == "user\nhello\nassistant\n"
        assert (await client.answer()).status == 200


async def test_an_upgrade_without_a_body_is_a_plain_request(start: Start, connect: Connect) -> None:
    async with start(live=True) as quern:
        client = await connect(quern)
        for _ in range(3):
            await client.send(request("GET", "/v1/models", *H2C))
            answer = await client.answer()
            assert answer.status == 200
            assert answer.json()["data"]


async def test_a_websocket_is_a_426_that_says_what_to_do_in_the_dialects_style(start: Start, connect: Connect) -> None:
    async with start(live=True) as quern:
        for path in ("/v1/responses", "/v1/messages", "/v1/realtime?model=x", "/", "/v1/code/generate"):
            client = await connect(quern)
            await client.send(request("GET", path, *WEBSOCKET))
            answer = await client.answer()
            assert answer.status == 426
            assert answer.headers["upgrade"] == "HTTP/1.1"
            assert "plain HTTP" in answer.body.decode()
            assert ("type" in answer.json()) == (path == "/v1/messages")
            assert ("detail" in answer.json()) == (path in {"/", "/v1/code/generate"})
            assert await client.closed() == b""


async def test_a_websockets_headers_on_a_post_change_nothing(start: Start, connect: Connect) -> None:
    async with start(live=True) as quern:
        client = await connect(quern)
        await client.send(post(CHAT, *WEBSOCKET, body=HELLO))
        assert (await client.answer()).status == 200


async def test_http_1_0_gets_streams_without_chunks_that_end_with_the_connection(
    start: Start, connect: Connect
) -> None:
    async with start(live=True) as quern:
        for path, body in STREAMS.items():
            client = await connect(quern)
            await client.send(post(path, "Connection: keep-alive", body=body, version="1.0"))
            answer = await client.answer()
            assert answer.status == 200, answer.body
            assert "transfer-encoding" not in answer.headers
            assert answer.headers["connection"] == "close"
            assert answer.whole
            assert answer.body.startswith((b"data: ", b"event: "))
            modern = await connect(quern)
            await modern.send(post(path, body=body))
            assert (await modern.answer()).body.count(b"\n\n") == answer.body.count(b"\n\n")


async def test_http_1_0_keeps_a_connection_only_where_it_is_asked_to(start: Start, connect: Connect) -> None:
    async with start(live=True) as quern:
        client = await connect(quern)
        for _ in range(2):
            await client.send(post(CHAT, "Connection: keep-alive", body=HELLO, version="1.0"))
            answer = await client.answer()
            assert answer.status == 200
            assert answer.headers["connection"] == "keep-alive"
        await client.send(request("GET", "/health", version="1.0"))
        answer = await client.answer()
        assert answer.headers["connection"] == "close"
        assert await client.closed() == b""


async def test_an_answer_that_breaks_off_never_looks_whole_to_http_1_0(start: Start, connect: Connect) -> None:
    engine = FakeEngine(reply=lambda _: b"x" * 50, fail_after=10, token_delay=0.01)
    async with start(engine, live=True) as quern:
        for version in ("1.0", "1.1"):
            client = await connect(quern)
            form = request("POST", "/v1/code/chat_stream", "Content-Type: application/x-www-form-urlencoded")
            head = form.split(b"\r\nContent-Length")[0].replace(b"HTTP/1.1", b"HTTP/" + version.encode())
            await client.send(head + b"\r\nContent-Length: 8\r\n\r\nprompt=a")
            if version == "1.0":
                answer = await client.answer()
                assert answer.status == 200
                assert not answer.whole
            else:
                with pytest.raises(asyncio.IncompleteReadError):
                    await client.answer()


async def test_http_1_0_is_never_told_to_continue(start: Start, connect: Connect) -> None:
    async with start(live=True) as quern:
        client = await connect(quern)
        await client.send(post(CHAT, "Expect: 100-continue", body=HELLO, version="1.0"))
        assert (await client.answer()).status == 200


async def test_pipelined_requests_are_answered_in_order(start: Start, connect: Connect) -> None:
    async with start(live=True) as quern:
        client = await connect(quern)
        bodies = [json.dumps({"messages": [{"role": "user", "content": f"number {n}"}]}).encode() for n in range(5)]
        await client.send(b"".join(post(CHAT, *H2C[: 3 * (n % 2)], body=body) for n, body in enumerate(bodies)))
        for number in range(5):
            answer = await client.answer()
            assert f"number {number}" in answer.json()["choices"][0]["message"]["content"]


async def test_what_follows_a_request_and_is_no_http_is_refused_after_its_answer(
    start: Start, connect: Connect
) -> None:
    engine = FakeEngine(reply=lambda _: b"x" * 10, token_delay=0.02)
    async with start(engine, live=True) as quern:
        client = await connect(quern)
        await client.send(post(CHAT, body=STREAM) + post(CHAT, body=HELLO) + b"NONSENSE\r\n\r\n")
        answer = await client.answer()
        assert answer.body.endswith(b"data: [DONE]\n\n")
        assert (await client.answer()).status == 200
        assert (await client.answer()).status == 400
        assert await client.closed() == b""


async def test_a_broken_body_behind_a_request_is_refused_after_its_answer(start: Start, connect: Connect) -> None:
    async with start(FakeEngine(reply=lambda _: b"x" * 10, token_delay=0.02), live=True) as quern:
        client = await connect(quern)
        broken = request("POST", CHAT, "Transfer-Encoding: chunked", length=-1) + b"zz\r\n"
        await client.send(post(CHAT, body=STREAM) + broken)
        assert (await client.answer()).body.endswith(b"data: [DONE]\n\n")
        assert (await client.answer()).status == 400
        assert await client.closed() == b""
        assert len(quern.engine.requests) == 1


async def test_requests_without_end_ahead_of_the_first_answer_are_bounded(start: Start, connect: Connect) -> None:
    async with start(FakeEngine(reply=lambda _: b"x" * 10, token_delay=0.02), live=True) as quern:
        client = await connect(quern)
        await client.send(post(CHAT, body=STREAM) + HEALTH * 500)
        assert (await client.answer()).body.endswith(b"data: [DONE]\n\n")
        statuses = [(await client.answer()).status for _ in range(65)]
        assert statuses == [200] * 64 + [503]
        assert await client.closed() == b""


async def test_a_client_that_goes_with_requests_ahead_stops_the_turn_under_way(start: Start, connect: Connect) -> None:
    async with start(FakeEngine(reply=lambda _: b"x" * 10_000, token_delay=0.01), live=True) as quern:
        client = await connect(quern)
        await client.send(post(CHAT, "X-Quern-On-Disconnect: cancel", body=STREAM) + HEALTH)
        await client.reader.readuntil(b"data: ")
        client.writer.transport.abort()
        async with asyncio.timeout(10):
            while quern.engine.stats().running:
                await asyncio.sleep(0.01)


HOST = b"Host: a\r\n"
MALFORMED = {
    "no request line": b"hello there\r\n\r\n",
    "no method": b"\x00\x01\x02\x03\r\n\r\n",
    "unknown method": b"BREW / HTTP/1.1\r\n" + HOST + b"\r\n",
    "blank in the target": b"GET /a b HTTP/1.1\r\n" + HOST + b"\r\n",
    "raw bytes in the target": b"GET /\xff\xfe HTTP/1.1\r\n" + HOST + b"\r\n",
    "no version's number": b"GET / HTTP\r\n" + HOST + b"\r\n",
    "half a version": b"GET / HTTP/1\r\n" + HOST + b"\r\n",
    "another protocol": b"GET / FTP/1.1\r\n" + HOST + b"\r\n",
    "a tab for a blank": b"GET\t/\tHTTP/1.1\r\n" + HOST + b"\r\n",
    "no slash": b"GET health HTTP/1.1\r\n" + HOST + b"\r\n",
    "a target without a host": b"GET http:///health HTTP/1.1\r\n" + HOST + b"\r\n",
    "a target's port": b"GET http://a:99999/health HTTP/1.1\r\n" + HOST + b"\r\n",
    "nul in a header": b"GET / HTTP/1.1\r\n" + HOST + b"X: a\x00b\r\n\r\n",
    "no name": b"GET / HTTP/1.1\r\n" + HOST + b": b\r\n\r\n",
    "blank in a name": b"GET / HTTP/1.1\r\n" + HOST + b"A b: c\r\n\r\n",
    "blank before the colon": b"POST / HTTP/1.1\r\n" + HOST + b"Content-Length : 3\r\n\r\nabc",
    "folded": b"GET / HTTP/1.1\r\n" + HOST + b"A: b\r\n c\r\n\r\n",
    "bare line feed": b"GET / HTTP/1.1\r\n" + HOST + b"A: b\nC: d\r\n\r\n",
    "two lengths": b"POST / HTTP/1.1\r\n" + HOST + b"Content-Length: 3\r\nContent-Length: 4\r\n\r\nabcd",
    "a list of lengths": b"POST / HTTP/1.1\r\n" + HOST + b"Content-Length: 3, 3\r\n\r\nabc",
    "negative length": b"POST / HTTP/1.1\r\n" + HOST + b"Content-Length: -3\r\n\r\nabc",
    "endless length": b"POST / HTTP/1.1\r\n" + HOST + b"Content-Length: 99999999999999999999999\r\n\r\nabc",
    "length and chunks": b"POST / HTTP/1.1\r\n"
    + HOST
    + b"Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "chunks and length": b"POST / HTTP/1.1\r\n"
    + HOST
    + b"Transfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n0\r\n\r\n",
    "length and another coding": b"POST / HTTP/1.1\r\n"
    + HOST
    + b"Content-Length: 3\r\nTransfer-Encoding: identity\r\n\r\nabc",
    "another coding and length": b"POST / HTTP/1.1\r\n"
    + HOST
    + b"Transfer-Encoding: gzip\r\nContent-Length: 3\r\n\r\nabc",
    "length and chunks with an upgrade": b"POST / HTTP/1.1\r\n"
    + HOST
    + b"Connection: Upgrade\r\nUpgrade: h2c\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "chunks twice": b"POST / HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n",
    "something after chunks": b"POST / HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked, gzip\r\n\r\n0\r\n\r\n",
    "no coding": b"POST / HTTP/1.1\r\n" + HOST + b"Transfer-Encoding:\r\n\r\n0\r\n\r\n",
    "chunks in HTTP/1.0": b"POST / HTTP/1.0\r\n" + HOST + b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "a coding in HTTP/1.0": b"POST / HTTP/1.0\r\n" + HOST + b"Transfer-Encoding: gzip\r\n\r\nabc",
    "no host": b"GET /health HTTP/1.1\r\n\r\n",
    "no host but in the target": b"GET http://localhost/health HTTP/1.1\r\n\r\n",
    "an empty host": b"GET /health HTTP/1.1\r\nHost: \r\n\r\n",
    "two hosts": b"GET /health HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
    "a host twice": b"GET /health HTTP/1.1\r\nHost: localhost\r\nA: b\r\nHost: localhost\r\n\r\n",
    "two hosts and an upgrade": b"GET /health HTTP/1.1\r\nHost: localhost\r\nHost: evil.example\r\n"
    b"Connection: Upgrade\r\nUpgrade: h2c\r\n\r\n",
    "two hosts in HTTP/1.0": b"GET /health HTTP/1.0\r\nHost: a\r\nHost: b\r\n\r\n",
    "no chunk size": b"POST /v1/chat/completions HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n",
    "chunk without end": b"POST /v1/chat/completions HTTP/1.1\r\n"
    + HOST
    + b"Transfer-Encoding: chunked\r\n\r\n2\r\nabcd\r\n",
}


async def test_what_is_no_http_is_a_400_with_a_sentence_and_the_end_of_the_connection(
    start: Start, connect: Connect
) -> None:
    async with start(live=True) as quern:
        for name, sent in MALFORMED.items():
            client = await connect(quern)
            await client.send(sent + HEALTH)
            assert "not valid HTTP" in await _refused(client, 400), name
        assert not quern.engine.requests


async def _refused(client: RawClient, status: int) -> str:
    answer = await client.answer()
    assert answer.status == status, answer.body
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["connection"] == "close"
    assert await client.closed() == b"", "nothing that follows is answered"
    return answer.sentence()


NOT_SPOKEN = {
    "TLS": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400, "http://"),
    "HTTP/2": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x12\x04", 400, "HTTP/1.1"),
    "version 2": (b"GET /health HTTP/2.0\r\n" + HOST + b"\r\n", 505, "HTTP/2.0 is not spoken"),
    "version 1.7": (b"GET /health HTTP/1.7\r\n" + HOST + b"\r\n", 505, "HTTP/1.7 is not spoken"),
    "version 9.9 with chunks": (b"GET / HTTP/9.9\r\nTransfer-Encoding: gzip\r\n\r\n", 505, "HTTP/9.9 is not spoken"),
    "version 0.9, as it is": (b"GET /health\r\n", 505, "HTTP/0.9 is not spoken"),
    "version 0.9, with headers": (b"GET /health HTTP/0.9\r\n" + HOST + b"\r\n", 505, "HTTP/0.9 is not spoken"),
    "CONNECT": (b"CONNECT example.org:443 HTTP/1.1\r\nHost: example.org\r\n\r\n", 405, "no proxy"),
} | {
    f"coding {coding}": (
        b"POST / HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: " + coding.encode() + b"\r\n\r\n0\r\n\r\n",
        501,
        "Content-Encoding",
    )
    for coding in (
        *("gzip", "gzip, chunked", "identity", "identity, chunked", "xchunked", "chunked;q=1", '"chunked"', ",chunked"),
        *("trailers", "identity\r\nTransfer-Encoding: chunked"),
    )
}


@pytest.mark.parametrize(("sent", "status", "sentence"), NOT_SPOKEN.values(), ids=NOT_SPOKEN)
async def test_what_is_known_but_not_spoken_is_named(
    start: Start, connect: Connect, sent: bytes, status: int, sentence: str
) -> None:
    async with start(live=True) as quern:
        client = await connect(quern)
        await client.send(sent)
        assert sentence in await _refused(client, status)


@pytest.mark.parametrize("coding", ["chunked", "Chunked", "\tCHUNKED", " chunked  "])
async def test_chunks_may_be_named_in_any_case_with_blanks_around_them(
    start: Start, connect: Connect, coding: str
) -> None:
    async with start(live=True) as quern:
        client = await connect(quern)
        await client.send(request("POST", CHAT, f"Transfer-Encoding:{coding}", length=-1) + chunked(HELLO) + HEALTH)
        assert (await client.answer()).status == 200
        assert (await client.answer()).json() == {"status": "ok"}


@pytest.mark.parametrize(
    "pieces", [[b"GET /health\r\n"], [b"GET /heal", b"th", b"\n"], [b"\r\n", b"GET /health\r", b"\n"]]
)
async def test_a_request_of_http_0_9_is_refused_at_once_however_it_comes(
    start: Start, connect: Connect, pieces: list[bytes]
) -> None:
    async with start(live=True, server={"header_seconds": 3600}) as quern:
        client = await connect(quern)
        for piece in pieces:
            await client.send(piece)
            await asyncio.sleep(0.01)
        assert "HTTP/0.9" in await _refused(client, 505)


async def test_http_1_0_needs_no_host(start: Start, connect: Connect) -> None:
    async with start(live=True) as quern:
        for host in (b"", b"Host:\r\n", b"Host: localhost\r\n"):
            client = await connect(quern)
            await client.send(b"GET /health HTTP/1.0\r\n" + host + b"\r\n")
            assert (await client.answer()).status == 200


SERVED_AS = {
    "http://localhost": 200,
    "http://127.0.0.1:8001": 200,
    "HTTP://LocalHost": 200,
    "https://[::1]:443": 200,
    "http://evil.example": 403,
    "http://evil.example:80": 403,
    "http://localhost@evil.example": 403,
    "http://evil.example@localhost": 403,
    "http://a:b@localhost": 403,
    "http://localhost.evil.example": 403,
    "ws://evil.example": 403,
}


@pytest.mark.parametrize("version", ["1.1", "1.0"])
@pytest.mark.parametrize("upgrade", [(), H2C], ids=["plain", "upgrade"])
async def test_the_host_in_a_target_counts_and_not_the_header(
    start: Start, connect: Connect, version: str, upgrade: tuple[str, ...]
) -> None:
    async with start(live=True) as quern:
        for base, status in SERVED_AS.items():
            for host in (b"127.0.0.1", b"evil.example"):
                sent = post(f"{base}{CHAT}", *upgrade, body=HELLO, version=version)
                client = await connect(quern)
                await client.send(sent.replace(b"Host: 127.0.0.1", b"Host: " + host))
                answer = await client.answer()
                assert answer.status == status, (base, host)
                if status == 403:
                    assert "server.hosts" in answer.sentence()
        assert len(quern.engine.requests) == 2 * list(SERVED_AS.values()).count(200)


async def test_a_page_is_the_servers_own_by_the_host_in_the_target(start: Start, connect: Connect) -> None:
    async with start(live=True) as quern:
        client = await connect(quern)
        for origin, status in (("http://localhost:8001", 200), ("http://127.0.0.1", 403)):
            await client.send(post(f"http://localhost:8001{CHAT}", f"Origin: {origin}", body=HELLO))
            assert (await client.answer()).status == status


async def test_targets_of_every_kind_get_an_answer_and_the_connection_goes_on(start: Start, connect: Connect) -> None:
    async with start(live=True) as quern:
        client = await connect(quern)
        for target in ("http://127.0.0.1/health", "/health?x=y", "/health#z", "/%68ealth"):
            await client.send(request("GET", target))
            assert (await client.answer()).status == 200
        for line in (b"OPTIONS * HTTP/1.1", b"GET http://a HTTP/1.1", b"GET //v1//models HTTP/1.1"):
            await client.send(line + b"\r\nHost: a\r\n\r\n")
            assert 400 <= (await client.answer()).status < 500


@pytest.mark.parametrize("size", [1, 3])
async def test_requests_may_come_in_any_pieces(start: Start, connect: Connect, size: int) -> None:
    async with start(live=True) as live:
        client = await connect(live)
        for sent in (post(CHAT, body=HELLO), b"\r\n" + HEALTH):
            for start_at in range(0, len(sent), size):
                await client.send(sent[start_at : start_at + size])
            assert (await client.answer()).status == 200
