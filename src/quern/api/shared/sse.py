"""Server-sent events. Source of the framing: the HTML standard, "Server-sent events"."""

from __future__ import annotations

import asyncio
import json
import re
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import ExitStack, aclosing
from typing import Any

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from quern.api.shared.disconnects import unless_disconnected
from quern.events import TurnEvent
from quern.turns.event_log import TurnLog
from quern.turns.turn import Turn

KEEP_ALIVE_SECONDS = 15.0
"""After so much silence (a long prompt is read) something is sent, so that nobody gives the connection up."""

DONE = b"data: [DONE]\n\n"
COMMENT = b": keep-alive\n\n"
"""What no client reads as an event."""


_encode = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode
LINE_ENDS = re.compile("[\x85\u2028\u2029]")


def to_json(value: Any) -> str:
    """A value as JSON text without blanks, on what is one line for everybody: where Unicode knows more ends of lines
    than the standard of event streams does, readers that split at those too would cut an event in two.
    """
    text = _encode(value)
    if text.isascii():
        return text
    return LINE_ENDS.sub(lambda end: f"\\u{ord(end[0]):04x}", text)


def frame(data: Mapping[str, Any], event: str | None = None) -> bytes:
    """One event, its data as JSON."""
    name = f"event: {event}\n" if event is not None else ""
    return f"{name}data: {to_json(data)}\n\n".encode()


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
                readers.enter_context(turn.attach(streamed=True))
            await unless_disconnected(receive, self._send_all(send))

    async def _send_all(self, send: Send) -> None:
        encoder = self._encoder
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        await _send_body(send, encoder.begin())
        silence, several = Silence(), len(self._logs) > 1
        read = merged(self._logs, silence.left) if several else self._logs[0].read(patience=silence.left)
        async with aclosing(read) as batches:
            async for batch in batches:
                index, events = (0, batch) if isinstance(batch, list) else batch
                body = b"".join([encoder.encode(index, event) for event in events]) if events else encoder.keep_alive()
                if body:
                    await _send_body(send, body)
                    silence.end()
                if encoder.broken_off:
                    break
            else:
                await _send_body(send, encoder.end())
        await send({"type": "http.response.body", "body": b"", "more_body": False})


class Silence:
    """How long nothing was sent. Events that write nothing, as a prompt's progress, don't end it."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self.end()

    def end(self) -> None:
        """Something was sent."""
        self._since = self._loop.time()

    def left(self) -> float:
        """For how many seconds nothing may be sent from now on."""
        return max(0.0, self._since + KEEP_ALIVE_SECONDS - self._loop.time())


async def _send_body(send: Send, body: bytes) -> None:
    if body:
        await send({"type": "http.response.body", "body": body, "more_body": True})


async def merged(logs: Sequence[TurnLog], patience: Callable[[], float]) -> AsyncGenerator[tuple[int, list[TurnEvent]]]:
    """Everything in these logs as it comes, with the index of its log, until all of them have ended.

    `patience` says before each wait for how many seconds nothing may come; after them comes an empty batch.
    """
    inbox: asyncio.Queue[tuple[int, list[TurnEvent]] | None] = asyncio.Queue()

    async def forward(index: int, log: TurnLog) -> None:
        async for batch in log.read():
            inbox.put_nowait((index, batch))
        inbox.put_nowait(None)

    loop = asyncio.get_running_loop()
    readers = [loop.create_task(forward(index, log)) for index, log in enumerate(logs)]
    try:
        left = len(readers)
        while left:
            try:
                async with asyncio.timeout(patience()):
                    batch = await inbox.get()
            except TimeoutError:
                yield 0, []
                continue
            if batch is None:
                left -= 1
            else:
                yield batch
    finally:
        for reader in readers:
            reader.cancel()
        await asyncio.gather(*readers, return_exceptions=True)
