"""Around every request: its id and its line in the log. Pure ASGI, so that streams pass untouched."""

from __future__ import annotations

import re
import time
import uuid
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import structlog
from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from quern.api.shared.dialect import Dialects
from quern.api.shared.errors import CLIENT_CLOSED_REQUEST, Failure, unexpected_failure
from quern.http_server.control_socket import LOCAL, is_local
from quern.turns.request import Caller

log = structlog.get_logger(__name__)

REQUEST_ID_HEADER = "x-request-id"
IGNORED_HEADER = "x-quern-ignored"
ENDED_HEADER = "x-quern-ended"
LONGEST_METHOD, LONGEST_PATH, LONGEST_AGENT = 20, 200, 80
NAME = re.compile(r"[A-Za-z0-9_$.\[\]\-]{1,120}")
"""Of fields; what else is taken for one may be the text of a prompt, where a body was sent in a wrong form."""

MOST_IGNORED = 20
LONGEST_FIELD = 80
NOT_IN_HEADERS = re.compile(r"[^ -+\--~]")
"""A comma stands between two names."""
WELL_FORMED_REQUEST_ID = re.compile(r"[A-Za-z0-9._:\-]{1,128}")


class CountRequest(Protocol):
    """Is told of a request that was answered."""

    def __call__(self, method: str, route: str | None, status: int, refusal: str | None, ignored: int) -> None:
        """`route`: its template; None where it reached none. `refusal`: the kind of error. `ignored`: how many fields
        of the request were left out.
        """
        ...


class Trace(Protocol):
    """The span of a request. `traceparent` names it to what the request begins."""

    traceparent: str

    def end(self, method: str, route: str | None, status: int) -> None:
        """It was answered."""
        ...


TURN_ID_HEADER = "x-quern-turn-id"
ADOPTED_HEADER = "x-quern-adopted"
"""The turn that was started for a request; several where several answers were asked for."""


class Traces(Protocol):
    """Begins spans of requests."""

    def begin(self, headers: Mapping[str, str]) -> Trace:
        """A request has come, with these headers."""
        ...


class RequestLog:
    """Takes a well-formed `x-request-id` or makes one, returns it, binds it to the log, logs and counts the request."""

    def __init__(self, app: ASGIApp, dialects: Dialects, count: CountRequest, traces: Traces | None = None) -> None:
        self._app = app
        self._dialects = dialects
        self._count = count
        self._traces = traces

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        given = Headers(scope=scope).get(REQUEST_ID_HEADER, "")
        request_id = given if WELL_FORMED_REQUEST_ID.fullmatch(given) else uuid.uuid4().hex
        scope.setdefault("state", {})["request_id"] = request_id
        quiet = scope["path"] in self._dialects.quiet_paths
        trace = self._traces.begin(Headers(scope=scope)) if self._traces is not None and not quiet else None
        if trace is not None:
            scope["state"]["traceparent"] = trace.traceparent
        style = self._dialects.style_of(scope["path"])
        started = time.monotonic()
        status = 0

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                headers.update(style.response_headers(request_id))
                headers.update(_own_headers(scope["state"]))
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
                level = log.debug if quiet else log.info
                level("request", **_line(scope, status, time.monotonic() - started))
                self._count(*_counted(scope, status))
                if trace is not None:
                    trace.end(scope["method"], _route(scope), status)


def _own_headers(state: Mapping[str, Any]) -> dict[str, str]:
    """What every answer says in Quern's own headers, where there is anything to say."""
    headers = {
        REQUEST_ID_HEADER: state["request_id"],
        IGNORED_HEADER: ignored_header(state.get("ignored_fields", ())),
        ENDED_HEADER: state.get("ended_for", ""),
    }
    caller: Caller | None = state.get("caller")
    if caller is not None:
        headers |= {TURN_ID_HEADER: ", ".join(caller.turn_ids), ADOPTED_HEADER: ", ".join(caller.adopted)}
    return {name: value for name, value in headers.items() if value}


def _counted(scope: Scope, status: int) -> tuple[str, str | None, int, str | None, int]:
    """What is counted of a request: nothing that a client can make up."""
    state = scope["state"]
    failure: Failure | None = state.get("failure")
    refusal = failure.kind.name.lower() if failure is not None and status >= 400 else None
    return scope["method"], _route(scope), status, refusal, len(state.get("ignored_fields", ()))


def _route(scope: Scope) -> str | None:
    """The template of the route that a request reached; None where it reached none."""
    return getattr(scope.get("route"), "path", None)


def _line(scope: Scope, status: int, seconds: float) -> dict[str, Any]:
    """What the log says of a request; of what a request is about it says nothing."""
    client: tuple[str, int] | None = scope.get("client")
    state = scope["state"]
    line: dict[str, Any] = {
        "method": printable(scope["method"], LONGEST_METHOD),
        "path": printable(scope["path"], LONGEST_PATH),
        "status": status,
        "took": readable_seconds(seconds),
        "client": client[0] if client else LOCAL if is_local(scope) else "-",
        "agent": printable(Headers(scope=scope).get("user-agent", "-"), LONGEST_AGENT),
    }
    failure: Failure | None = state.get("failure")
    if failure is not None and status >= 400:
        line["error"] = failure.kind.name.lower()
        if failure.field is not None:
            line["field"] = failure.field if NAME.fullmatch(failure.field) else "(no name)"
    if ignored := state.get("ignored_fields"):
        line["ignored"] = ignored_header(ignored)
    return line


def readable_seconds(seconds: float) -> str:
    """A duration as people read it: `83ms`, `1.24s`, `2m05s`."""
    if round(seconds * 1000) < 1000:
        return f"{seconds * 1000:.0f}ms"
    if seconds < 60:
        return f"{seconds:.2f}s"
    return f"{int(seconds) // 60}m{int(seconds) % 60:02}s"


def printable(text: str, most: int) -> str:
    """At most so many characters of a text, those that would move a terminal's cursor written out."""
    shown = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text[:most])
    return f"{shown}…" if len(text) > most else shown


def ignored_header(fields: Sequence[str]) -> str:
    """The names of what was ignored in a request, as a header holds them; empty where nothing was."""
    names = [NOT_IN_HEADERS.sub("?", field)[:LONGEST_FIELD] for field in fields[:MOST_IGNORED]]
    if len(fields) > MOST_IGNORED:
        names.append(f"and {len(fields) - MOST_IGNORED} more")
    return ", ".join(names)
