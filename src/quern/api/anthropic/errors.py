"""Errors as Anthropic's clients read them.

Source of the shapes: "Errors" in Anthropic's API reference.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import structlog

from quern.api.shared.errors import ErrorKind, ErrorStyle, Failure
from quern.errors import ContextExceeded

STATUSES_AND_TYPES: dict[ErrorKind, tuple[int, str]] = {
    ErrorKind.INVALID: (400, "invalid_request_error"),
    ErrorKind.UNAUTHORIZED: (401, "authentication_error"),
    ErrorKind.FORBIDDEN: (403, "permission_error"),
    ErrorKind.CONTEXT_EXCEEDED: (400, "invalid_request_error"),
    ErrorKind.NOT_FOUND: (404, "not_found_error"),
    ErrorKind.MODEL_NOT_FOUND: (404, "not_found_error"),
    ErrorKind.CONFLICT: (409, "conflict_error"),
    ErrorKind.KEY_REUSED: (422, "invalid_request_error"),
    ErrorKind.TOO_LARGE: (413, "request_too_large"),
    ErrorKind.STORAGE_EXCEEDED: (403, "permission_error"),
    ErrorKind.DISK_FULL: (507, "api_error"),
    ErrorKind.RATE_LIMITED: (429, "rate_limit_error"),
    ErrorKind.OVERLOADED: (529, "overloaded_error"),
    ErrorKind.UNAVAILABLE: (529, "overloaded_error"),
    ErrorKind.INTERNAL: (500, "api_error"),
}
DETAILS: dict[str | None, dict[str, Any]] = {
    "thread": {"details": {"error_code": "thread_unsupported_request", "unsupported": ["thread"]}}
}
"""By refused field: what makes Anthropic's libraries go on without it. Their loops of tool calls begin as threads."""


class AnthropicErrors(ErrorStyle):
    """`{"type": "error", "error": {"type", "message"}, "request_id"}`."""

    def status(self, kind: ErrorKind) -> int:
        """The HTTP status for a kind."""
        return STATUSES_AND_TYPES[kind][0]

    def body(self, failure: Failure) -> dict[str, Any]:
        """The answer's JSON, with the id under which the log has the request."""
        _, type_ = STATUSES_AND_TYPES[failure.kind]
        error = {"type": type_, "message": failure.message, **DETAILS.get(failure.field, {})}
        request_id = structlog.contextvars.get_contextvars().get("request_id")
        return {"type": "error", "error": error, "request_id": request_id}

    def context_exceeded(self, error: ContextExceeded) -> str:
        """Clients look for how it begins."""
        room = error.context_length - error.answer_tokens
        return f"prompt is too long: {error.prompt_tokens} tokens > {room} maximum. {error}"

    def response_headers(self, request_id: str) -> Mapping[str, str]:
        """Where Anthropic's clients look for the request's id."""
        return {"request-id": request_id}


ANTHROPIC_ERRORS = AnthropicErrors()
