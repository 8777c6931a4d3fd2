"""One request and its response, as ASGI sees them: uvicorn's cycle, with another way to write the response.

What differs from uvicorn: HTTP/1.0 (a body without a known length ends with the connection, never in chunks; a
connection is kept where the client asked for it), and a response that comes before its request's body was read.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Callable, Iterable
from typing import Any

from uvicorn._types import ASGISendEvent, HTTPResponseBodyEvent, HTTPResponseStartEvent
from uvicorn.protocols.http.httptools_impl import HEADER_RE, HEADER_VALUE_RE, STATUS_LINE, RequestResponseCycle

RESET_ON_CLOSE = struct.pack("ii", 1, 0)
CLOSE_IN_ORDER = struct.pack("ii", 0, 0)


class RequestCycle(RequestResponseCycle):
    """`on_close`: called when the response is complete and the connection is not to be kept, with whether a part of
    the request's body was left unread.
    """

    def __init__(self, *, on_close: Callable[[bool], None], **uvicorns: Any) -> None:
        super().__init__(**uvicorns)
        self._on_close = on_close
        self._old = self.scope["http_version"] == "1.0"
        self._until_close = self._says_close = False
        if self._old:
            self.waiting_for_100_continue = False  # nothing that HTTP/1.0 knows

    async def send(self, message: ASGISendEvent) -> None:
        """ASGI's send."""
        if self.flow.write_paused and not self.disconnected:
            await self.flow.drain()
        if self.disconnected:
            return
        if message["type"] == "http.response.body" and self.response_started and not self.response_complete:
            self._send_body(message)
        elif message["type"] == "http.response.start" and not self.response_started:
            self._send_start(message)
        else:
            msg = f"The application sent {message['type']} at the wrong time."
            raise RuntimeError(msg)

    def _send_start(self, message: HTTPResponseStartEvent) -> None:
        self.response_started = True
        self.waiting_for_100_continue = False
        if self.more_body:
            self.keep_alive = False
        status = message["status"]
        content = self._headers([*self.default_headers, *message.get("headers", [])])
        content.insert(0, STATUS_LINE[status])
        if self.chunked_encoding is None and self.scope["method"] != "HEAD" and status not in {204, 304}:
            content.append(self._without_length())
        if not self.keep_alive and not self._says_close:
            content.append(b"connection: close\r\n")
        elif self.keep_alive and self._old:
            content.append(b"connection: keep-alive\r\n")
        content.append(b"\r\n")
        self.transport.write(b"".join(content))

    def _headers(self, headers: Iterable[tuple[bytes, bytes]]) -> list[bytes]:
        """The application's headers as lines; what they say about length and connection is taken to heart."""
        lines: list[bytes] = []
        for name, value in headers:
            if HEADER_RE.search(name) or HEADER_VALUE_RE.search(value):
                msg = "The application sent a header that HTTP can't carry."
                raise RuntimeError(msg)
            lower = name.lower()
            if lower == b"content-length" and self.chunked_encoding is None:
                self.chunked_encoding = False
                self.expected_content_length = int(value)
            elif lower == b"connection" and b"close" in value.lower():
                self.keep_alive = False
                self._says_close = True
            lines.append(b"%b: %b\r\n" % (lower, value))
        return lines

    def _without_length(self) -> bytes:
        """How a body ends whose length isn't known; returns the header for it."""
        if not self._old:
            self.chunked_encoding = True
            return b"transfer-encoding: chunked\r\n"
        self._until_close = True
        self.keep_alive = False
        self._linger(RESET_ON_CLOSE)  # an end in order would make whatever was sent so far look whole
        return b""

    def _linger(self, value: bytes) -> None:
        connection: socket.socket | None = self.transport.get_extra_info("socket")
        if connection is not None:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, value)

    def _send_body(self, message: HTTPResponseBodyEvent) -> None:
        body = message.get("body", b"")
        more = message.get("more_body", False)
        if self.chunked_encoding:
            if self.scope["method"] != "HEAD":
                last = b"" if more else b"0\r\n\r\n"
                self.transport.write(b"%x\r\n%b\r\n%b" % (len(body), body, last) if body else last)
        elif self.scope["method"] != "HEAD":
            self._send_counted(body, more=more)
        if more:
            return
        self.response_complete = True
        self.message_event.set()
        if not self.keep_alive:
            if self._until_close:
                self._linger(CLOSE_IN_ORDER)
            self._on_close(self.more_body)
        self.on_response()

    def _send_counted(self, body: bytes, *, more: bool) -> None:
        if not self._until_close:
            self.expected_content_length -= len(body)
            if self.expected_content_length < 0 or (not more and self.expected_content_length):
                msg = "The response's body is not as long as its Content-Length."
                raise RuntimeError(msg)
        self.transport.write(body)
