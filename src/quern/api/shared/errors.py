"""The one table from the error tree to kinds of failure, and how a dialect turns those into HTTP.

| error | kind |
|---|---|
| a field that can't be used, InvalidRequest | INVALID |
| ContextExceeded | CONTEXT_EXCEEDED |
| Unauthorized | UNAUTHORIZED |
| a host that is not served, a page of a foreign origin, NotAllowed | FORBIDDEN |
| ConversationNotFound, ResponseNotFound, ItemNotFound, TurnNotFound, KeyNotFound, no such route | NOT_FOUND |
| ModelNotServed | MODEL_NOT_FOUND |
| ConversationBusy, TurnNotContinuable | CONFLICT |
| KeyReused | KEY_REUSED |
| a body over `server.max_request_bytes`, TooLarge | TOO_LARGE |
| StorageExceeded | STORAGE_EXCEEDED |
| DiskFull | DISK_FULL |
| LimitExceeded, with Retry-After | RATE_LIMITED |
| QueueFull, with Retry-After | OVERLOADED |
| EngineUnavailable, with Retry-After | UNAVAILABLE |
| anything else | INTERNAL |

Each dialect's `ErrorStyle` has the status and the body for a kind; docs/api.md has the whole table.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum, auto
from typing import Any

import structlog
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.types import Receive, Scope, Send

from quern.api.shared.disconnects import ClientDisconnected
from quern.errors import (
    ContextExceeded,
    ConversationBusy,
    ConversationNotFound,
    DiskFull,
    EngineUnavailable,
    InputTooLong,
    InvalidRequest,
    ItemNotFound,
    KeyNotFound,
    KeyReused,
    LimitExceeded,
    ModelNotServed,
    NotAllowed,
    QuernError,
    QueueFull,
    ResponseNotFound,
    StorageExceeded,
    TooLarge,
    TurnNotContinuable,
    TurnNotFound,
    Unauthorized,
)

log = structlog.get_logger(__name__)

CLIENT_CLOSED_REQUEST = 499
"""What the log says of a request whose client went away; nobody receives it."""


LONGEST_RETRY = 60
"""Seconds. OpenAI's and Anthropic's libraries take a longer Retry-After for none, and try again at once."""


DONT_RETRY: Mapping[str, str] = {"x-should-retry": "false"}
"""Else OpenAI's and Anthropic's libraries repeat what was answered with a 5xx: somebody has to make room first."""


class ErrorKind(Enum):
    """What went wrong, as far as HTTP tells failures apart."""

    INVALID = auto()
    UNAUTHORIZED = auto()
    FORBIDDEN = auto()
    CONTEXT_EXCEEDED = auto()
    NOT_FOUND = auto()
    MODEL_NOT_FOUND = auto()
    CONFLICT = auto()
    KEY_REUSED = auto()
    TOO_LARGE = auto()
    STORAGE_EXCEEDED = auto()
    DISK_FULL = auto()
    RATE_LIMITED = auto()
    OVERLOADED = auto()
    UNAVAILABLE = auto()
    INTERNAL = auto()


KINDS: dict[type[Exception], ErrorKind] = {
    InvalidRequest: ErrorKind.INVALID,
    Unauthorized: ErrorKind.UNAUTHORIZED,
    NotAllowed: ErrorKind.FORBIDDEN,
    ContextExceeded: ErrorKind.CONTEXT_EXCEEDED,
    ConversationNotFound: ErrorKind.NOT_FOUND,
    ResponseNotFound: ErrorKind.NOT_FOUND,
    ItemNotFound: ErrorKind.NOT_FOUND,
    TurnNotFound: ErrorKind.NOT_FOUND,
    KeyNotFound: ErrorKind.NOT_FOUND,
    ModelNotServed: ErrorKind.MODEL_NOT_FOUND,
    ConversationBusy: ErrorKind.CONFLICT,
    TurnNotContinuable: ErrorKind.CONFLICT,
    KeyReused: ErrorKind.KEY_REUSED,
    TooLarge: ErrorKind.TOO_LARGE,
    StorageExceeded: ErrorKind.STORAGE_EXCEEDED,
    DiskFull: ErrorKind.DISK_FULL,
    LimitExceeded: ErrorKind.RATE_LIMITED,
    QueueFull: ErrorKind.OVERLOADED,
    EngineUnavailable: ErrorKind.UNAVAILABLE,
}


@dataclass(frozen=True, slots=True)
class Failure:
    """An error to be told. `message`: a sentence; `field`: the request's field that it is about, as in `tools.0.type`.

    `details`: of fields that can't be used, everything that is wrong with them, as FastAPI lists it.
    """

    kind: ErrorKind
    message: str
    field: str | None = None
    details: Sequence[Any] = ()


class ErrorStyle(ABC):
    """How a dialect tells errors: statuses, bodies, and what comes with every answer."""

    @abstractmethod
    def status(self, kind: ErrorKind) -> int:
        """The HTTP status for a kind."""

    @abstractmethod
    def body(self, failure: Failure) -> dict[str, Any]:
        """The answer's JSON."""

    def context_exceeded(self, error: ContextExceeded) -> str:
        """The sentence for a full context. Many clients know one by how their vendor's sentence begins."""
        return str(error)

    def response_headers(self, request_id: str) -> Mapping[str, str]:  # noqa: ARG002 (for those who override it)
        """Headers that every answer of the dialect has besides `x-request-id`, errors or not."""
        return {}

    def stream_error(self, message: str) -> dict[str, Any]:
        """The JSON that ends a stream whose turn did not complete: its status has been sent already."""
        return self.body(Failure(ErrorKind.INTERNAL, message))

    def response(
        self, failure: Failure, *, headers: Mapping[str, str] | None = None, status: int | None = None
    ) -> Response:
        """The whole answer; `status` where it is not the kind's own."""
        return _FailureResponse(failure, self.body(failure), status or self.status(failure.kind), headers)


