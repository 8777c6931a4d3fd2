"""Who asks: the key that a request came with, before anything of the request is read.

`Authorization: Bearer …` (OpenAI's, Ollama's and llama.cpp's clients) and `x-api-key: …` (Anthropic's) mean the same at
every path. Keys never stand in a URL, which logs and histories keep.

Source of the challenge: RFC 6750, section 3.
"""

from __future__ import annotations

from collections.abc import Callable

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from quern.access.keys import Keys
from quern.access.principal import ANONYMOUS, LOCAL, Principal
from quern.api.shared.errors import ErrorKind, Failure, StyleOf
from quern.errors import Unauthorized
from quern.http_server.control_socket import is_local

CHALLENGE = {"www-authenticate": 'Bearer realm="quern"'}
BEARER = "bearer"
BLANKS = " \t"
"""RFC 9110, 5.6.3: what may stand around a header's value, and nothing else may."""


class Authentication:
    """Settles a request's principal, or refuses it. Pure ASGI.

    `is_open`: whether a path shows nobody's data and needs no key. What comes through the control socket is marked
    `local` by the server that accepted it, and is the administrator's.
    """

    def __init__(self, app: ASGIApp, keys: Keys, is_open: Callable[[str], bool], style_of: StyleOf) -> None:
        self._app = app
        self._keys = keys
        self._is_open = is_open
        self._style_of = style_of

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        state = scope.setdefault("state", {})
        try:
            state["principal"] = self._principal(scope)
        except Unauthorized as error:
            failure = Failure(ErrorKind.UNAUTHORIZED, str(error))
            await self._style_of(scope["path"]).response(failure, headers=CHALLENGE)(scope, receive, send)
            return
        await self._app(scope, receive, send)

    def _principal(self, scope: Scope) -> Principal:
        if is_local(scope):
            return LOCAL
        try:
            return self._keys.authenticate(*presented_keys(Headers(scope=scope)))
        except Unauthorized:
            if self._is_open(scope["path"]):
                return ANONYMOUS
            raise


def presented_keys(headers: Headers) -> list[str]:
    """What a request has for keys, `Authorization` first."""
    keys: list[str] = []
    for value in headers.getlist("authorization"):
        scheme, _, credentials = value.strip(BLANKS).partition(" ")
        if scheme.lower() == BEARER:
            keys.append(credentials.strip(BLANKS))
    return [key for key in (*keys, *(value.strip(BLANKS) for value in headers.getlist("x-api-key"))) if key]
