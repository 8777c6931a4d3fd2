"""The server's HTTP: an ASGI application of three paths, behind one key.

`GET /health`, `GET /v1/models`, `POST /v1/completions`. A stream whose client closes is cancelled at once, whether
anything is written meanwhile or not.
"""

from __future__ import annotations

import asyncio
import hmac
import json
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from itertools import count
from typing import Any, Protocol

from .completion import Chunks, Completion, Event, Refused, read_completion

Scope = Mapping[str, Any]
Receive = Callable[[], Awaitable[Mapping[str, Any]]]
Send = Callable[[Mapping[str, Any]], Awaitable[None]]

LARGEST_BODY = 64 * 2**20
MODEL = "model"
"""The one model's name; requests may name any, or none."""


@dataclass(frozen=True, slots=True)
class Facts:
    """What is served. `context_length`: the most tokens of one sequence. `device`, `dtype`: for people."""

    context_length: int
    vocabulary_size: int
    device: str
    dtype: str


class Generator(Protocol):
    """What computes answers."""

    @property
    def facts(self) -> Facts: ...

    def check(self) -> str:
        """Why nothing can be computed any more, as a sentence; empty while it can."""
        ...

    def generate(self, completion: Completion) -> AsyncGenerator[Sequence[Event]]:
        """One answer's events, as they come together: none at first, once it is taken. Closing it cancels. Raises
        Refused before that.
        """
        ...


class Application:
    """The ASGI application. `key`: what every request has to show."""

    def __init__(self, generator: Generator, key: str) -> None:
        self._generator = generator
        self._authorization = f"Bearer {key}".encode()
        self._ids = count(1)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            return
        shown = dict(scope["headers"]).get(b"authorization", b"")
        route = (scope["method"], scope["path"])
        if not hmac.compare_digest(shown, self._authorization):
            await _answer(send, 401, _error(401, "The key is missing or wrong."))
        elif route == ("GET", "/health"):
            await self._health(send)
        elif route == ("GET", "/v1/models"):
            await _answer(send, 200, self._models())
        elif route == ("POST", "/v1/completions"):
            await self._complete(receive, send)
        else:
            await _answer(send, 404, _error(404, f"There is no {' '.join(route)} here."))

    async def _health(self, send: Send) -> None:
        broken = self._generator.check()
        await _answer(send, 503 if broken else 200, _error(503, broken) if broken else {"status": "ok"})

    def _models(self) -> Mapping[str, Any]:
        facts = self._generator.facts
        model = {
            "id": MODEL,
            "object": "model",
            "owned_by": "transformers",
            "max_model_len": facts.context_length,
            "vocabulary_size": facts.vocabulary_size,
            "device": facts.device,
            "dtype": facts.dtype,
        }
        return {"object": "list", "data": [model]}

    async def _complete(self, receive: Receive, send: Send) -> None:
        body = await _body(receive)
        if body is None:
            return
        facts = self._generator.facts
        try:
            completion = await asyncio.to_thread(
                read_completion, body, vocabulary_size=facts.vocabulary_size, context_length=facts.context_length
            )
            async with aclosing(self._generator.generate(completion)) as events:
                await self._stream(completion, events, receive, send)
        except Refused as refused:
            await _answer(send, 400, _error(400, str(refused)))

    async def _stream(
        self, completion: Completion, events: AsyncGenerator[Sequence[Event]], receive: Receive, send: Send
    ) -> None:
        """Send the events until they end or the client goes. A refusal comes before anything is sent."""
        chunks = Chunks(completion, f"cmpl-{next(self._ids)}", MODEL)

        async def write() -> None:
            began = False
            async for together in events:
                if not began:
                    await send(_start(200, b"text/event-stream"))
                    began = True
                if written := chunks.of(together):
                    await send({"type": "http.response.body", "body": written, "more_body": True})
            await send({"type": "http.response.body", "body": b""})

        writing, gone = asyncio.ensure_future(write()), asyncio.ensure_future(_disconnected(receive))
        try:
            await asyncio.wait([writing, gone], return_when=asyncio.FIRST_COMPLETED)
        finally:
            gone.cancel()
            writing.cancel()
            await asyncio.wait([writing, gone])
        if not writing.cancelled() and (error := writing.exception()) is not None:
            raise error


async def _body(receive: Receive) -> bytes | None:
    """A request's body; None where the client went away before its end."""
    parts: list[bytes] = []
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return None
        parts.append(message.get("body", b""))
        if not message.get("more_body"):
            return b"".join(parts)


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _answer(send: Send, status: int, value: Mapping[str, Any]) -> None:
    await send(_start(status, b"application/json"))
    await send({"type": "http.response.body", "body": json.dumps(value).encode()})


def _start(status: int, content_type: bytes) -> Mapping[str, Any]:
    return {"type": "http.response.start", "status": status, "headers": [(b"content-type", content_type)]}


def _error(status: int, message: str) -> Mapping[str, Any]:
    return {"error": {"message": message, "type": "BadRequestError" if status < 500 else "Unavailable", "code": status}}
