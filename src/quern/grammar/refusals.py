"""Why a grammar can't be kept to, in sentences for people, and which of its parts is to blame. Pure."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, cast

from quern.grammar.json_schema import schemas_of
from quern.grammar.kinds import Grammar, JsonGrammar
from quern.grammar.schema_walk import Schema, place_of, places

LONGEST_REASON = 200

TOO_COMPLEX_MESSAGES = re.compile(
    r"schema too large|fuel exhausted|precomputation failed|too big|too large|[Tt]oo many|max is \d+"
    r"|Unable to determine if regex is empty"
)
UNIMPLEMENTED = re.compile(r'Unimplemented keys: \["([^"]+)"')
UNKNOWN_FORMAT = re.compile(r"Unknown format: (.+)")
BAD_PATTERN = re.compile(r"regex parse error:\n +(?P<pattern>.*)\n[^\n]*\nerror: (?P<why>.+)")
BEFORE = re.compile(r"\Aat \d+\(\d+\): failed to compile JSON schema: ")
BEHIND = re.compile(r"\n +\d+ \| .*", re.DOTALL)
"""Where a message stands in the grammar's text, and the lines around, which may hold anything."""
UNKNOWN_ID = "it names a token by an id that this model does not have"
EXACT: dict[str, str] = {
    "oneOf constraints are not supported": (
        "the choices of a `oneOf` have to differ in their types or in a required constant; use `anyOf`"
    ),
    "min/maxProperties only supported": (
        "`minProperties` and `maxProperties` need all of `properties` to be in `required`"
    ),
    "Default retriever does not fetch resources": "it refers to a schema elsewhere, and nothing is fetched",
    "recursion limit exceeded": "it is nested too deeply",
    "NoExtension": "nothing satisfies it",
    "Token range end too large": UNKNOWN_ID,
    "number too large to fit in target type": UNKNOWN_ID,
    "Unsatisfiable schema: Regex is empty": "nothing satisfies all of a string's patterns and bounds",
}
"""Parts of messages, and what they mean."""

REPEATED = re.compile(r"\{(?:\d+,)?(\d+)\}")
MOST_WEIGHT = 1e12
LEAST_WEIGHT = 100
"""Nothing below it is worth blaming."""


def reason(message: str, schemas: Sequence[Schema]) -> str:
    """What is wrong with a grammar, to be said after a colon. `message`: llguidance's; `schemas`: those in it."""
    message = BEFORE.sub("", BEHIND.sub("", message))
    if found := UNIMPLEMENTED.search(message):
        return f"the keyword `{found[1]}`{_at(place_of(schemas, found[1]))} is not supported"
    if found := UNKNOWN_FORMAT.search(message):
        return f"the format `{found[1]}`{_at(place_of(schemas, 'format', found[1]))} is not supported"
    if found := BAD_PATTERN.search(message):
        place = place_of(schemas, "pattern", found["pattern"])
        return _bounded(f"a pattern{_at(place)} is not supported: {found['why']} in {found['pattern']}")
    for part, meaning in EXACT.items():
        if part in message:
            return meaning
    if TOO_COMPLEX_MESSAGES.search(message):
        return too_complex(schemas)
    first, _, _ = message.partition("\n")
    return _bounded(first.replace("Unsatisfiable schema", "nothing satisfies it").removesuffix("."))


def too_complex_grammar(grammar: Grammar) -> str:
    """A whole grammar's refusal."""
    kind = "JSON schema" if isinstance(grammar, JsonGrammar) else "grammar"
    return f"This {kind} can't be kept to: {too_complex(schemas_of(grammar))}."


def too_complex(schemas: Sequence[Schema]) -> str:
    """That nobody could keep to it, and which of its parts is to blame most likely; to be said after a colon."""
    part = heaviest_part(schemas)
    cause = f", most likely for its {_bounded(part)}" if part else ""
    return f"it is too complex{cause}; shorter patterns, smaller bounds and fewer alternatives make it simpler"


def _at(place: str) -> str:
    return f" at {_bounded(place)}" if place else ""


def _bounded(text: str) -> str:
    return text if len(text) <= LONGEST_REASON else f"{text[:LONGEST_REASON]}…"


def heaviest_part(schemas: Iterable[Schema]) -> str:
    """Such as "`pattern` at #/properties/a"; empty where nothing stands out."""
    parts = (
        (min(weight(part[keyword]), MOST_WEIGHT), f"`{keyword}` at {pointer}")
        for pointer, part in places(schemas)
        for keyword, weight in WEIGHTS.items()
        if keyword in part
    )
    heaviest, where = max(parts, key=lambda part: part[0], default=(0, ""))
    return where if heaviest >= LEAST_WEIGHT else ""


def _pattern(value: Any) -> float:
    """Counts that repeat each other multiply."""
    if not isinstance(value, str):
        return 0
    return len(value) + math.prod(min(float(count), MOST_WEIGHT) for count in REPEATED.findall(value))


def _number(value: Any) -> float:
    return abs(float(value)) if isinstance(value, int | float) and abs(value) < MOST_WEIGHT else 0


def _members(value: Any) -> float:
    return float(len(cast("list[Any]", value))) if isinstance(value, list | dict) else 0


WEIGHTS: Mapping[str, Callable[[Any], float]] = {
    "pattern": _pattern,
    "multipleOf": _number,
    "patternProperties": lambda value: 100 * _members(value) ** 2,
    "allOf": lambda value: 10 * _members(value) ** 2,
    "anyOf": lambda value: _members(value) ** 2,
    "oneOf": lambda value: _members(value) ** 2,
    "enum": _members,
    "properties": _members,
    "maxLength": lambda value: _number(value) / 1000,
    "maxItems": lambda value: _number(value) / 1000,
    "minItems": lambda value: _number(value) / 1000,
}
