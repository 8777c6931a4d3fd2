"""Why a grammar can't be kept to: llguidance's messages as sentences that name the part. Pure."""

from __future__ import annotations

import re
from collections.abc import Sequence

from quern.grammar.complexity import heaviest_part
from quern.grammar.grammar import Grammar, JsonGrammar
from quern.grammar.json_schema import Schema, place_of, schemas_of

LONGEST_REASON = 200

TOO_COMPLEX_MESSAGES = re.compile(
    r"schema too large|fuel exhausted|precomputation failed|too big|too large|[Tt]oo many|max is \d+"
    r"|Unable to determine if regex is empty"
)
UNIMPLEMENTED = re.compile(r'Unimplemented keys: \["([^"]+)"')
UNKNOWN_FORMAT = re.compile(r"Unknown format: (.+)")
BAD_PATTERN = re.compile(r"regex parse error:\n +(?P<pattern>.*)\n[^\n]*\nerror: (?P<why>.+)")
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
    "Unsatisfiable schema: Regex is empty": "nothing satisfies all of a string's patterns and bounds",
}
"""Parts of messages, and what they mean."""


def reason(message: str, schemas: Sequence[Schema]) -> str:
    """What is wrong with a grammar, to be said after a colon. `schemas`: those in it."""
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
