"""Bodies of JSON. Python reads half of a surrogate pair (`\\ud83d`: JavaScript cuts characters so) as a character that
nothing can be encoded with; here it becomes U+FFFD at the door, as it would in the prompt.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Coroutine
from typing import Any

from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

HALF_A_CHARACTER = re.compile("[\ud800-\udfff]")
TOO_DEEP = "The request body has too many levels inside of each other. Make it flatter."


class JsonRoute(APIRoute):
    """A route whose JSON bodies hold whole characters only."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """FastAPI's own handler, for such requests."""
        handler = super().get_route_handler()

        async def handle(request: Request) -> Response:
            return await handler(_JsonRequest(request.scope, request.receive))

        return handle


class _JsonRequest(Request):
    async def json(self) -> Any:
        try:
            return read_json(await self.body())
        except RecursionError as error:
            raise HTTPException(400, TOO_DEEP) from error


def read_json(body: bytes) -> Any:
    """The value of a JSON text. Raises ValueError for other text, RecursionError for one that is nested too deeply."""
    value = json.loads(body)
    if b"\\ud" not in body.lower():
        return value
    text = json.dumps(value, ensure_ascii=False)
    return json.loads(HALF_A_CHARACTER.sub("\N{REPLACEMENT CHARACTER}", text))
