"""Server-sent events. Source of the framing: the HTML standard, "Server-sent events"."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import ExitStack, aclosing
from typing import Any

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from quern.api.shared.disconnects import unless_gone
from quern.turns.turn import Turn

KEEP_ALIVE_SECONDS = 15.0
"""After so much silence (a long prompt is read) something is sent, so that nobody gives the connection up."""

DONE = b"data: [DONE]\n\n"


def comment() -> bytes:
    """What no client reads as an event."""
    return b": keep-alive\n\n"


def frame(data: Mapping[str, Any], event: str | None = None) -> bytes:
    """One event, its data as JSON."""
    name = f"event: {event}\n" if event is not None else ""
    return f"{name}data: {json.dumps(data, ensure_ascii=False, separators=(',', ':'))}\n\n".encode()


class EventStreamResponse(Response):
    """Sends frames as they come. The response reads `turns` as long as it lasts, so that they know of their reader.

    What `keep_alive` gives is sent after each `KEEP_ALIVE_SECONDS` of silence. Clients that count silence in events,
    not in bytes, want an event of their dialect.
    """

    media_type = "text/event-stream"

    def __init__(
        self,
        frames: AsyncGenerator[bytes],
        turns: Sequence[Turn] = (),
        *,
        keep_alive: Callable[[], bytes] = comment,
    ) -> None:
        super().__init__()
        del self.headers["content-length"]
        self.headers["cache-control"] = "no-store"
        self.headers["x-accel-buffering"] = "no"
        self._frames = frames
        self._turns = turns
        self._keep_alive = keep_alive

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002 (ASGI)
        with ExitStack() as readers:
            for turn in self._turns:
                readers.enter_context(turn.reading())
            await unless_gone(receive, self._send_all(send))

    async def _send_all(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        async with aclosing(_with_keep_alive(self._frames, self._keep_alive)) as frames:
            async for body in frames:
                await send({"type": "http.response.body", "body": body, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _with_keep_alive(frames: AsyncGenerator[bytes], keep_alive: Callable[[], bytes]) -> AsyncGenerator[bytes]:
    loop = asyncio.get_running_loop()
    following = loop.create_task(anext(frames, None))
    try:
        while True:
            done, _ = await asyncio.wait([following], timeout=KEEP_ALIVE_SECONDS)
            if not done:
                yield keep_alive()
                continue
            body = following.result()
            if body is None:
                return
            yield body
            following = loop.create_task(anext(frames, None))
    finally:
        following.cancel()
        await asyncio.gather(following, return_exceptions=True)
        await frames.aclose()
