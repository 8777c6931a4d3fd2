"""The one table from the error tree to HTTP.

| error | status |
|---|---|
| request validation, InvalidRequest | 422, FastAPI's body |
| ConversationNotFound | 404 |
| ConversationBusy | 409 |
| ContextExceeded, RequestTooLarge | 413 |
| QueueFull, EngineUnavailable | 503 with Retry-After |
| anything else | 500, `服务器内部错误: ` and the specific error |
"""

from __future__ import annotations

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
    QuernError,
    QueueFull,
)

log = structlog.get_logger(__name__)

CLIENT_CLOSED_REQUEST = 499
"""What the log says of a request whose client went away; nobody receives it."""

INTERNAL_ERROR_PREFIX = "服务器内部错误: "
STATUS: dict[type[QuernError], int] = {
    ConversationNotFound: 404,
    ConversationBusy: 409,
    ContextExceeded: 413,
    QueueFull: 503,
    EngineUnavailable: 503,
}


def detail(message: str) -> dict[str, str]:
    """The body of every error but a 422."""
    return {"detail": message}


def install_error_handlers(app: FastAPI) -> None:
    """Answer every exception with the table above."""
    app.add_exception_handler(RequestValidationError, _invalid_request)
    app.add_exception_handler(QuernError, _quern_error)
    app.add_exception_handler(HTTPException, _http_error)


def validation_error(location: tuple[str, ...], kind: str, message: str, value: Any) -> RequestValidationError:
    """A 422 of one entry, in FastAPI's shape."""
    return RequestValidationError([{"type": kind, "loc": location, "msg": message, "input": value}])


async def _invalid_request(_request: Request, error: Exception) -> JSONResponse:
    if not isinstance(error, RequestValidationError):
        raise error
    return JSONResponse({"detail": jsonable_encoder(error.errors())}, 422)


async def _quern_error(request: Request, error: Exception) -> JSONResponse:
    if isinstance(error, InvalidRequest):
        where = "body" if request.method == "POST" else "query"
        entry = {"type": "value_error", "loc": [where, error.field], "msg": str(error), "input": None}
        return JSONResponse({"detail": [entry]}, 422)
    status = STATUS.get(type(error)) if isinstance(error, QuernError) else None
    if status is None:
        log.error("request_failed", error=str(error))
        return JSONResponse(detail(INTERNAL_ERROR_PREFIX + str(error)), 500)
    headers = {"retry-after": str(error.retry_after)} if isinstance(error, QueueFull | EngineUnavailable) else None
    return JSONResponse(detail(str(error)), status, headers)


async def _http_error(_request: Request, error: Exception) -> JSONResponse:
    if not isinstance(error, HTTPException):
        raise error
    return JSONResponse(detail(error.detail), error.status_code, error.headers)


def internal_error(error: Exception) -> JSONResponse:
    """The answer to an exception that no row of the table expects."""
    return JSONResponse(detail(f"{INTERNAL_ERROR_PREFIX}{type(error).__name__}: {error}"), 500)
