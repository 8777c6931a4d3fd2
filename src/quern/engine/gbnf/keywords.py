"""The keywords of JSON Schema that are kept to, and what their values must be."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, cast

LARGEST = 10**18
TYPES = ("object", "array", "string", "number", "integer", "boolean", "null")
ANNOTATIONS = frozenset({
    "$schema", "$comment", "$defs", "definitions", "title", "description", "default", "examples", "deprecated",
    "readOnly", "writeOnly", "contentMediaType", "contentEncoding", "discriminator", "x-guidance",
})  # fmt: skip
"""Keywords that no validator looks at; `discriminator` is OpenAPI's, `x-guidance` has llguidance's options."""


def as_object(value: Any) -> dict[str, Any] | None:
    """A JSON object, or None for any other value."""
    return cast("dict[str, Any]", value) if isinstance(value, dict) else None


def as_list(value: Any) -> list[Any] | None:
    """A JSON array, or None for any other value."""
    return cast("list[Any]", value) if isinstance(value, list) else None


def _is_schema(value: Any) -> bool:
    return isinstance(value, dict | bool)


def _is_list(value: Any) -> bool:
    return bool(as_list(value))


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < LARGEST


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < LARGEST


def _is_type(value: Any) -> bool:
    names = [value] if isinstance(value, str) else as_list(value)
    return bool(names) and all(name in TYPES for name in names)


def _are_names(value: Any) -> bool:
    names = as_list(value)
    return names is not None and all(isinstance(name, str) for name in names)


_SCHEMA = ("a schema", _is_schema)
_LIST = ("a list that is not empty", _is_list)
_TEXT = ("a text", _is_text)
_COUNT = ("a count", _is_count)
_NUMBER = (f"a number between -{LARGEST} and {LARGEST}", _is_number)

KEYWORDS: Mapping[str, tuple[str, Callable[[Any], bool]]] = {
    "$id": _TEXT,
    "$ref": _TEXT,
    "allOf": _LIST,
    "anyOf": _LIST,
    "oneOf": _LIST,
    "const": ("a value", lambda _: True),
    "enum": _LIST,
    "type": (f"one of {', '.join(TYPES)}, or a list of some", _is_type),
    "properties": ("an object", lambda value: as_object(value) is not None),
    "required": ("a list of names", _are_names),
    "additionalProperties": _SCHEMA,
    "items": _SCHEMA,
    "prefixItems": _LIST,
    "minItems": _COUNT,
    "maxItems": _COUNT,
    "pattern": _TEXT,
    "format": _TEXT,
    "minLength": _COUNT,
    "maxLength": _COUNT,
    "minimum": _NUMBER,
    "maximum": _NUMBER,
    "exclusiveMinimum": _NUMBER,
    "exclusiveMaximum": _NUMBER,
}