class _FailureResponse(JSONResponse):
    """Leaves the failure with the request, for the log."""

    def __init__(
        self, failure: Failure, content: dict[str, Any], status: int, headers: Mapping[str, str] | None
    ) -> None:
        super().__init__(content, status, headers)
        self._failure = failure

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope.setdefault("state", {})["failure"] = self._failure
        await super().__call__(scope, receive, send)


StyleOf = Callable[[str], ErrorStyle]
"""From a path to the style of the dialect that it belongs to."""


def unexpected_failure(error: Exception) -> Failure:
    """For an exception that no row of the table expects."""
    return Failure(ErrorKind.INTERNAL, f"{type(error).__name__}: {error}")


def validation_error(location: tuple[str | int, ...], kind: str, message: str, value: Any) -> RequestValidationError:
    """A field that can't be used, `location` and all in FastAPI's shape."""
    return RequestValidationError([{"type": kind, "loc": location, "msg": message, "input": value}])


def install_error_handlers(app: FastAPI, style_of: StyleOf) -> None:
    """Answer every exception with the table above, in the style of the request's dialect."""

    async def invalid_fields(request: Request, error: Exception) -> Response:
        if not isinstance(error, RequestValidationError):
            raise error
        details = error.errors()
        failure = Failure(ErrorKind.INVALID, *_field_sentence(details[0], error.body), details)
        return style_of(request.url.path).response(failure)

    async def http_error(request: Request, error: Exception) -> Response:
        if not isinstance(error, HTTPException):
            raise error
        status = error.status_code
        kind = ErrorKind.NOT_FOUND if status == 404 else ErrorKind.INVALID if status < 500 else ErrorKind.INTERNAL
        failure = Failure(kind, error.detail)
        return style_of(request.url.path).response(failure, headers=dict(error.headers or {}), status=status)

    async def quern_error(request: Request, error: Exception) -> Response:
        style = style_of(request.url.path)
        failure = _failure(error, style, "body" if request.method == "POST" else "query")
        if failure.kind in (ErrorKind.INTERNAL, ErrorKind.DISK_FULL):
            log.error("request_failed", error=str(error))
        return style.response(failure, headers=_headers(error))

    async def client_disconnected(_request: Request, _error: Exception) -> Response:
        return Response(status_code=CLIENT_CLOSED_REQUEST)

    app.add_exception_handler(RequestValidationError, invalid_fields)
    app.add_exception_handler(HTTPException, http_error)
    app.add_exception_handler(QuernError, quern_error)
    app.add_exception_handler(ClientDisconnected, client_disconnected)


