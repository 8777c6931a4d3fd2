"""Around every request: its id, its log line, its largest size. Pure ASGI, so that streams pass untouched."""

from __future__ import annotations

import re
import time
import uuid

import structlog
from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from quern.api.shared.errors import CLIENT_CLOSED_REQUEST, TOO_LARGE, Dialect, dialect_of, failure, internal_error

log = structlog.get_logger(__name__)

REQUEST_ID_HEADER = "x-request-id"
ANTHROPIC_REQUEST_ID_HEADER = "request-id"
"""Where Anthropic's clients look for the same id."""

WELL_FORMED_REQUEST_ID = re.compile(r"[A-Za-z0-9._:\-]{1,128}")


class RequestContext:
    """Takes a well-formed `x-request-id` or makes one, returns it, binds it to the log, and logs the request."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        given = Headers(scope=scope).get(REQUEST_ID_HEADER, "")
        request_id = given if WELL_FORMED_REQUEST_ID.fullmatch(given) else uuid.uuid4().hex
        scope.setdefault("state", {})["request_id"] = request_id
        started = time.monotonic()
        status = 0

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                headers[REQUEST_ID_HEADER] = request_id
                if dialect_of(scope["path"]) is Dialect.ANTHROPIC:
                    headers[ANTHROPIC_REQUEST_ID_HEADER] = request_id
            await send(message)

        with structlog.contextvars.bound_contextvars(request_id=request_id):
            try:
                await self._app(scope, receive, send_with_id)
            except ClientDisconnect:
                status = CLIENT_CLOSED_REQUEST
            except Exception as error:
                if status == 0:
                    await internal_error(scope["path"], error)(scope, receive, send_with_id)
                raise
            finally:
                level = log.debug if scope["path"] in {"/health", "/ready"} else log.info
                milliseconds = round((time.monotonic() - started) * 1000)
                level("request", method=scope["method"], path=scope["path"], status=status, ms=milliseconds)


class RequestTooLarge(Exception):
    """A body went past the limit while it was read."""


class BodyLimit:
    """Answers 413 to a body larger than `limit` bytes, announced or not."""

    def __init__(self, app: ASGIApp, limit: int) -> None:
        self._app = app
        self._limit = limit

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        announced = Headers(scope=scope).get("content-length", "")
        if announced.isdigit() and int(announced) > self._limit:
            await self._refuse(scope, receive, send)
            return
        received = 0

        async def receive_within_limit() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > self._limit:
                raise RequestTooLarge
            return message

        try:
            await self._app(scope, receive_within_limit, send)
        except RequestTooLarge:
            await self._refuse(scope, receive, send)

    async def _refuse(self, scope: Scope, receive: Receive, send: Send) -> None:
        message = (
            f"The request body is larger than {self._limit} bytes, the limit set by server.max_request_bytes. "
            f"Send a shorter prompt."
        )
        await failure(dialect_of(scope["path"]), TOO_LARGE, message)(scope, receive, send)
