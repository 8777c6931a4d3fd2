"""Bodies that are too large, packed, or come only when they are asked for. Real sockets, every dialect."""

from __future__ import annotations

import asyncio
import gzip
import itertools
import json
import os
import zlib
from collections.abc import Callable
from typing import Any

import pytest
import zstandard

from .conftest import Connect, Start
from .raw_sockets import Answer, chunked, post, request

USER: list[Any] = [{"role": "user", "content": "hello"}]
BODIES: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {"messages": USER},
    "/v1/completions": {"prompt": "hello"},
    "/v1/responses": {"input": "hello"},
    "/v1/messages": {"messages": USER, "max_tokens": 50},
    "/infill": {"input_prefix": "a", "input_suffix": "b"},
    "/tokenize": {"content": "hello"},
}
FORMS = ["/v1/code/generate", "/v1/code/chat_stream"]
FORM = "Content-Type: application/x-www-form-urlencoded"
BOUNDARY = "b"
MULTIPART = f"Content-Type: multipart/form-data; boundary={BOUNDARY}"
LIMIT = 20_000


def raw_deflate(body: bytes) -> bytes:
    packer = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return packer.compress(body) + packer.flush()


def zstd_stream(body: bytes) -> bytes:
    """Without the size in its frame, as a stream is written."""
    packer = zstandard.ZstdCompressor(level=19).compressobj()
    return packer.compress(body) + packer.flush()


PACKED: dict[str, tuple[str, Callable[[bytes], bytes]]] = {
    "gzip": ("gzip", gzip.compress),
    "gzip in members": ("gzip", lambda body: gzip.compress(body[:9]) + gzip.compress(b"") + gzip.compress(body[9:])),
    "gzip with zeros behind": ("gzip", lambda body: gzip.compress(body) + b"\0" * 500),
    "gzip in members with zeros": (
        "gzip",
        lambda body: gzip.compress(body[:9]) + b"\0\0" + gzip.compress(body[9:]) + b"\0",
    ),
    "x-gzip": ("X-Gzip", gzip.compress),
    "deflate": ("deflate", zlib.compress),
    "raw deflate": ("deflate", raw_deflate),
    "zstd": ("zstd", zstandard.compress),
    "zstd as a stream": ("zstd", zstd_stream),
    "zstd in frames": ("zstd", lambda body: zstandard.compress(body[:9]) + zstd_stream(body[9:])),
    "identity": ("identity", bytes),
    "two": ("gzip, zstd", lambda body: zstandard.compress(gzip.compress(body))),
}


def sentence(answer: Answer) -> str:
    body = answer.json()
    return body["detail"] if "detail" in body else body["error"]["message"]


@pytest.mark.parametrize("name", PACKED)
async def test_packed_bodies_are_read_in_every_dialect(start: Start, connect: Connect, name: str) -> None:
    coding, pack = PACKED[name]
    async with start(live=True) as quern:
        client = await connect(quern)
        for path, fields in BODIES.items():
            await client.send(post(path, f"Content-Encoding: {coding}", body=pack(json.dumps(fields).encode())))
            answer = await client.answer()
            assert answer.status == 200, answer.body
        for path in FORMS:
            await client.send(request("POST", path, FORM, f"Content-Encoding: {coding}", body=pack(b"prompt=hello")))
            answer = await client.answer()
            assert answer.status == 200
            assert b"hello" in answer.body


@pytest.mark.parametrize("name", [name for name in PACKED if name != "identity"])
async def test_a_bomb_is_a_413_in_every_dialect(start: Start, connect: Connect, name: str) -> None:
    coding, pack = PACKED[name]
    body = pack(b" " * 10_000_000)
    async with start(live=True, server={"max_request_bytes": LIMIT}) as quern:
        client = await connect(quern)
        for path in [*BODIES, *FORMS]:
            await client.send(post(path, f"Content-Encoding: {coding}", body=body))
            answer = await client.answer()
            assert answer.status == 413
            assert "once it is unpacked" in sentence(answer)
            assert "server.max_request_bytes" in sentence(answer)


