"""Error styles that more than one dialect speaks: OpenAI's, and FastAPI's own.

Source of OpenAI's: "Error codes" in its API reference; all servers that are compatible with it answer so.
"""

from __future__ import annotations

from typing import Any

from fastapi.encoders import jsonable_encoder

from quern.api.shared.errors import ErrorKind, ErrorStyle, Failure
from quern.errors import ContextExceeded

OPENAI_STATUSES_AND_CODES: dict[ErrorKind, tuple[int, str | None]] = {
    ErrorKind.INVALID: (400, None),
    ErrorKind.UNAUTHORIZED: (401, "invalid_api_key"),
    ErrorKind.FORBIDDEN: (403, "forbidden"),
    ErrorKind.CONTEXT_EXCEEDED: (400, "context_length_exceeded"),
    ErrorKind.NOT_FOUND: (404, "not_found"),
    ErrorKind.MODEL_NOT_FOUND: (404, "model_not_found"),
    ErrorKind.CONFLICT: (409, "conversation_busy"),
    ErrorKind.KEY_REUSED: (422, "idempotency_key_reused"),
    ErrorKind.TOO_LARGE: (413, "request_too_large"),
    ErrorKind.STORAGE_EXCEEDED: (403, "storage_exceeded"),
    ErrorKind.DISK_FULL: (507, "insufficient_storage"),
    ErrorKind.RATE_LIMITED: (429, "rate_limit_exceeded"),
    ErrorKind.OVERLOADED: (503, "overloaded"),
    ErrorKind.UNAVAILABLE: (503, "model_unavailable"),
    ErrorKind.INTERNAL: (500, "internal_error"),
}


class OpenAiErrors(ErrorStyle):
    """`{"error": {"message", "type", "param", "code"}}`, as OpenAI's clients read it."""

    def status(self, kind: ErrorKind) -> int:
        """The HTTP status for a kind."""
        return OPENAI_STATUSES_AND_CODES[kind][0]

    def body(self, failure: Failure) -> dict[str, Any]:
        """The answer's JSON."""
        status, code = OPENAI_STATUSES_AND_CODES[failure.kind]
        type_ = "invalid_request_error" if status < 500 else "server_error"
        return {"error": {"message": failure.message, "type": type_, "param": failure.field, "code": code}}

    def context_exceeded(self, error: ContextExceeded) -> str:
        """Clients look for how it begins."""
        return (
            f"This model's maximum context length is {error.context_length} tokens. However, your messages "
            f"resulted in {error.prompt_tokens} tokens. {error}"
        )


DETAIL_STATUSES: dict[ErrorKind, int] = {
    ErrorKind.INVALID: 422,
    ErrorKind.UNAUTHORIZED: 401,
    ErrorKind.FORBIDDEN: 403,
    ErrorKind.CONTEXT_EXCEEDED: 413,
    ErrorKind.NOT_FOUND: 404,
    ErrorKind.MODEL_NOT_FOUND: 404,
    ErrorKind.CONFLICT: 409,
    ErrorKind.KEY_REUSED: 422,
    ErrorKind.TOO_LARGE: 413,
    ErrorKind.STORAGE_EXCEEDED: 403,
    ErrorKind.DISK_FULL: 507,
    ErrorKind.RATE_LIMITED: 429,
    ErrorKind.OVERLOADED: 503,
    ErrorKind.UNAVAILABLE: 503,
    ErrorKind.INTERNAL: 500,
}
INTERNAL_ERROR_PREFIX = "服务器内部错误: "


class DetailErrors(ErrorStyle):
    """`{"detail": …}`, as FastAPI tells errors: a sentence, or a list of what is wrong with the fields."""

    def status(self, kind: ErrorKind) -> int:
        """The HTTP status for a kind."""
        return DETAIL_STATUSES[kind]

    def body(self, failure: Failure) -> dict[str, Any]:
        """The answer's JSON."""
        if failure.details:
            return {"detail": jsonable_encoder(failure.details)}
        prefix = INTERNAL_ERROR_PREFIX if failure.kind is ErrorKind.INTERNAL else ""
        return {"detail": prefix + failure.message}


OPENAI_ERRORS = OpenAiErrors()
DETAIL_ERRORS = DetailErrors()
