"""Limits of keys, before anything of a request's body is read; and what is left of them, in the vendors' headers.

Requests that compute something count, which are the POSTs, but for those that only administer, change conversations,
tell something, or end a turn: whoever is over a limit has to be able to stop what costs it.

Sources: "Rate limits in headers" in OpenAI's guide, "Rate limits: response headers" in Anthropic's.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import cast

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from quern.access.limits import Allowance
from quern.access.principal import Principal
from quern.access.usage import UsageMeter
from quern.api.shared.errors import ErrorKind, Failure, StyleOf, retry_headers
from quern.errors import LimitExceeded

COST_NOTHING = re.compile(
    r"/v1/admin/.*|/v1/conversations(/.*)?|/v1/responses/[^/]*/cancel|/api/(show|pull)", re.DOTALL
)


class RateLimits:
    """Counts requests, refuses those that are too many. Pure ASGI."""

    def __init__(self, app: ASGIApp, usage: UsageMeter, style_of: StyleOf) -> None:
        self._app = app
        self._usage = usage
        self._style_of = style_of

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] != "POST" or COST_NOTHING.fullmatch(scope["path"]):
            await self._app(scope, receive, send)
            return
        principal = cast("Principal", scope["state"]["principal"])

        async def send_with_limits(message: Message) -> None:
            if message["type"] == "http.response.start":
                left = self._usage.allowances(principal)
                MutableHeaders(scope=message).update(limit_headers(left, datetime.now(UTC)))
            await send(message)

        try:
            self._usage.take_request(principal)
        except LimitExceeded as error:
            failure = Failure(ErrorKind.RATE_LIMITED, str(error))
            response = self._style_of(scope["path"]).response(failure, headers=retry_headers(error.retry_after))
            await response(scope, receive, send_with_limits)
            return
        await self._app(scope, receive, send_with_limits)


def limit_headers(left: Mapping[str, Allowance], now: datetime) -> dict[str, str]:
    """What is left, as OpenAI's clients (`x-ratelimit-…`) and Anthropic's (`anthropic-ratelimit-…`) read it."""
    headers: dict[str, str] = {}
    for what, allowance in left.items():
        reset = now + timedelta(seconds=math.ceil(allowance.reset_seconds))
        headers |= {
            f"x-ratelimit-limit-{what}": str(allowance.limit),
            f"x-ratelimit-remaining-{what}": str(allowance.remaining),
            f"x-ratelimit-reset-{what}": duration(allowance.reset_seconds),
            f"anthropic-ratelimit-{what}-limit": str(allowance.limit),
            f"anthropic-ratelimit-{what}-remaining": str(allowance.remaining),
            f"anthropic-ratelimit-{what}-reset": reset.isoformat(timespec="seconds").replace("+00:00", "Z"),
        }
    return headers


def duration(seconds: float) -> str:
    """As OpenAI writes it: `90ms`, `7s`, `6m0s`."""
    if seconds < 1:
        return f"{math.ceil(seconds * 1000)}ms"
    whole = math.ceil(seconds)
    return f"{whole // 60}m{whole % 60}s" if whole >= 60 else f"{whole}s"