def retry_headers(seconds: int) -> dict[str, str]:
    """When to come back; the vendors' libraries don't by themselves where that is long."""
    no: Mapping[str, str] = DONT_RETRY if seconds > LONGEST_RETRY else {}
    return {"retry-after": str(seconds), **no}


def _headers(error: Exception) -> Mapping[str, str] | None:
    match error:
        case LimitExceeded() | QueueFull() | EngineUnavailable():
            return retry_headers(error.retry_after)
        case DiskFull():
            return DONT_RETRY
        case _:
            return None


def _failure(error: Exception, style: ErrorStyle, where: str) -> Failure:
    match error:
        case InvalidRequest(field=field):
            detail = {"type": "value_error", "loc": [where, field], "msg": str(error), "input": None}
            return Failure(ErrorKind.INVALID, str(error), field, [detail])
        case ContextExceeded():
            field = error.field if isinstance(error, InputTooLong) else None
            return Failure(ErrorKind.CONTEXT_EXCEEDED, style.context_exceeded(error), field)
        case _:
            return Failure(KINDS.get(type(error), ErrorKind.INTERNAL), str(error))


def _field_sentence(item: dict[str, Any], body: Any) -> tuple[str, str | None]:
    """A sentence for an entry of pydantic's or FastAPI's, and the field's name as OpenAI writes it: `tools.0.type`.

    `body`: what was sent.
    """
    where, *names = item["loc"]
    if isinstance(body, dict):
        names = _sent(names, body, missing=item["type"] == "missing")
    field = ".".join(str(name) for name in names) or None
    match item["type"]:
        case "missing" if field is not None:
            message = f"The field {field} is missing. Send it."
        case "missing" if where == "body":
            message = "The request body is missing. Send one JSON object."
        case "union_tag_not_found" if (name := _tag_of(item)) is not None:
            field = f"{field}.{name}"
            message = f"The field {field} is missing. Send it."
        case "union_tag_invalid" if (name := _tag_of(item)) is not None:
            field, told = f"{field}.{name}", item["ctx"]
            message = f"The field {field} can't be used: {told['tag']!r} is none of {told['expected_tags']}."
        case "extra_forbidden":
            message = f"There is no field {field} here. Leave it out: unknown fields are refused, never ignored."
        case "model_attributes_type" if field is None:
            message = "The request body must be one JSON object."
        case _ if field is None or (where != "body" and str(item["msg"]).endswith(".")):
            message = str(item["msg"])
        case _:
            what = "field" if where == "body" else "parameter"
            message = f"The {what} {field} can't be used: {str(item['msg']).removeprefix('Value error, ').rstrip('.')}."
    return message, field


def _tag_of(item: dict[str, Any]) -> str | None:
    """The member that tells which of several kinds an object is; None where more than a member does."""
    name = str(item["ctx"]["discriminator"]).strip("'")
    return name if name.isidentifier() else None


KEY = "[key]"
"""What pydantic calls the name of a member, where that can't be used."""


def _sent(names: Sequence[str | int], body: Any, *, missing: bool) -> list[str | int]:
    """Of the names those that lead into the body: pydantic puts those of its own unions' members among them."""
    path: list[str | int] = []
    for name, following in zip(names, [*names[1:], None], strict=False):
        # The tag of a union may be the name of a member too: then it is the tag if only that leads on.
        if _has(body, name) and (_has(body[name], following) or not _has(body, following)):
            body = body[name]
        elif name != KEY and not (missing and following is None):
            continue
        path.append(name)
    return path


def _has(value: Any, name: str | int | None) -> bool:
    return (isinstance(value, dict) and name in value) or (isinstance(value, list) and isinstance(name, int))
