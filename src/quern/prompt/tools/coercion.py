"""Argument values brought to the types that the tool's schema wants."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from quern.grammar.parameter_types import Types, accepts, kind
from quern.prompt.tools.json_values import JsonValue
from quern.prompt.tools.source import Source, result_of

STRING = frozenset({"string"})
WORDS = {
    "boolean": {"true": "true", "yes": "true", "on": "true", "false": "false", "no": "false", "off": "false"},
    "null": {"null": "null", "none": "null", "nil": "null", "undefined": "null"},
}
LARGEST_EXACT = 2**53
"""Floats above it are not told apart from their neighbours, so they become no integers."""


@dataclass(frozen=True, slots=True)
class Coerced:
    """A value as JSON text; `mended`: it was not what was wanted, and now is."""

    text: str
    mended: bool = False


def from_text(text: str, types: Types) -> Coerced:
    """A value that is written as mere text, without quotes around strings. A string where it can be nothing better."""
    stripped = text.strip()
    found = _typed(stripped, types - STRING) if types - STRING else None
    if found is not None and not (found.mended and "string" in types):
        return found
    return Coerced(as_json(text))


def from_json(text: str, types: Types) -> Coerced:
    """A value that is written as JSON, itself where it can be nothing better."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return Coerced(text)
    if accepts(types, kind(value)):
        return Coerced(text)
    if isinstance(value, str):
        found = _typed(value.strip(), types)
        return Coerced(text) if found is None else Coerced(found.text, mended=True)
    if isinstance(value, float) and "integer" in types and (whole := _whole(value)) is not None:
        return Coerced(whole, mended=True)
    if "string" in types and value is not None:
        return Coerced(as_json(text), mended=True)
    return Coerced(text)


def as_json(value: Any) -> str:
    """A value as JSON text; characters are themselves."""
    return json.dumps(value, ensure_ascii=False)


def _typed(text: str, types: Types, *, quoted: bool = False) -> Coerced | None:
    """Text, which was a JSON string inside a text or not, as a value of one of the types; None where it is none."""
    for name, words in WORDS.items():
        if name in types and (word := words.get(text.lower())) is not None:
            return Coerced(word, mended=word != text)
    read = _read(text)
    if read is None:
        return None
    value = json.loads(read.text)
    if accepts(types, kind(value)):
        return read
    if isinstance(value, str) and not quoted:
        inner = _typed(value.strip(), types, quoted=True)
        return None if inner is None else Coerced(inner.text, mended=True)
    if isinstance(value, float) and "integer" in types and (whole := _whole(value)) is not None:
        return Coerced(whole, mended=True)
    return None


def _read(text: str) -> Coerced | None:
    """Text as JSON, tolerantly; None where it is not one whole value."""
    source = Source.of(text)
    pieces: list[str] = []
    slips: list[None] = []
    value = JsonValue(source, pieces.append, lambda: slips.append(None))
    result_of(value.read())
    if not text or value.broken_off or value.doubtful or not source.exhausted:
        return None
    return Coerced("".join(pieces), mended=bool(slips))


def _whole(number: float) -> str | None:
    return str(int(number)) if number.is_integer() and abs(number) <= LARGEST_EXACT else None