BROKEN = {
    "gzip, cut": ("gzip", gzip.compress(b"hello" * 100)[:-3]),
    "gzip, no end": ("gzip", gzip.compress(os.urandom(5000))[:1000]),
    "gzip, wrong sum": ("gzip", gzip.compress(b"hello")[:-8] + b"\0" * 8),
    "gzip, something behind": ("gzip", gzip.compress(b"hello") + b"more"),
    "gzip, something behind zeros": ("gzip", gzip.compress(b"hello") + b"\0\0\0more"),
    "gzip, a blank behind": ("gzip", gzip.compress(b"hello") + b"\n"),
    "gzip, nothing but zeros": ("gzip", b"\0" * 100),
    "gzip, zeros before": ("gzip", b"\0\0" + gzip.compress(b"hello")),
    "gzip, plain": ("gzip", b'{"prompt": "not packed at all"}'),
    "gzip, members without end": ("gzip", gzip.compress(b"") * 100),
    "deflate, cut": ("deflate", zlib.compress(b"hello" * 100)[:-5]),
    "deflate, plain": ("deflate", b'{"prompt": "not packed at all"}'),
    "deflate, zeros behind": ("deflate", zlib.compress(b"hello") + b"\0" * 8),
    "zstd, zeros behind": ("zstd", zstandard.compress(b"hello") + b"\0" * 8),
    "zstd, cut": ("zstd", zstandard.compress(os.urandom(5000))[:-5]),
    "zstd, plain": ("zstd", b'{"prompt": "not packed at all"}'),
    "zstd, something behind": ("zstd", zstandard.compress(b"hello") + b"more"),
    "zstd, frames without end": ("zstd", zstandard.compress(b"") * 100),
    "the wrong order": ("zstd, gzip", zstandard.compress(gzip.compress(b"hello"))),
}


async def test_packed_bodies_that_are_broken_are_a_400_that_says_so(start: Start, connect: Connect) -> None:
    async with start(live=True) as quern:
        client = await connect(quern)
        for path in ("/v1/chat/completions", "/v1/messages", "/v1/code/generate", "/infill"):
            for name, (coding, body) in BROKEN.items():
                await client.send(post(path, f"Content-Encoding: {coding}", body=body))
                answer = await client.answer()
                assert answer.status == 400, name
                assert "Content-Encoding" in sentence(answer)
                assert f"not valid {coding.rpartition(' ')[2]}" in sentence(answer), name


async def test_a_zstd_window_that_would_take_much_memory_is_refused(start: Start, connect: Connect) -> None:
    packer = zstandard.ZstdCompressor(
        compression_params=zstandard.ZstdCompressionParameters(window_log=27)
    ).compressobj()
    body = packer.compress(os.urandom(1000)) + packer.flush()
    async with start(live=True) as quern:
        client = await connect(quern)
        await client.send(post("/v1/chat/completions", "Content-Encoding: zstd", body=body))
        answer = await client.answer()
        assert answer.status == 400
        assert "memory" in sentence(answer)


async def test_another_coding_is_a_415_that_names_those_that_are_known(start: Start, connect: Connect) -> None:
    async with start(live=True) as quern:
        for path, coding in itertools.product([*BODIES, *FORMS], ("br", "compress", "gzip, br")):
            client = await connect(quern)
            await client.send(post(path, f"Content-Encoding: {coding}", body=b"whatever"))
            answer = await client.answer()
            assert answer.status == 415
            assert answer.headers["accept-encoding"] == "gzip, deflate, zstd"
            assert "gzip, deflate, zstd" in sentence(answer)


async def test_several_headers_name_several_codings(start: Start, connect: Connect) -> None:
    body = zstandard.compress(gzip.compress(json.dumps(BODIES["/v1/completions"]).encode()))
    async with start(live=True) as quern:
        client = await connect(quern)
        await client.send(post("/v1/completions", "Content-Encoding: gzip", "Content-Encoding: zstd", body=body))
        assert (await client.answer()).status == 200


