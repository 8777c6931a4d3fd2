"""What is refused before ASGI has a request: each a status, a code for the log and a sentence, as plain JSON.

Which dialect a caller speaks isn't known yet, so the JSON is the one that most clients can read.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from http import HTTPStatus

CLOSED = "The connection is closed."
TLS_RECORD = b"\x16\x03"
HTTP2_PREFACE = b"PRI * HTTP/2"


@dataclass(frozen=True, slots=True)
class Refusal:
    """`status`: of HTTP; `code`: for programs and the log; `message`: a sentence; `retry_after`: in seconds."""

    status: int
    code: str
    message: str
    retry_after: int | None = None

    def response(self, default_headers: Sequence[tuple[bytes, bytes]]) -> bytes:
        """The whole answer; nothing follows it on its connection."""
        kind = "invalid_request_error" if self.status < 500 else "server_error"
        error = {"message": self.message, "type": kind, "param": None, "code": self.code}
        body = json.dumps({"error": error}, ensure_ascii=False).encode()
        headers = [
            *default_headers,
            (b"content-type", b"application/json"),
            (b"content-length", b"%d" % len(body)),
            (b"connection", b"close"),
        ]
        if self.retry_after is not None:
            headers.append((b"retry-after", b"%d" % self.retry_after))
        status_line = f"HTTP/1.1 {self.status} {HTTPStatus(self.status).phrase}\r\n".encode()
        return status_line + b"".join([b"%b: %b\r\n" % header for header in headers]) + b"\r\n" + body


def malformed(reason: str, data: bytes = b"") -> Refusal:
    """Bytes that are no HTTP/1.1. `reason`: what the parser says; `data`: what it was given."""
    if data.startswith(TLS_RECORD):
        message = f"This port speaks plain HTTP, and TLS was begun. Use a URL that begins with http://. {CLOSED}"
        return Refusal(400, "tls_on_plain_port", message)
    if data.startswith(HTTP2_PREFACE):
        message = f"This port speaks HTTP/1.1, and HTTP/2 was begun. Let the client use HTTP/1.1. {CLOSED}"
        return Refusal(400, "http2_not_spoken", message)
    return Refusal(400, "invalid_http", f"The request is not valid HTTP/1.1: {reason}. {CLOSED}")


def wrong_version(version: str) -> Refusal:
    """A request of a version that isn't spoken here."""
    return Refusal(505, "http_version", f"HTTP/{version} is not spoken here. Use HTTP/1.1 or HTTP/1.0. {CLOSED}")


def no_proxy() -> Refusal:
    """CONNECT."""
    return Refusal(405, "no_proxy", f"This server is no proxy: CONNECT is not for it. {CLOSED}")


def transfer_coding(value: bytes) -> Refusal:
    """A body in a transfer coding other than `chunked`."""
    given = value.decode("latin-1")[:100]
    message = (
        f"Transfer-Encoding: {given} is not known here. Send the body as it is, with Content-Length or "
        f"Transfer-Encoding: chunked; it may be packed with Content-Encoding. {CLOSED}"
    )
    return Refusal(501, "transfer_encoding", message)


def url_too_long(limit: int) -> Refusal:
    """A request target over `server.max_header_bytes`."""
    message = (
        f"The request's URL is longer than {limit} bytes, the limit set by server.max_header_bytes. Send what is long "
        f"in the body. {CLOSED}"
    )
    return Refusal(414, "url_too_long", message)


def headers_too_large(limit: int) -> Refusal:
    """Headers over `server.max_header_bytes`."""
    message = (
        f"The request's headers are larger than {limit} bytes, the limit set by server.max_header_bytes. Send fewer "
        f"or shorter headers (cookies are often the cause). {CLOSED}"
    )
    return Refusal(431, "headers_too_large", message)


def too_many_headers(limit: int) -> Refusal:
    """Headers over `server.max_headers`."""
    message = f"The request has more than {limit} headers, the limit set by server.max_headers. Send fewer. {CLOSED}"
    return Refusal(431, "too_many_headers", message)


def headers_too_slow(seconds: float) -> Refusal:
    """Headers that took longer than `server.header_seconds`."""
    message = (
        f"The request's headers were not complete after {seconds:g} seconds, the time set by server.header_seconds. "
        f"{CLOSED} Send the request again."
    )
    return Refusal(408, "headers_too_slow", message)


def body_too_slow(seconds: float, bytes_per_second: int) -> Refusal:
    """A body that paused longer than `server.body_seconds`, or trickles."""
    message = (
        f"The request's body stopped: nothing came for {seconds:g} seconds (server.body_seconds), or less than "
        f"{bytes_per_second} bytes per second (server.min_body_rate). {CLOSED} Send the request again."
    )
    return Refusal(408, "body_too_slow", message)


def too_many_connections(limit: int) -> Refusal:
    """A connection over `server.max_connections`."""
    message = (
        f"The server has {limit} connections already, the limit set by server.max_connections. Try again later. "
        f"{CLOSED}"
    )
    return Refusal(503, "too_many_connections", message, retry_after=1)


def too_many_of_address(limit: int) -> Refusal:
    """A connection over `server.max_connections_per_address`."""
    message = (
        f"Your address has {limit} connections to the server already, the limit set by "
        f"server.max_connections_per_address. Close some, or try again later. {CLOSED}"
    )
    return Refusal(503, "too_many_connections_of_address", message, retry_after=1)


def not_this_user() -> Refusal:
    """A process of another user at the control socket, whose file's mode didn't keep it out."""
    message = f"The control socket is for the user who runs the server, and for root. {CLOSED}"
    return Refusal(403, "not_this_user", message)


def gave_way() -> Refusal:
    """A connection whose request wasn't complete when a newer one needed its place."""
    message = f"The server has as many connections as it may, and this one had waited longest for its request. {CLOSED}"
    return Refusal(503, "gave_way", message, retry_after=1)


def too_many_ahead(limit: int) -> Refusal:
    """More requests sent ahead of their answers than one connection may."""
    message = f"More than {limit} requests were sent ahead of their answers on one connection. {CLOSED}"
    return Refusal(503, "too_many_ahead", message, retry_after=1)
