"""JSON schemas on their way to llguidance: what is asked of them first, and how the JSON is to be laid out. Pure."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from enum import StrEnum
from typing import Any, cast

from quern.errors import InvalidRequest
from quern.grammar.kinds import Grammar, JsonGrammar
from quern.grammar.schema_walk import Schema, mapping, objects, rebuilt, sequence

MAX_OPTIONAL = 400
"""Optional properties of one object: each of them may come next, and 400 make a mask take 5 ms."""

MAX_MEETING = 10
"""Different patterns and formats, where schemas are intersected: n of them in one string cost llguidance up to 2^n in
one move, which nothing stops.
"""
MEETS = frozenset({"$ref", "allOf", "anyOf", "oneOf"})
"""Keywords that stand for other schemas, which their neighbours are intersected with."""
NEIGHBOURS = MEETS | {
    "additionalItems", "additionalProperties", "const", "enum", "format", "items", "pattern", "patternProperties",
    "prefixItems", "properties",
}  # fmt: skip


class Llguidance(StrEnum):
    """Whose llguidance keeps an answer to its grammar.

    Those of llama.cpp and of vLLM (1.7 with 0.32) are older. They take a pattern for white space any number of times in
    a row, and a small model then writes blanks for ever; so JSON is laid out in one line there. And that of llama.cpp
    sees user-defined tokens as the text that they are written as.
    """

    OWN = "own"
    LLAMA_CPP = "llama.cpp"
    VLLM = "vllm"


WHITESPACE = r" |\n(?: {0,40}|\t{0,10})"
"""What may stand between two tokens of JSON, once: models write a blank, or a line break and an indentation."""
ONE_LINE: Mapping[str, Any] = {
    "whitespace_flexible": False, "item_separator": ", ", "key_separator": ": ", "lenient": False,
}  # fmt: skip
LAYOUTS: Mapping[Llguidance, Mapping[str, Any]] = {
    Llguidance.OWN: {"whitespace_pattern": WHITESPACE, "lenient": False},
    Llguidance.LLAMA_CPP: ONE_LINE,
    Llguidance.VLLM: ONE_LINE,
}
"""llguidance's options, which it looks for in a schema's `x-guidance`. `lenient` would ignore what it can't keep to."""

FRACTION = r"^[^.]*(\.[0-9]{1,6}([^0-9].*)?)?$"
BOUNDS = {"time": FRACTION, "date-time": FRACTION}
"""Patterns that go with formats: a model that wants no time zone, which has to come, would write digits for ever."""

LARK_TOKEN = re.compile(r'"(?:\\.|[^"\\\n])*"|(?://|#)[^\n]*|<[^<>\[\]\s]+>|/(?:\\.|[^/\\\n])+/|%json\s*')
"""What may hold the text `%json` or `<…>` without being it; a special token; and `%json` itself."""
NAMED_BY_ID = re.compile(rf"(<\[[^\]\n]*\]>)|{LARK_TOKEN.pattern}")
"""Tokens by their ids, `<[7]>` or `<[7-9,^8]>`, or what may hold that text without being it."""

TOO_DEEP = "This JSON schema can't be kept to: it is nested too deeply."


def read_schema(text: str) -> Schema:
    """A checked schema from its text. Raises InvalidRequest."""
    try:
        schema: object = json.loads(text)
    except RecursionError:
        raise InvalidRequest(TOO_DEEP) from None
    except json.JSONDecodeError as error:
        raise InvalidRequest(f"This JSON schema is no JSON: {error}.") from error
    except ValueError:
        raise InvalidRequest("This JSON schema can't be kept to: a number in it is too long.") from None
    if not isinstance(schema, dict):
        raise InvalidRequest("A JSON schema is a JSON object, and this one is another value.")
    checked = cast("Schema", schema)
    _check_limits([checked])
    return checked


