"""How a JSON body is read: its characters, its size in values, its fields.

What is not UTF-8 is refused, by value: Python's own reader takes halves of surrogate pairs for characters, and nothing
that they get into can be encoded again. Written as an escape (`\\ud83d`: JavaScript cuts characters so) such a half
becomes U+FFFD, as it would in the prompt.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any, NoReturn

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from starlette.types import Receive, Scope

from quern.api.shared.body_budget import SMALL, BodyBudget
from quern.errors import InvalidRequest, TooLarge

Validate = Callable[[Any], tuple[Any, list[Any]]]
"""From a body's value to what a route takes, and what is wrong with it."""

HALF_A_CHARACTER = re.compile("[\ud800-\udfff]")
ESCAPED_HALF = re.compile(r"\\u[dD][89a-fA-F]")
MOST_MARKS = 400_000
"""Commas, colons and opening brackets of a body, those in its texts too. Python takes a tenth of a second for so many,
while nothing else runs; a prompt of 32k tokens has a tenth of them."""

MARKS = (b",", b":", b"[", b"{")
TOO_DEEP = "The request body has too many levels inside of each other. Make it flatter."
TOO_LONG_NUMBER = "The request body has a number of more than 4300 digits. Send a shorter one."


class JsonRequest(Request):
    """A request whose JSON body is read before FastAPI asks for it: off the event loop where it is large.

    Whatever its Content-Type is: Ollama and llama.cpp don't look at it, so clients that were written for them send a
    form's (curl) or none (litellm). Web pages of other origins, which can send texts and forms only, are kept out by
    their origin.
    """

    def __init__(self, scope: Scope, receive: Receive) -> None:
        headers = [header for header in scope["headers"] if header[0] != b"content-type"]
        super().__init__({**scope, "headers": [*headers, (b"content-type", b"application/json")]}, receive)
        self._value: Any = None

    async def json(self) -> Any:
        """The body's value, or for a large body what its fields have become already."""
        return self._value

    async def prepare(self, validate: Validate, budget: BodyBudget) -> None:
        """Receive and read the body. Raises InvalidRequest, TooLarge or RequestValidationError."""
        body = await self.body()
        if not body:
            return
        if len(body) <= SMALL:
            self._value = read_json(body)
        else:
            self._value = await budget.parsed(lambda: _validated(body, validate))


def _validated(body: bytes, validate: Validate) -> Any:
    value = read_json(body)
    made, errors = validate(value)
    if errors:
        raise RequestValidationError(errors, body=value)
    return made


def read_json(body: bytes) -> Any:
    """The value of a JSON text. Raises InvalidRequest for any other text, TooLarge for too many values."""
    if len(body) > MOST_MARKS and sum(map(body.count, MARKS)) > MOST_MARKS:
        raise TooLarge(
            f"The request body has more than {MOST_MARKS} commas, colons and opening brackets, more than a prompt can "
            f"have. Send a shorter one."
        )
    text = _decoded(body)
    try:
        value = json.loads(text, parse_constant=_refuse_constant)
    except json.JSONDecodeError as error:
        where = f"{error.msg} at line {error.lineno}, column {error.colno}"
        raise InvalidRequest(f"The request body is not valid JSON ({where}). Send one JSON object.") from None
    except RecursionError:
        raise InvalidRequest(TOO_DEEP) from None
    except ValueError as error:
        raise InvalidRequest(str(error) if isinstance(error, _ConstantError) else TOO_LONG_NUMBER) from error
    return whole_characters(value) if ESCAPED_HALF.search(text) else value


def whole_characters(value: Any) -> Any:
    """The value with U+FFFD for halves of surrogate pairs in its texts and names."""
    text = json.dumps(value, ensure_ascii=False)
    return json.loads(HALF_A_CHARACTER.sub("\N{REPLACEMENT CHARACTER}", text))


def _decoded(body: bytes) -> str:
    encoding = json.detect_encoding(body)
    try:
        return body.decode(encoding)
    except UnicodeDecodeError as error:
        raise InvalidRequest(
            f"The request body is not valid {error.encoding.upper()} at byte {error.start}. Send JSON as UTF-8."
        ) from None


class _ConstantError(ValueError):
    pass


def _refuse_constant(name: str) -> NoReturn:
    raise _ConstantError(f"The request body has {name}, which is no JSON. Send a number or null.")