@pytest.mark.parametrize("kind", ["json", "form", "multipart"])
async def test_a_body_in_chunks_over_the_limit_is_a_413(start: Start, connect: Connect, kind: str) -> None:
    part = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="prompt"\r\n\r\n'.encode()
    begin, content_type = {
        "json": (b'{"prompt": "', "Content-Type: application/json"),
        "form": (b"prompt=", FORM),
        "multipart": (part, MULTIPART),
    }[kind]
    async with start(live=True, server={"max_request_bytes": LIMIT}) as quern:
        for path in [*BODIES, *FORMS]:
            client = await connect(quern)
            head = request("POST", path, content_type, "Transfer-Encoding: chunked", length=-1)
            await client.send(head, chunked(begin + b"x" * 3_000_000))
            answer = await client.answer()
            assert answer.status == 413
            assert f"{LIMIT} bytes" in sentence(answer)
            assert answer.headers["connection"] == "close"
        assert not quern.engine.requests


async def test_an_announced_body_over_the_limit_is_refused_before_it_is_sent(start: Start, connect: Connect) -> None:
    async with start(live=True, server={"max_request_bytes": LIMIT}) as quern:
        for path, expectation in itertools.product([*BODIES, *FORMS], ("X-No: thing", "Expect: 100-continue")):
            client = await connect(quern)
            await client.send(post(path, expectation, body=b"", length=LIMIT + 1))
            assert (await client.answer()).status == 413
            assert await client.closed() == b""


async def test_a_body_of_exactly_the_limit_is_read(start: Start, connect: Connect) -> None:
    body = json.dumps(BODIES["/tokenize"]).encode().ljust(LIMIT)
    async with start(live=True, server={"max_request_bytes": LIMIT}) as quern:
        client = await connect(quern)
        await client.send(post("/tokenize", body=body))
        assert (await client.answer()).status == 200
        await client.send(post("/tokenize", "Content-Encoding: gzip", body=gzip.compress(body)))
        assert (await client.answer()).status == 200
        await client.send(post("/tokenize", "Content-Encoding: gzip", body=gzip.compress(body + b" ")))
        assert (await client.answer()).status == 413


async def test_who_waits_to_be_told_to_continue_is_told_so(start: Start, connect: Connect) -> None:
    async with start(live=True) as quern:
        client = await connect(quern)
        for path, fields in BODIES.items():
            body = json.dumps(fields).encode()
            await client.send(post(path, "Expect: 100-continue", body=b"", length=len(body)))
            assert (await client.answer()).status == 100
            await client.send(body)
            assert (await client.answer()).status == 200


async def test_a_client_that_sends_all_of_its_large_body_first_still_reads_the_413(start: Start) -> None:
    async with start(live=True, server={"max_request_bytes": LIMIT}) as quern:
        response = await quern.client.post("/v1/chat/completions", content=b"x" * 9_000_000)
        assert response.status_code == 413
        response = await quern.client.get("/health")
        assert response.status_code == 200


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/messages", "/v1/code/generate"])
@pytest.mark.parametrize("packed", [False, True])
async def test_a_large_body_waits_while_others_have_all_the_bytes_and_is_a_503_in_the_end(
    start: Start, connect: Connect, monkeypatch: pytest.MonkeyPatch, path: str, packed: bool
) -> None:
    monkeypatch.setattr("quern.api.shared.body_budget.MOST_WAIT_SECONDS", 0.05)
    body = json.dumps({"messages": USER, "metadata": {"x": "x" * 100_000}}).encode()
    coding = ("Content-Encoding: gzip",) if packed else ()
    async with start(live=True, server={"body_bytes": 100_000}) as quern:
        slow, other, again = await connect(quern), await connect(quern), await connect(quern)
        await slow.send(post("/v1/chat/completions", body=body[:90_000], length=len(body)))
        budget = quern.application.asgi.state.services.bodies
        while budget.left == budget.most:
            await asyncio.sleep(0.01)
        await other.send(post(path, *coding, body=gzip.compress(body) if packed else body))
        refused = await other.answer()
        assert refused.status == (529 if path == "/v1/messages" else 503)
        assert int(refused.headers["retry-after"]) > 0
        assert b"server.body_bytes" in refused.body
        await slow.send(body[90_000:])
        assert (await slow.answer()).status == 200
        await again.send(post("/v1/chat/completions", body=body))
        assert (await again.answer()).status == 200
