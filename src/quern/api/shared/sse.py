"""Server-sent events. Source of the framing: the HTML standard, "Server-sent events"."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, aclosing
from typing import Any

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from quern.api.shared.disconnects import unless_gone
from quern.api.shared.merging import merged
from quern.events import TurnEvent
from quern.turns.log import TurnLog
from quern.turns.turn import Turn

KEEP_ALIVE_SECONDS = 15.0
"""After so much silence (a long prompt is read) something is sent, so that nobody gives the connection up."""

DONE = b"data: [DONE]\n\n"
COMMENT = b": keep-alive\n\n"
"""What no client reads as an event."""


def frame(data: Mapping[str, Any], event: str | None = None) -> bytes:
    """One event, its data as JSON."""
    name = f"event: {event}\n" if event is not None else ""
    return f"{name}data: {json.dumps(data, ensure_ascii=False, separators=(',', ':'))}\n\n".encode()


class StreamEncoder(ABC):
    """A dialect's way to write turns as a stream: frames, joined, empty where there is nothing to write.

    `broken_off`: the stream is over although not all turns have ended; then nothing follows.
    """

    broken_off: bool = False

    def begin(self) -> bytes:
        """What comes before anything happens."""
        return b""

    @abstractmethod
    def encode(self, index: int, event: TurnEvent) -> bytes:
        """What an event of the turn with this index adds."""

    def keep_alive(self) -> bytes:
        """Something that adds nothing. Clients that count silence in events, not in bytes, want an event."""
        return COMMENT

    def end(self) -> bytes:
        """What comes after the last turn's end."""
        return b""


class EventStreamResponse(Response):
    """Streams the logs of one or more turns as they grow. `turns`: those that are told of their reader."""

    media_type = "text/event-stream"

    def __init__(self, encoder: StreamEncoder, logs: Sequence[TurnLog], turns: Sequence[Turn]) -> None:
        super().__init__()
        del self.headers["content-length"]
        self.headers["cache-control"] = "no-store"
        self.headers["x-accel-buffering"] = "no"
        self._encoder = encoder
        self._logs = logs
        self._turns = turns

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002 (ASGI)
        with ExitStack() as readers:
            for turn in self._turns:
                readers.enter_context(turn.attach())
            await unless_gone(receive, self._send_all(send))

    async def _send_all(self, send: Send) -> None:
        encoder = self._encoder
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        await _send_body(send, encoder.begin())
        async with aclosing(merged(self._logs, silence=KEEP_ALIVE_SECONDS)) as batches:
            async for index, batch in batches:
                body = b"".join([encoder.encode(index, event) for event in batch]) if batch else encoder.keep_alive()
                await _send_body(send, body)
                if encoder.broken_off:
                    break
            else:
                await _send_body(send, encoder.end())
        await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _send_body(send: Send, body: bytes) -> None:
    if body:
        await send({"type": "http.response.body", "body": body, "more_body": True})
