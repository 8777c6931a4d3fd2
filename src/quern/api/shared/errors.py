"""The one table from the error tree to HTTP, and the shapes in which the dialects tell errors.

| error | `/v1/code` and health | OpenAI's, llama.cpp's | Anthropic's |
|---|---|---|---|
| a field that can't be used, InvalidRequest | 422, FastAPI's body | 400 | 400 |
| ContextExceeded | 413 | 400 `context_length_exceeded` | 400 |
| ConversationNotFound, ResponseNotFound, ItemNotFound | 404 | 404 `not_found` | 404 |
| ModelNotServed | 404 | 404 `model_not_found` | 404 |
| ConversationBusy | 409 | 409 `conversation_busy` | 409 |
| RequestTooLarge | 413 | 413 `request_too_large` | 413 |
| QueueFull, with Retry-After | 503 | 503 `overloaded` | 529 |
| EngineUnavailable, with Retry-After | 503 | 503 `model_unavailable` | 529 |
| anything else | 500, `服务器内部错误: ` and the error | 500 `internal_error` | 500 |

Sources of the shapes: "Error codes" in OpenAI's API reference, "Errors" in Anthropic's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any

import structlog
from fastapi import FastAPI, Request
from fastapi.encoders import jsonable_encoder
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from quern.errors import (
    ContextExceeded,
    ConversationBusy,
    ConversationNotFound,
    EngineUnavailable,
    InvalidRequest,
    ItemNotFound,
    ModelNotServed,
    QuernError,
    QueueFull,
    ResponseNotFound,
)

log = structlog.get_logger(__name__)

CLIENT_CLOSED_REQUEST = 499
"""What the log says of a request whose client went away; nobody receives it."""

INTERNAL_ERROR_PREFIX = "服务器内部错误: "


class Dialect(Enum):
    """Who is spoken to, by the path."""

    SEED = "seed"
    OPENAI = "openai"
    ANTHROPIC = "anthropic"


SEED_PATHS = ("/v1/code/", "/health", "/ready", "/docs", "/openapi.json")
ANTHROPIC_PATHS = ("/v1/messages",)


def dialect_of(path: str) -> Dialect:
    """The dialect in which a path answers."""
    if path.startswith(ANTHROPIC_PATHS):
        return Dialect.ANTHROPIC
    return Dialect.SEED if path.startswith(SEED_PATHS) else Dialect.OPENAI


@dataclass(frozen=True, slots=True)
class Kind:
    """One row of the table: the three statuses, OpenAI's code, Anthropic's type."""

    seed: int
    openai: int
    anthropic: int
    code: str | None
    anthropic_type: str

    def status(self, dialect: Dialect) -> int:
        """The dialect's column."""
        return {Dialect.SEED: self.seed, Dialect.OPENAI: self.openai, Dialect.ANTHROPIC: self.anthropic}[dialect]


INVALID = Kind(422, 400, 400, None, "invalid_request_error")
TOO_LONG = Kind(413, 400, 400, "context_length_exceeded", "invalid_request_error")
NOT_FOUND = Kind(404, 404, 404, "not_found", "not_found_error")
NO_MODEL = Kind(404, 404, 404, "model_not_found", "not_found_error")
BUSY = Kind(409, 409, 409, "conversation_busy", "conflict_error")
TOO_LARGE = Kind(413, 413, 413, "request_too_large", "request_too_large")
OVERLOADED = Kind(503, 503, 529, "overloaded", "overloaded_error")
UNAVAILABLE = Kind(503, 503, 529, "model_unavailable", "overloaded_error")
INTERNAL = Kind(500, 500, 500, "internal_error", "api_error")

KINDS: dict[type[Exception], Kind] = {
    InvalidRequest: INVALID,
    ContextExceeded: TOO_LONG,
    ConversationNotFound: NOT_FOUND,
    ResponseNotFound: NOT_FOUND,
    ItemNotFound: NOT_FOUND,
    ModelNotServed: NO_MODEL,
    ConversationBusy: BUSY,
    QueueFull: OVERLOADED,
    EngineUnavailable: UNAVAILABLE,
}


def openai_error(kind: Kind, message: str, param: str | None = None) -> dict[str, Any]:
    """`{"error": …}` as OpenAI's clients read it."""
    type_ = "invalid_request_error" if kind.openai < 500 else "server_error"
    return {"error": {"message": message, "type": type_, "param": param, "code": kind.code}}


ANTHROPIC_DETAILS: dict[str | None, dict[str, Any]] = {
    "thread": {"details": {"error_code": "thread_unsupported_request", "unsupported": ["thread"]}}
}
"""By refused field: what makes Anthropic's libraries go on without it. Their loops of tool calls begin as threads."""


