"""What answers at a path whatever the method, and what helps where nothing does.

Like any server: `HEAD` where there is a `GET`, `OPTIONS` everywhere, a 405 that names all methods of the path, slashes
too many taken for what is meant. A redirect would lose a POST's body with many clients, so there are none.
"""

from __future__ import annotations

import difflib
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
LIKENESS = 0.6
"""Of a path to a route's, from 0 to 1, for it to be named."""
NEARLY_THE_SAME = 0.95


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

    def nearest(self, path: str) -> tuple[str, str] | None:
        """The method and path of the documented route that was probably meant; None where none is like it."""
        # The longest first, so that of two that end alike the one that has more of the path is named.
        known_routes = sorted(
            (route for route in self._routes if isinstance(route, Route) and route.include_in_schema),
            key=lambda it: -len(it.path),
        )
        routes = {route.path_format: "/".join(sorted(route.methods or ())) for route in known_routes}
        if slip := difflib.get_close_matches(path[:LONGEST_QUOTED], routes, n=1, cutoff=NEARLY_THE_SAME):
            return routes[slip[0]], slip[0]
        wanted = [segment for segment in path.split("/") if segment]
        for known, methods in routes.items():
            # A wrong base URL: parts of the path are there twice, or missing, or somebody else's.
            own = known.strip("/").split("/")
            bare = own[1:] if own[0] == VERSION else own
            if wanted[-len(bare) :] == bare:
                return methods, known
        like = difflib.get_close_matches(path[:LONGEST_QUOTED], routes, n=1, cutoff=LIKENESS)
        return (routes[like[0]], like[0]) if like else None


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
        meant = f"You probably mean {nearest[0]} {nearest[1]}. " if nearest else ""
        base = _base_url(scope)
        failure = Failure(
            ErrorKind.NOT_FOUND,
            f"There is nothing at {path[:LONGEST_QUOTED]} here. {meant}The base URL is {base}/{VERSION} for OpenAI's "
            f"clients and {base} for Anthropic's; {base}/docs has all routes.",
        )
        return self._style_of(nearest[1] if nearest else path).response(failure)


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
