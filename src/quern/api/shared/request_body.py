"""Bodies of requests: how large they may be, and what becomes of what a JSON body has in vain."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from contextvars import ContextVar
from functools import partial
from typing import Any

from fastapi.routing import APIRoute
from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from quern.api.shared.errors import ErrorKind, Failure, StyleOf, validation_error
from quern.api.shared.fields import ignored_fields
from quern.api.shared.json_body import JsonRequest
from quern.api.shared.services import services_of
from quern.config import UnknownFields


class RequestTooLarge(Exception):
    """A body went past the limit while it was read."""


class BodyLimit:
    """Answers 413 to a body larger than `limit` bytes, announced or not. Pure ASGI, so that streams pass untouched."""

    def __init__(self, app: ASGIApp, limit: int, style_of: StyleOf) -> None:
        self._app = app
        self._limit = limit
        self._style_of = style_of

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
        style = self._style_of(scope["path"])
        await style.response(Failure(ErrorKind.TOO_LARGE, message))(scope, receive, send)


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
