"""From what goes wrong on the wire to the client's own errors."""

from __future__ import annotations

import re
from collections.abc import Generator
from contextlib import contextmanager
from http import HTTPStatus
from typing import cast

import httpx2

from quern.errors import AnswerBroken, ServerRefused, ServerUnreachable


@contextmanager
def translated(server: str, request_id: str | None = None) -> Generator[None]:
    """Turn transport errors into ServerUnreachable (no connection) or AnswerBroken (one that was lost).

    `server` is the address as a person may see it; `request_id` is named in the sentence so that the server's log can
    be searched for it.
    """
    where = f"{server} (request {request_id})" if request_id else server
    try:
        yield
    except (httpx2.ConnectError, httpx2.ConnectTimeout, httpx2.ProxyError) as error:
        raise ServerUnreachable(
            f"Nothing answers at {server} ({_reason(error)}): no server is running there, or the address is wrong. "
            f"Start it with `quern serve`, or check the address."
        ) from error
    except httpx2.TimeoutException as error:
        raise AnswerBroken(
            f"{where} has gone silent: nothing arrived within the read time-out, so the answer was given up. "
            f"Ask again, and look at the server's log if it happens again."
        ) from error
    except (httpx2.TransportError, httpx2.DecodingError) as error:
        raise AnswerBroken(
            f"The connection to {where} ended before the answer did ({_reason(error)}), so what has arrived is only "
            f"a part of it. Ask again; the server's log says why."
        ) from error


def refusal(response: httpx2.Response) -> ServerRefused:
    """The error for a response that is no success and has been read."""
    sentence = _sentence(response) or (
        f"The server answered {_status_line(response)} without saying why, so it may not be a Quern server: "
        f"check the address."
    )
    retry_after = response.headers.get("retry-after", "")
    return ServerRefused(response.status_code, sentence, int(retry_after) if retry_after.isdecimal() else None)


def unexpected(response: httpx2.Response) -> ServerRefused:
    """The error for a success whose body is not what Quern sends."""
    return ServerRefused(
        response.status_code,
        f"What answers {response.request.method} {response.request.url.path} at {response.request.url.host} is not a "
        f"Quern server, or one of another version: the body is not of the expected form. Check the address.",
    )


def _reason(error: httpx2.RequestError | httpx2.DecodingError) -> str:
    return re.sub(r"^\[Errno -?\d+\] ", "", str(error)).rstrip(".") or type(error).__name__


def _status_line(response: httpx2.Response) -> str:
    try:
        return f"{response.status_code} {HTTPStatus(response.status_code).phrase}"
    except ValueError:
        return str(response.status_code)


def _sentence(response: httpx2.Response) -> str | None:
    """`detail` of FastAPI's two error bodies, one sentence or a list of `{"loc": […], "msg": …}`; or OpenAI's
    `error.message`.
    """
    try:
        body = _object(response.json())
    except ValueError:
        return None
    for sentence in (body.get("detail"), _object(body.get("error")).get("message")):
        if isinstance(sentence, str):
            return sentence
    detail = body.get("detail")
    if isinstance(detail, list):
        items = cast("list[object]", detail)
        return " ".join(_item_sentence(cast("dict[str, object]", item)) for item in items if isinstance(item, dict))
    return None


def _object(value: object) -> dict[str, object]:
    return cast("dict[str, object]", value) if isinstance(value, dict) else {}


def _item_sentence(item: dict[str, object]) -> str:
    message = str(item.get("msg", "can't be used")).removeprefix("Value error, ").rstrip(".") + "."
    location = item.get("loc")
    field = str(cast("list[object]", location)[-1]) if isinstance(location, list) and location else ""
    return message if field in message else f"{field}: {message}"
