"""Around every request: its id and its line in the log. Pure ASGI, so that streams pass untouched."""

from __future__ import annotations

import re
import time
import uuid
from collections.abc import Sequence

import structlog
from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from quern.api.shared.dialect import Dialects
from quern.api.shared.errors import CLIENT_CLOSED_REQUEST, unexpected_failure

log = structlog.get_logger(__name__)

REQUEST_ID_HEADER = "x-request-id"
IGNORED_HEADER = "x-quern-ignored"
MOST_IGNORED = 20
LONGEST_FIELD = 80
NOT_IN_HEADERS = re.compile(r"[^ -+\--~]")
"""A comma stands between two names."""
WELL_FORMED_REQUEST_ID = re.compile(r"[A-Za-z0-9._:\-]{1,128}")


class RequestLog:
    """Takes a well-formed `x-request-id` or makes one, returns it, binds it to the log, and logs the request."""

    def __init__(self, app: ASGIApp, dialects: Dialects) -> None:
        self._app = app
        self._dialects = dialects

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        given = Headers(scope=scope).get(REQUEST_ID_HEADER, "")
        request_id = given if WELL_FORMED_REQUEST_ID.fullmatch(given) else uuid.uuid4().hex
        scope.setdefault("state", {})["request_id"] = request_id
        style = self._dialects.style_of(scope["path"])
        started = time.monotonic()
        status = 0

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                headers[REQUEST_ID_HEADER] = request_id
                headers.update(style.response_headers(request_id))
                if ignored := ignored_header(scope["state"].get("ignored_fields", ())):
                    headers[IGNORED_HEADER] = ignored
            await send(message)

        with structlog.contextvars.bound_contextvars(request_id=request_id):
            try:
                await self._app(scope, receive, send_with_id)
            except ClientDisconnect:
                status = CLIENT_CLOSED_REQUEST
            except Exception as error:
                if status == 0:
                    await style.response(unexpected_failure(error))(scope, receive, send_with_id)
                raise
            finally:
                level = log.debug if scope["path"] in self._dialects.quiet_paths else log.info
                milliseconds = round((time.monotonic() - started) * 1000)
                ignored = scope["state"].get("ignored_fields")
                more = {"ignored": ignored_header(ignored)} if ignored else {}
                level("request", method=scope["method"], path=scope["path"], status=status, ms=milliseconds, **more)


def ignored_header(fields: Sequence[str]) -> str:
    """The names of what was ignored in a request, as a header holds them; empty where nothing was."""
    names = [NOT_IN_HEADERS.sub("?", field)[:LONGEST_FIELD] for field in fields[:MOST_IGNORED]]
    if len(fields) > MOST_IGNORED:
        names.append(f"and {len(fields) - MOST_IGNORED} more")
    return ", ".join(names)
