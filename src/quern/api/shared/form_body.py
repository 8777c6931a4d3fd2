"""How a form is read, as UTF-8 whatever it says of itself.

The fields of `application/x-www-form-urlencoded` are decoded a slice at a time: eight megabytes of `%41` in one go
would be a second in which nothing else runs. Source: "application/x-www-form-urlencoded parsing" in the URL standard.
"""

from __future__ import annotations

import codecs
from typing import Any
from urllib.parse import unquote_to_bytes

from python_multipart.multipart import parse_options_header
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.requests import Request

from quern.api.shared.body_budget import SMALL, BodyBudget
from quern.api.shared.json_body import HALF_A_CHARACTER

MOST_FIELDS = 1000
SLICE = 64 * 2**10
UTF8 = frozenset({"utf-8", "ascii"})
"""The charsets of which UTF-8 is, or has, the same characters."""
LONGEST_NAME = 40
URLENCODED = "application/x-www-form-urlencoded"
FormFields = list[tuple[str, str | UploadFile]]


async def read_form(request: Request, budget: BodyBudget, most_bytes: int) -> FormFields:
    """The fields of a form in their order, `most_bytes` at most in each. Raises ValueError, a sentence, for what is no
    form.
    """
    if request.headers.get("content-type", "").lower().startswith(URLENCODED):
        body = await request.body()
        return _urlencoded(body) if len(body) <= SMALL else await budget.parsed(lambda: _urlencoded(body))
    _check_utf8(request.headers["content-type"], await request.body())
    try:
        async with request.form(max_fields=MOST_FIELDS, max_part_size=most_bytes) as form:
            return [(_whole(name), _whole(value)) for name, value in form.multi_items()]
    except HTTPException as error:
        raise ValueError(error.detail) from error


def _check_utf8(content_type: str, body: bytes) -> None:
    """Starlette reads the parts of a form in the charset that it names, and as Latin-1 what isn't in that."""
    named = parse_options_header(content_type)[1].get(b"charset", b"utf-8").decode("latin-1")
    try:
        known = codecs.lookup(named).name in UTF8
    except (LookupError, ValueError):
        known = False
    if not known:
        msg = f"Its charset is {named[:LONGEST_NAME]!r}. Send UTF-8."
        raise ValueError(msg)
    try:
        body.decode(named)
    except UnicodeDecodeError as error:
        msg = f"It is not valid UTF-8 at byte {error.start}. Send UTF-8."
        raise ValueError(msg) from None


def _urlencoded(body: bytes) -> FormFields:
    if body.count(b"&") >= MOST_FIELDS:
        msg = f"Too many fields. Maximum number of fields is {MOST_FIELDS}."
        raise ValueError(msg)
    fields: FormFields = []
    for field in body.split(b"&"):
        name, _, value = field.partition(b"=")
        if field:
            fields.append((_decoded(name, "The name of a form field"), _decoded(value, "A form field")))
    return fields


def _decoded(value: bytes, what: str) -> str:
    text = value.replace(b"+", b" ")
    pieces: list[bytes] = []
    start = 0
    while start < len(text):
        end = start + SLICE
        # Not in the middle of `%41`.
        percent = text.rfind(b"%", end - 2, end)
        end = percent if percent > start else end
        pieces.append(unquote_to_bytes(text[start:end]))
        start = end
    try:
        return b"".join(pieces).decode()
    except UnicodeDecodeError as error:
        msg = f"{what} is not valid UTF-8 at byte {error.start}. Send UTF-8."
        raise ValueError(msg) from None


def _whole(value: Any) -> Any:
    """A part may name its charset, and Python has some that know halves of surrogate pairs."""
    return HALF_A_CHARACTER.sub("\N{REPLACEMENT CHARACTER}", value) if isinstance(value, str) else value
