"""A client that is nothing but a socket, and HTTP as bytes."""

from __future__ import annotations

import asyncio
import json
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Self
from urllib.parse import urlsplit

PATIENCE_SECONDS = 20
"""For what has to come; a test that waits so long has failed."""


@dataclass
class Answer:
    """A response: its status line, its headers by lower-case name, its body without the chunks' sizes."""

    version: str
    status: int
    headers: dict[str, str] = field(default_factory=dict[str, str])
    body: bytes = b""
    whole: bool = True

    def json(self) -> Any:
        return json.loads(self.body)

    def sentence(self) -> str:
        """The error's sentence in OpenAI's style."""
        return self.json()["error"]["message"]


class RawClient:
    """Bytes out, answers in."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    @classmethod
    async def connect(cls, url: str) -> Self:
        """A connection to a server's base URL."""
        address = urlsplit(url)
        return cls(*await asyncio.open_connection(address.hostname, address.port))

    async def send(self, *pieces: bytes) -> None:
        for piece in pieces:
            self.writer.write(piece)
        await self.writer.drain()

    async def answer(self, method: str = "POST") -> Answer:
        """The next response; for a request with `method`."""
        async with asyncio.timeout(PATIENCE_SECONDS):
            lines = (await self.reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
            version, status, *_ = lines[0].split(" ")
            pairs = [line.split(": ", 1) for line in lines[1:] if line]
            answer = Answer(version, int(status), {name.lower(): value for name, value in pairs})
            if answer.status != 100 and method != "HEAD":
                await self._read_body(answer)
        return answer

    async def _read_body(self, answer: Answer) -> None:
        if "content-length" in answer.headers:
            answer.body = await self.reader.readexactly(int(answer.headers["content-length"]))
        elif answer.headers.get("transfer-encoding") == "chunked":
            while size := int(await self.reader.readuntil(b"\r\n"), 16):
                answer.body += await self.reader.readexactly(size)
                assert await self.reader.readexactly(2) == b"\r\n"
            assert await self.reader.readexactly(2) == b"\r\n"
        else:
            try:
                while piece := await self.reader.read(65536):
                    answer.body += piece
            except ConnectionResetError:
                answer.whole = False

    async def closed(self) -> bytes:
        """Wait until the server closes; what came before that, nothing where it reset the connection."""
        async with asyncio.timeout(PATIENCE_SECONDS):
            try:
                return await self.reader.read()
            except ConnectionResetError:
                return b""

    async def close(self) -> None:
        """Close, whatever the server did before."""
        self.writer.close()
        with suppress(ConnectionError):
            await self.writer.wait_closed()


def request(
    method: str, path: str, *headers: str, body: bytes = b"", length: int | None = None, version: str = "1.1"
) -> bytes:
    """A request; `length`: its Content-Length where it isn't the body's own, -1 for none."""
    lines = [f"{method} {path} HTTP/{version}", "Host: 127.0.0.1", *headers]
    if method == "POST" and length != -1:
        lines.append(f"Content-Length: {len(body) if length is None else length}")
    return ("\r\n".join(lines) + "\r\n\r\n").encode() + body


def post(path: str, *headers: str, body: bytes, length: int | None = None, version: str = "1.1") -> bytes:
    """A POST of JSON."""
    return request("POST", path, "Content-Type: application/json", *headers, body=body, length=length, version=version)


def chunked(body: bytes, size: int = 65536) -> bytes:
    """The body in chunks, with the last one."""
    pieces = [body[start : start + size] for start in range(0, len(body), size)]
    return b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n\r\n"
