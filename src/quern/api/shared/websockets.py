"""Attempts to open a websocket, of which this server has none.

Codex tries `GET /v1/responses` first. Only a 426 tells it to use plain HTTP at once and for the rest of its session;
after anything else it tries again for some ten seconds (openai/codex, `core/src/client.rs`).
"""

from __future__ import annotations

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from quern.api.shared.errors import ErrorKind, Failure, StyleOf

UPGRADE_REQUIRED = 426
MESSAGE = (
    "This server speaks plain HTTP only, no websockets. Send the request as a POST, with stream=true for a stream."
)
HEADERS = {"upgrade": "HTTP/1.1", "connection": "upgrade, close"}
"""RFC 9110, 15.5.22: a 426 names the protocol that is required."""


class NoWebSockets:
    """Answers every attempt with 426, in the style of the path's dialect."""

    def __init__(self, app: ASGIApp, style_of: StyleOf) -> None:
        self._app = app
        self._style_of = style_of

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        app = self._app
        if scope["type"] == "http" and scope["method"] == "GET" and _asks_for_websocket(Headers(scope=scope)):
            style = self._style_of(scope["path"])
            app = style.response(Failure(ErrorKind.INVALID, MESSAGE), headers=HEADERS, status=UPGRADE_REQUIRED)
        await app(scope, receive, send)


def _asks_for_websocket(headers: Headers) -> bool:
    return (
        headers.get("upgrade", "").strip().lower() == "websocket" and "upgrade" in headers.get("connection", "").lower()
    )
