"""The OpenAPI description with what FastAPI doesn't know of: each route's error statuses, and streams."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

from fastapi import FastAPI
from fastapi.dependencies.models import Dependant
from fastapi.routing import APIRoute
from starlette.routing import BaseRoute

from quern.api.shared.errors import ErrorKind, StyleOf
from quern.api.shared.headers import LONGEST_KEY, idempotency_key

ANYWHERE = (ErrorKind.UNAUTHORIZED, ErrorKind.FORBIDDEN, ErrorKind.UNAVAILABLE, ErrorKind.INTERNAL)
WITH_PARAMETERS = (ErrorKind.INVALID, ErrorKind.NOT_FOUND, ErrorKind.CONFLICT)
WITH_BODY = (
    *WITH_PARAMETERS,
    ErrorKind.CONTEXT_EXCEEDED,
    ErrorKind.MODEL_NOT_FOUND,
    ErrorKind.TOO_LARGE,
    ErrorKind.RATE_LIMITED,
    ErrorKind.OVERLOADED,
)
UNSUPPORTED = "415"
KEY_PARAMETER: dict[str, Any] = {
    "name": "Idempotency-Key",
    "in": "header",
    "required": False,
    "description": "Your name for the request: the same request under the same name gets the same answer.",
    "schema": {"type": "string", "minLength": 1, "maxLength": LONGEST_KEY},
}
DESCRIPTIONS = {
    ErrorKind.INVALID: "Something in the request can't be used",
    ErrorKind.UNAUTHORIZED: "No key, or none that is valid",
    ErrorKind.FORBIDDEN: "Not with this key, a host that is not served, or a web page of another origin",
    ErrorKind.CONTEXT_EXCEEDED: "The prompt does not fit the context",
    ErrorKind.NOT_FOUND: "There is no such thing",
    ErrorKind.MODEL_NOT_FOUND: "Another model is served",
    ErrorKind.CONFLICT: "A turn of the conversation is running, or the turn can't go on",
    ErrorKind.KEY_REUSED: "The Idempotency-Key is that of another request",
    ErrorKind.TOO_LARGE: "The body is too large",
    ErrorKind.RATE_LIMITED: "The key has used what it may",
    ErrorKind.OVERLOADED: "Every place is taken",
    ErrorKind.UNAVAILABLE: "The model is not there yet, or the server is about to stop",
    ErrorKind.INTERNAL: "A fault of the server's",
}


def also(media_type: str) -> dict[int | str, dict[str, Any]]:
    """A route's `responses` where its answer may be a stream of this type instead of JSON."""
    return {200: {"content": {media_type: {"schema": {"type": "string"}}}}}


EVENTS = also("text/event-stream")
JSON_LINES = also("application/x-ndjson")
PLAIN_TEXT = also("text/plain")


def document_errors(app: FastAPI, style_of: StyleOf) -> None:
    """Have the application's description list them, each in the style of the path's dialect, and the keys of requests
    that may come again.
    """
    describe = app.openapi

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            keyed = {(route.path, method.lower()) for route in _keyed(app.routes) for method in route.methods or ()}
            for path, operations in describe()["paths"].items():
                for method, operation in operations.items():
                    _add(operation, path, style_of, keyed=(path, method) in keyed)
        return describe()

    app.openapi = openapi


def _keyed(routes: Iterable[BaseRoute]) -> Iterator[APIRoute]:
    """Those that start turns, and so take an `Idempotency-Key`."""
    return (route for route in routes if isinstance(route, APIRoute) and _depends_on(route.dependant, idempotency_key))


def _depends_on(dependant: Dependant, wanted: Callable[..., Any]) -> bool:
    return dependant.call is wanted or any(_depends_on(one, wanted) for one in dependant.dependencies)


def _add(operation: dict[str, Any], path: str, style_of: StyleOf, *, keyed: bool) -> None:
    kinds = WITH_BODY if "requestBody" in operation else WITH_PARAMETERS if "parameters" in operation else ()
    if keyed:
        kinds = (*kinds, ErrorKind.KEY_REUSED)
        operation["parameters"] = [*operation.get("parameters", ()), KEY_PARAMETER]
    responses = {status: one for status, one in operation["responses"].items() if status != "422"}
    sentences: dict[str, list[str]] = {}
    for kind in (*kinds, *ANYWHERE):
        sentences.setdefault(str(style_of(path).status(kind)), []).append(DESCRIPTIONS[kind])
    if "requestBody" in operation:
        sentences[UNSUPPORTED] = ["The body has a Content-Encoding that is not known"]
    errors = {
        status: {
            "description": ". ".join(descriptions) + ".",
            "content": {"application/json": {"schema": {"type": "object"}}},
        }
        for status, descriptions in sorted(sentences.items())
    }
    operation["responses"] = {**responses, **{status: one for status, one in errors.items() if status not in responses}}
