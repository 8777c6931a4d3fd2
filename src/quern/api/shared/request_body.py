"""Bodies of requests: how large they may be, how they are packed, and what becomes of what a JSON body has in vain."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Coroutine, Sequence
from contextvars import ContextVar
from functools import partial
from hashlib import blake2b
from typing import Any

from fastapi.routing import APIRoute
from python_multipart.multipart import parse_options_header
from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from quern.api.shared.body_budget import SMALL, is_packed
from quern.api.shared.content_coding import CODINGS, Corrupt, UnknownCoding, UnpackedTooLarge, codings, unpack
from quern.api.shared.errors import ErrorKind, Failure, StyleOf, validation_error
from quern.api.shared.fields import ignored_fields
from quern.api.shared.headers import CONVERSATION_HEADER
from quern.api.shared.json_body import JsonRequest
from quern.api.shared.services import services_of
from quern.config import UnknownFields


class _Refused(Exception):
    """A body that isn't taken, as `failure` says, with `status` where that isn't the failure's own."""

    def __init__(self, failure: Failure, status: int | None = None, headers: dict[str, str] | None = None) -> None:
        super().__init__(failure.message)
        self.failure = failure
        self.status = status
        self.headers = headers


class BodyLimit:
    """Reads a body before the application runs: at most `limit` bytes, unpacked where it came packed.

    A larger one is a 413, announced (then nothing of it is read) or not, before or after it was unpacked. At `streamed`
    paths the route reads what comes as it is. Pure ASGI, so that streams pass untouched.
    """

    def __init__(self, app: ASGIApp, limit: int, style_of: StyleOf, streamed: Collection[str] = ()) -> None:
        self._app = app
        self._limit = limit
        self._streamed = streamed
        self._style_of = style_of

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = Headers(scope=scope) if scope["type"] == "http" else Headers()
        has_body = "content-length" in headers or "transfer-encoding" in headers
        if not has_body or (scope["path"] in self._streamed and not is_packed(headers)):
            await self._app(scope, receive, send)
            return
        try:
            names = _codings(headers)
            body = await self._read(headers, receive)
            if names:
                body = await asyncio.to_thread(self._unpack, body, names)
                scope["headers"] = _unpacked_headers(scope["headers"], len(body))
        except _Refused as refused:
            style = self._style_of(scope["path"])
            response = style.response(refused.failure, status=refused.status, headers=refused.headers)
            await response(scope, receive, send)
            return
        scope.setdefault("state", {})["body_digest"] = await self._digest(scope["path"], headers, body)
        await self._app(scope, _replayed(body, receive), send)

    @staticmethod
    async def _digest(path: str, headers: Headers, body: bytes) -> bytes:
        """What tells whether the same is asked again, in the same conversation."""
        where = "\n".join([path, *headers.getlist(CONVERSATION_HEADER)])
        boundary = _boundary(headers)
        if len(body) > SMALL:
            return await asyncio.to_thread(_digest, where, body, boundary)
        return _digest(where, body, boundary)

    async def _read(self, headers: Headers, receive: Receive) -> bytes:
        announced = headers.get("content-length", "")
        if announced.isdigit() and int(announced) > self._limit:
            raise self._too_large()
        pieces: list[bytes] = []
        size, more = 0, True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise ClientDisconnect
            pieces.append(message.get("body", b""))
            size += len(pieces[-1])
            if size > self._limit:
                raise self._too_large()
            more = message.get("more_body", False)
        return b"".join(pieces)

    def _unpack(self, body: bytes, names: Sequence[str]) -> bytes:
        for name in reversed(names):
            try:
                body = unpack(body, name, self._limit)
            except UnpackedTooLarge:
                raise self._too_large(" once it is unpacked") from None
            except Corrupt as error:
                message = f"The request body is not valid {name}, which Content-Encoding says it is: {error}."
                raise _Refused(Failure(ErrorKind.INVALID, message), 400) from error
        return body

    def _too_large(self, when: str = "") -> _Refused:
        message = (
            f"The request body is larger than {self._limit} bytes{when}, the limit set by server.max_request_bytes. "
            f"Send a shorter prompt."
        )
        return _Refused(Failure(ErrorKind.TOO_LARGE, message))


def _digest(where: str, body: bytes, boundary: bytes) -> bytes:
    if boundary:
        body = body.replace(boundary, b"")
    return blake2b(body, key=blake2b(where.encode()).digest(), digest_size=16).digest()


def _boundary(headers: Headers) -> bytes:
    """What stands between the parts of a form; clients draw a new one each time that they send the same."""
    return parse_options_header(headers.get("content-type", ""))[1].get(b"boundary", b"")


def _codings(headers: Headers) -> list[str]:
    try:
        return codings(",".join(headers.getlist("content-encoding")))
    except UnknownCoding as error:
        known = ", ".join(CODINGS)
        message = f"Content-Encoding {error} is not known here. Send the body as it is, or packed with one of {known}."
        raise _Refused(Failure(ErrorKind.INVALID, message), 415, {"accept-encoding": known}) from error


def _unpacked_headers(headers: Sequence[tuple[bytes, bytes]], size: int) -> list[tuple[bytes, bytes]]:
    """The headers that an unpacked body would have come with."""
    of_the_packed = {b"content-encoding", b"content-length", b"transfer-encoding"}
    return [header for header in headers if header[0] not in of_the_packed] + [(b"content-length", b"%d" % size)]


def _replayed(body: bytes, receive: Receive) -> Receive:
    """A `receive` that gives the body at once, and then what is still to come: the client's going."""
    left = [body]

    async def replay() -> Message:
        if left:
            return {"type": "http.request", "body": left.pop(), "more_body": False}
        return await receive()

    return replay


class JsonRoute(APIRoute):
    """A route whose JSON bodies hold whole characters only, and where what a body has in vain is named or refused."""

    def __init__(self, path: str, endpoint: Callable[..., Any], **options: Any) -> None:
        super().__init__(path, endpoint, **options)
        self.dependant.call = _ignoring(endpoint)

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """FastAPI's own handler, for such requests."""
        handler = super().get_route_handler()

        async def handle(request: Request) -> Response:
            _request.set(request)
            read = JsonRequest(request.scope, request.receive)
            if self.body_field is not None:
                validate = partial(self.body_field.validate, values={}, loc=("body",))
                await read.prepare(validate, services_of(request).bodies)
            return await handler(read)

        return handle


_request: ContextVar[Request] = ContextVar("request")


def _ignoring(endpoint: Callable[..., Any]) -> Callable[..., Any]:
    """The endpoint after a look at its body: what is ignored in it is noted with the request, or refused.

    Raises RequestValidationError.
    """

    async def checked(**values: Any) -> Any:
        ignored = [field for value in values.values() for field in ignored_fields(value)]
        if ignored:
            request = _request.get()
            if services_of(request).unknown_fields is UnknownFields.REFUSE:
                raise validation_error(("body", *ignored[0].split(".")), "extra_forbidden", "", None)
            request.state.ignored_fields = ignored
        return await endpoint(**values)

    return checked
