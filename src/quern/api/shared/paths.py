"""What answers at a path whatever the method, and what helps where nothing does.

Like any server: `HEAD` where there is a `GET`, `OPTIONS` everywhere, a 405 that names all methods of the path, slashes
too many taken for what is meant. A redirect would lose a POST's body with many clients, so there are none.
"""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Sequence

from starlette.datastructures import Headers
from starlette.responses import Response
from starlette.routing import BaseRoute, Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from quern.api.shared.errors import ErrorKind, Failure, StyleOf

SLASHES = re.compile("//+")
VERSION = "v1"
LONGEST_QUOTED = 100
LONGEST_COMPARED = 500
LIKENESS = 0.85
"""Of two segments of paths, for one to be taken for the other: twice the letters that they share, over all of them."""


def tidied(path: str) -> str:
    """The path without doubled slashes and without one at its end."""
    return SLASHES.sub("/", path).rstrip("/") or "/"


class TidyPaths:
    """Takes slashes out of a request's path that change nothing. Pure ASGI."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            scope = {**scope, "path": tidied(scope["path"])}
        await self._app(scope, receive, send)


class Paths:
    """What is known of an application's paths. `routes`: a list that may still grow."""

    def __init__(self, routes: Sequence[BaseRoute]) -> None:
        self._routes = routes

    def methods_of(self, path: str) -> frozenset[str]:
        """The methods that a path takes, `HEAD` and `OPTIONS` included; none where nothing is known there."""
        known = [route for route in self._routes if isinstance(route, Route) and route.path_regex.match(path)]
        methods = {method for route in known for method in route.methods or ()}
        if not methods:
            return frozenset()
        return frozenset({*methods, "OPTIONS", *(["HEAD"] if "GET" in methods else [])})

    def nearest(self, path: str) -> str | None:
        """The path of the route that was probably meant; None where none is near.

        A route is near where one segment is written a little differently, or where the path ends with all of the route,
        or all but its version (a wrong base URL: parts are there twice, or missing, or somebody else's), or both.
        """
        wanted = _segments(path[:LONGEST_COMPARED].lower())
        near: list[tuple[bool, int, float, int, str]] = []
        for known in {route.path_format for route in self._routes if isinstance(route, Route)}:
            own = _segments(known)
            end = own[1:] if own[:1] == [VERSION] else own
            if (slips := _slips(wanted, own)) <= 1:
                near.append((False, -len(own), slips, 0, known))
            elif end and (slips := _slips(wanted[-len(end) :], end)) <= 1:
                near.append((True, -len(end), slips, -len(own), known))
        return min(near)[-1] if near else None


def _segments(path: str) -> list[str]:
    return [segment for segment in path.split("/") if segment]


def _slips(given: Sequence[str], known: Sequence[str]) -> float:
    """How many segments are written a little differently; infinitely many where it is more than a little. Anything
    fits a parameter.
    """
    pairs = [(one, own) for one, own in zip(given, known, strict=False) if one != own and not own.startswith("{")]
    if len(given) != len(known) or not all(difflib.SequenceMatcher(None, *pair).ratio() >= LIKENESS for pair in pairs):
        return math.inf
    return len(pairs)


class AnyMethod:
    """Answers `HEAD`, `OPTIONS` and methods that a path does not take, and helps where a path is unknown. Pure ASGI."""

    def __init__(self, app: ASGIApp, paths: Paths, style_of: StyleOf) -> None:
        self._app = app
        self._paths = paths
        self._style_of = style_of

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        method, path = scope["method"], scope["path"]
        methods = self._paths.methods_of(path)
        allow = {"allow": ", ".join(sorted(methods))}
        if not methods:
            await self._unknown(scope)(scope, receive, send)
        elif method == "OPTIONS":
            await Response(status_code=204, headers=allow)(scope, receive, send)
        elif method not in methods:
            what = f"{path[:LONGEST_QUOTED]} can't be used with {method[:20]}. It takes {allow['allow']}."
            failure = Failure(ErrorKind.INVALID, what)
            await self._style_of(path).response(failure, headers=allow, status=405)(scope, receive, send)
        elif method == "HEAD":
            head = _Head(receive, send)
            await self._app({**scope, "method": "GET"}, head.receive, head.send)
        else:
            await self._app(scope, receive, send)

    def _unknown(self, scope: Scope) -> Response:
        path = scope["path"]
        nearest = self._paths.nearest(path)
        meant = f"You probably mean {self._usable(nearest, scope['method'])} {nearest}. " if nearest else ""
        base = _base_url(scope)
        failure = Failure(
            ErrorKind.NOT_FOUND,
            f"There is nothing at {path[:LONGEST_QUOTED]} here. {meant}The base URL is {base}/{VERSION} for OpenAI's "
            f"clients and {base} for Anthropic's; {base}/docs has all routes.",
        )
        return self._style_of(nearest or path).response(failure)

    def _usable(self, path: str, method: str) -> str:
        """The method that was used, or else those that the path takes."""
        methods = self._paths.methods_of(path)
        return method if method in methods else " or ".join(sorted(methods - {"HEAD", "OPTIONS"}))


def _base_url(scope: Scope) -> str:
    host = Headers(scope=scope).get("host")
    if not host:
        name, port = scope.get("server") or ("127.0.0.1", None)
        host = f"{name}:{port}" if port else name
    return f"{scope.get('scheme', 'http')}://{host}"


class _Head:
    """A GET's answer without its body. A stream's reader is told that the client has gone."""

    def __init__(self, receive: Receive, send: Send) -> None:
        self._receive = receive
        self._send = send
        self._answered = False

    async def receive(self) -> Message:
        return {"type": "http.disconnect"} if self._answered else await self._receive()

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            await self._send(message)
            await self._send({"type": "http.response.body", "body": b"", "more_body": False})
            self._answered = True