def anthropic_error(kind: Kind, message: str, param: str | None = None) -> dict[str, Any]:
    """`{"type": "error", …}` as Anthropic's clients read it, with the id under which the log has the request."""
    error = {"type": kind.anthropic_type, "message": message, **ANTHROPIC_DETAILS.get(param, {})}
    return {"type": "error", "error": error, "request_id": structlog.contextvars.get_contextvars().get("request_id")}


def failure(
    dialect: Dialect, kind: Kind, message: str, param: str | None = None, headers: dict[str, str] | None = None
) -> JSONResponse:
    """An error as a response of the dialect."""
    match dialect:
        case Dialect.SEED:
            body = {"detail": (INTERNAL_ERROR_PREFIX if kind is INTERNAL else "") + message}
        case Dialect.OPENAI:
            body = openai_error(kind, message, param)
        case Dialect.ANTHROPIC:
            body = anthropic_error(kind, message, param)
    return JSONResponse(body, kind.status(dialect), headers)


def install_error_handlers(app: FastAPI) -> None:
    """Answer every exception with the table above."""
    app.add_exception_handler(RequestValidationError, _invalid_request)
    app.add_exception_handler(HTTPException, _http_error)
    app.add_exception_handler(QuernError, _quern_error)


def validation_error(location: tuple[str | int, ...], kind: str, message: str, value: Any) -> RequestValidationError:
    """A field that can't be used; for `/v1/code` a 422 of one entry, in FastAPI's shape."""
    return RequestValidationError([{"type": kind, "loc": location, "msg": message, "input": value}])


async def _invalid_request(request: Request, error: Exception) -> JSONResponse:
    if not isinstance(error, RequestValidationError):
        raise error
    dialect = dialect_of(request.url.path)
    if dialect is Dialect.SEED:
        return JSONResponse({"detail": jsonable_encoder(error.errors())}, 422)
    return failure(dialect, INVALID, *field_sentence(error.errors()[0], error.body))


def field_sentence(item: dict[str, Any], body: Any = None) -> tuple[str, str | None]:
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
        case "extra_forbidden":
            message = f"There is no field {field} here. Leave it out: unknown fields are refused, never ignored."
        case "json_invalid":
            message, field = "The request body is not valid JSON. Send one JSON object.", None
        case "model_attributes_type" if field is None:
            message = "The request body must be one JSON object, sent as Content-Type: application/json."
        case _ if field is None or (where != "body" and str(item["msg"]).endswith(".")):
            message = str(item["msg"])
        case _:
            what = "field" if where == "body" else "parameter"
            message = f"The {what} {field} can't be used: {str(item['msg']).removeprefix('Value error, ').rstrip('.')}."
    return message, field


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


async def _quern_error(request: Request, error: Exception) -> JSONResponse:
    dialect = dialect_of(request.url.path)
    if isinstance(error, InvalidRequest) and dialect is Dialect.SEED:
        where = "body" if request.method == "POST" else "query"
        entry = {"type": "value_error", "loc": [where, error.field], "msg": str(error), "input": None}
        return JSONResponse({"detail": [entry]}, 422)
    kind = KINDS.get(type(error), INTERNAL)
    if kind is INTERNAL:
        log.error("request_failed", error=str(error))
    headers = {"retry-after": str(error.retry_after)} if isinstance(error, QueueFull | EngineUnavailable) else None
    param = error.field if isinstance(error, InvalidRequest) else None
    return failure(dialect, kind, message_for(dialect, error), param, headers)


def message_for(dialect: Dialect, error: Exception) -> str:
    """The error's sentence. Clients know a full context by how the sentence begins at their vendor."""
    if not isinstance(error, ContextExceeded):
        return str(error)
    match dialect:
        case Dialect.SEED:
            return str(error)
        case Dialect.OPENAI:
            return (
                f"This model's maximum context length is {error.context_length} tokens. However, your messages "
                f"resulted in {error.prompt_tokens} tokens. {error}"
            )
        case Dialect.ANTHROPIC:
            room = error.context_length - error.answer_tokens
            return f"prompt is too long: {error.prompt_tokens} tokens > {room} maximum. {error}"


async def _http_error(request: Request, error: Exception) -> JSONResponse:
    if not isinstance(error, HTTPException):
        raise error
    dialect = dialect_of(request.url.path)
    code = NOT_FOUND if error.status_code == 404 else INVALID if error.status_code < 500 else INTERNAL
    response = failure(dialect, code, error.detail, headers=dict(error.headers or {}))
    response.status_code = error.status_code
    return response


def internal_error(path: str, error: Exception) -> JSONResponse:
    """The answer to an exception that no row of the table expects."""
    return failure(dialect_of(path), INTERNAL, f"{type(error).__name__}: {error}")
