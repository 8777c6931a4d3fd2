"""Arguments of calls that were made before, as the model is shown them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import chain
from typing import Any, cast

from pydantic_core import from_json

DEEPEST = 300
"""Objects and arrays in each other; what is deeper is shown as the text that it is."""
EXTRA_DATA = "Extra data"
"""How Python's reader says that a whole value is followed by more."""
UNREADABLE = "arguments"
"""The name under which the model is shown arguments that are no JSON object."""


def shown_arguments(text: str) -> dict[str, Any]:
    """The arguments as an object, which models are trained on, whatever a client sends back.

    A text that breaks off, as in a call that was cut, is an object up to where it does. Blank and `null` are no
    arguments.
    """
    value = _value(text)
    if isinstance(value, str) and value is not text and isinstance(inner := _value(value), dict):
        value = cast("dict[str, Any]", inner)
    if is_deeper(value, DEEPEST):
        value = text
    if isinstance(value, dict):
        return cast("dict[str, Any]", value)
    return {} if value is None else {UNREADABLE: value}


def _value(text: str) -> Any:
    """The value of a JSON text, as far as it goes; None for a blank one, and the text itself where it is no JSON."""
    if not text.strip():
        return None
    try:
        return json.loads(text, strict=False)
    except json.JSONDecodeError as error:
        if error.msg == EXTRA_DATA:
            return text
    except (ValueError, RecursionError):
        return text
    try:
        return from_json(text, allow_partial="trailing-strings")
    except ValueError:
        return text


def is_deeper(value: Any, most: int) -> bool:
    """Whether there are more objects and arrays in each other."""
    level = [value]
    for _ in range(most + 1):
        level = [*chain.from_iterable(map(_members, level))]
        if not level:
            return False
    return True


def _members(value: Any) -> Sequence[Any]:
    if isinstance(value, dict):
        return list(cast("dict[str, Any]", value).values())
    return cast("list[Any]", value) if isinstance(value, list) else ()
