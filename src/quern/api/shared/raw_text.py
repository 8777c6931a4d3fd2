"""A turn's text as a raw HTTP body."""

from __future__ import annotations

from contextlib import aclosing

from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from quern.api.shared.disconnects import unless_disconnected
from quern.events import TextDelta
from quern.turns.event_log import TurnLog
from quern.turns.turn import Turn
from quern.types import TurnState


class AnswerAborted(Exception):
    """Raised through the HTTP server to close a connection in mid-answer; a clean end would look like a whole one."""


class TurnTextResponse(Response):
    """Streams a turn's text as it comes. `preamble` leaves first, whole, in a write of its own.

    A turn that does not complete closes the connection abnormally, without the last chunk.
    """

    def __init__(self, turn: Turn, *, media_type: str, preamble: str = "") -> None:
        super().__init__(media_type=media_type)
        del self.headers["content-length"]
        self.headers["cache-control"] = "no-store"
        self.headers["x-accel-buffering"] = "no"
        self._turn = turn
        self._preamble = preamble

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002 (ASGI)
        with self._turn.attach(streamed=True) as log:
            await unless_disconnected(receive, self._send_all(log, send))

    async def _send_all(self, log: TurnLog, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        if self._preamble:
            await send(_chunk(self._preamble))
        async with aclosing(log.read()) as batches:
            async for batch in batches:
                text = "".join([event.text for event in batch if isinstance(event, TextDelta)])
                if text:
                    await send(_chunk(text))
        if log.end is None or log.end.state is not TurnState.COMPLETED:
            raise AnswerAborted
        await send({"type": "http.response.body", "body": b"", "more_body": False})


def _chunk(text: str) -> Message:
    return {"type": "http.response.body", "body": text.encode(), "more_body": True}
