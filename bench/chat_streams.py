"""One streamed chat completion, as a client reads it that wants to know how it went."""

from __future__ import annotations

import asyncio
import json
import time
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import httpx2

BROKE_OFF = "it broke off"


class Refused(Exception):
    """The server did not take the request; the text is its answer."""


@dataclass(slots=True)
class Answer:
    """`first`: seconds to its first text, `seconds`: to its end; `error`: what its end said, empty if all was well."""

    tokens: int = 0
    first: float = 0.0
    seconds: float = 0.0
    text: str = ""
    error: str = BROKE_OFF

    @property
    def pace(self) -> float:
        """Tokens per second from the first on."""
        return (self.tokens - 1) / (self.seconds - self.first)

    def take(self, line: str, elapsed: float) -> None:
        """A line of the stream."""
        data = line.removeprefix("data: ")
        if data == "[DONE]":
            self.error = ""
        if not data.startswith("{"):
            return
        chunk: dict[str, Any] = json.loads(data)
        if "error" in chunk:
            self.error = chunk["error"]["message"]
        choices: list[dict[str, Any]] = chunk.get("choices") or []
        for piece in (choice["delta"].get("content") for choice in choices):
            if piece:
                self.first = self.first or elapsed
                self.text += piece
        if usage := chunk.get("usage"):
            self.tokens = usage["completion_tokens"]


async def stream_chat(
    http: httpx2.AsyncClient, prompt: str, *, began: asyncio.Event | None = None, **fields: Any
) -> Answer:
    """Ask and read to the end. `began` is set with the first text, or when it ends without any. Raises Refused."""
    body = {"messages": [{"role": "user", "content": prompt}], "stream": True, **fields}
    body["stream_options"] = {"include_usage": True}
    answer, began, started = Answer(), began or asyncio.Event(), time.monotonic()
    try:
        # A stream that failed is closed before its end; what it said before that is its error.
        with suppress(httpx2.RemoteProtocolError):
            async with http.stream("POST", "/v1/chat/completions", json=body) as response:
                if response.status_code != 200:
                    raise Refused(f"{response.status_code}: {(await response.aread()).decode(errors='replace')}")
                async for line in response.aiter_lines():
                    answer.take(line, time.monotonic() - started)
                    if answer.text:
                        began.set()
    finally:
        began.set()
    answer.seconds = time.monotonic() - started
    return answer
