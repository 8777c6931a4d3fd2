"""What is refused before ASGI has a request: each a status, a code for the log and a sentence, as plain JSON.

Which dialect a caller speaks isn't known yet, so the JSON is the one that most clients can read.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from http import HTTPStatus

TLS_RECORD = b"\x16\x03"
HTTP2_PREFACE = b"PRI * HTTP/2"
LONGEST_QUOTED = 100


@dataclass(frozen=True, slots=True)
class Refusal:
    """`status`: of HTTP; `code`: for programs and the log; `reason`: what is wrong, and what to do, in sentences;
    `retry_after`: in seconds.
    """

    status: int
    code: str
    reason: str
    retry_after: int | None = None

    def response(self, default_headers: Sequence[tuple[bytes, bytes]]) -> bytes:
        """The whole answer; nothing follows it on its connection."""
        message = f"{self.reason} The connection is closed."
        kind = "invalid_request_error" if self.status < 500 else "server_error"
        error = {"message": message, "type": kind, "param": None, "code": self.code}
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
        begun = "This port speaks plain HTTP, and TLS was begun. Use a URL that begins with http://."
        return Refusal(400, "tls_on_plain_port", begun)
    if data.startswith(HTTP2_PREFACE):
        begun = "This port speaks HTTP/1.1, and HTTP/2 was begun. Let the client use HTTP/1.1."
        return Refusal(400, "http2_not_spoken", begun)
    return Refusal(400, "invalid_http", f"The request is not valid HTTP/1.1: {reason}.")


def wrong_version(version: str) -> Refusal:
    """A request of a version that isn't spoken here."""
    return Refusal(505, "http_version", f"HTTP/{version} is not spoken here. Use HTTP/1.1 or HTTP/1.0.")


NO_PROXY = Refusal(405, "no_proxy", "This server is no proxy: CONNECT is not for it.")


def transfer_coding(value: bytes) -> Refusal:
    """A body in a transfer coding other than `chunked`."""
    what = f"Transfer-Encoding: {value.decode('latin-1')[:LONGEST_QUOTED]} is not known here."
    advice = (
        "Send the body as it is, with Content-Length or Transfer-Encoding: chunked; it may be packed with "
        "Content-Encoding."
    )
    return Refusal(501, "transfer_encoding", f"{what} {advice}")


def url_too_long(limit: int) -> Refusal:
    """A request target over `server.max_header_bytes`."""
    what = f"The request's URL is longer than {limit} bytes, the limit set by server.max_header_bytes."
    return Refusal(414, "url_too_long", f"{what} Send what is long in the body.")


def headers_too_large(limit: int) -> Refusal:
    """Headers over `server.max_header_bytes`."""
    what = f"The request's headers are larger than {limit} bytes, the limit set by server.max_header_bytes."
    return Refusal(431, "headers_too_large", f"{what} Send fewer or shorter headers (cookies are often the cause).")


def too_many_headers(limit: int) -> Refusal:
    """Headers over `server.max_headers`."""
    what = f"The request has more than {limit} headers, the limit set by server.max_headers."
    return Refusal(431, "too_many_headers", f"{what} Send fewer.")


def headers_too_slow(seconds: float) -> Refusal:
    """Headers that took longer than `server.header_seconds`."""
    what = f"The request's headers were not complete after {seconds:g} seconds, the time set by server.header_seconds."
    return Refusal(408, "headers_too_slow", f"{what} Send the request again.")


def body_too_slow(seconds: float, bytes_per_second: int) -> Refusal:
    """A body that paused longer than `server.body_seconds`, or trickles."""
    what = (
        f"The request's body stopped: nothing came for {seconds:g} seconds (server.body_seconds), or less than "
        f"{bytes_per_second} bytes per second (server.min_body_rate)."
    )
    return Refusal(408, "body_too_slow", f"{what} Send the request again.")


def too_many_connections(limit: int) -> Refusal:
    """A connection over `server.max_connections`."""
    what = f"The server has {limit} connections already, the limit set by server.max_connections."
    return Refusal(503, "too_many_connections", f"{what} Try again later.", retry_after=1)


def too_many_of_address(limit: int) -> Refusal:
    """A connection over `server.max_connections_per_address`."""
    what = (
        f"Your address has {limit} connections to the server already, the limit set by "
        f"server.max_connections_per_address."
    )
    advice = "Close some, or try again later."
    return Refusal(503, "too_many_connections_of_address", f"{what} {advice}", retry_after=1)


NOT_THIS_USER = Refusal(403, "not_this_user", "The control socket is for the user who runs the server, and for root.")
"""A process of another user at the control socket, whose file's mode didn't keep it out."""

GAVE_WAY = Refusal(
    503,
    "gave_way",
    "The server has as many connections as it may, and this one had waited longest for its request.",
    retry_after=1,
)
"""A connection whose request wasn't complete when a newer one needed its place."""


def too_many_ahead(limit: int) -> Refusal:
    """More requests sent ahead of their answers than one connection may."""
    what = f"More than {limit} requests were sent ahead of their answers on one connection."
    return Refusal(503, "too_many_ahead", what, retry_after=1)
