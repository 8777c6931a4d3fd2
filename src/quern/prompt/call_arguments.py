"""Arguments of calls that were made before, as the model is shown them."""

from __future__ import annotations

import json
from typing import Any, cast

from pydantic_core import from_json

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
    if isinstance(value, dict):
        return cast("dict[str, Any]", value)
    return {} if value is None else {UNREADABLE: value}


def _value(text: str) -> Any:
    """The value of a JSON text, as far as it goes; None for a blank one, and the text itself where it is no JSON."""
    if not text.strip():
        return None
    try:
        return json.loads(text, strict=False)
    except (ValueError, RecursionError):
        pass
    try:
        return from_json(text, allow_partial="trailing-strings")
    except ValueError:
        return text