def schemas_of(grammar: Grammar) -> list[Schema]:
    """The schemas in a grammar, checked. Raises InvalidRequest."""
    return for_llguidance(grammar)[1]


def for_llguidance(
    grammar: Grammar, special: Mapping[str, int] | None = None, llguidance: Llguidance = Llguidance.OWN
) -> tuple[str, list[Schema]]:
    """The grammar as Lark that llguidance keeps to, and the schemas in it, checked. Raises InvalidRequest.

    Each schema gets the layout of its JSON, and bounds that it does not have itself. `special`: the ids of special
    tokens, which are written instead of their names.
    """
    if isinstance(grammar, JsonGrammar):
        schema = read_schema(grammar.schema)
        return f"start: %json {_laid_out(schema, llguidance)}", [schema]
    ids = special or {}
    pieces: list[str] = []
    schemas: list[Schema] = []
    done = 0
    while found := LARK_TOKEN.search(grammar.lark, done):
        token, end = found.group(), found.end()
        pieces.append(grammar.lark[done : found.start()])
        pieces.append(f"<[{ids[token]}]>" if token in ids else token)
        if token.startswith("%json"):
            schema, end = _json_at(grammar.lark, end)
            if schema is not None:
                schemas.append(schema)
                pieces.append(_laid_out(schema, llguidance))
        done = end
    _check_limits(schemas)
    return "".join([*pieces, grammar.lark[done:]]), schemas


def with_ids_replaced(lark: str, other: str) -> str:
    """The grammar with `other` instead of every token that it names by an id, or by a range of ids."""
    return NAMED_BY_ID.sub(lambda found: other if found[1] else found[0], lark)


def _json_at(lark: str, start: int) -> tuple[Schema | None, int]:
    """The schema there, and where it ends; nothing where there is none: llguidance will say what is wrong with it."""
    try:
        value, end = json.JSONDecoder().raw_decode(lark, start)
    except (ValueError, RecursionError):
        return None, start
    return (cast("Schema", value), end) if isinstance(value, dict) else (None, start)


def _laid_out(schema: Schema, llguidance: Llguidance) -> str:
    try:
        return json.dumps({**rebuilt(schema, _bounded), "x-guidance": LAYOUTS[llguidance]})
    except RecursionError:
        raise InvalidRequest(TOO_DEEP) from None


def _bounded(schema: Schema, _place: str) -> Schema:
    pattern = BOUNDS.get(_text(schema.get("format")) or "")
    return schema if pattern is None else {"pattern": pattern, **schema}


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None


def _check_limits(schemas: Iterable[Schema]) -> None:
    meeting, strings = False, set[tuple[str, str]]()
    # A `$ref` can make a schema of anything that looks like one.
    for place, part in objects(schemas):
        meeting |= _intersects(part)
        strings |= {(keyword, value) for keyword in ("pattern", "format") if (value := _text(part.get(keyword)))}
        required = {name for name in sequence(part.get("required")) if isinstance(name, str)}
        optional = len(mapping(part.get("properties")).keys() - required)
        if optional > MAX_OPTIONAL:
            raise InvalidRequest(
                f"This JSON schema can't be kept to: the object at {place} has {optional} optional properties, "
                f"and at most {MAX_OPTIONAL} can be served. Make some of them required, or leave some out."
            )
    if meeting and len(strings) > MAX_MEETING:
        raise InvalidRequest(
            f"This JSON schema can't be kept to: it has {len(strings)} different patterns and formats, and at most "
            f"{MAX_MEETING} can be served where `allOf`, or `$ref`, `anyOf` or `oneOf` next to other keywords, make a "
            f"value satisfy several schemas at once."
        )


def _intersects(part: Schema) -> bool:
    """Whether it makes one value satisfy several schemas."""
    several = len(sequence(part.get("allOf"))) > 1
    return several or (not MEETS.isdisjoint(part) and len(NEIGHBOURS & part.keys()) > 1)
