"""JSON schemas on their way to llguidance: what is asked of them first, and how the JSON is to be laid out. Pure."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, cast

from quern.errors import InvalidRequest
from quern.grammar.grammar import Grammar, JsonGrammar

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

WHITESPACE = r" |\n(?: {0,40}|\t{0,10})"
"""What may stand between two tokens of JSON, once: models write a blank, or a line break and an indentation. Without a
bound a small model writes blanks for ever."""
LAYOUT = {"x-guidance": {"whitespace_pattern": WHITESPACE, "lenient": False}}
"""llguidance's options, where it looks for them: in the schema. `lenient` would ignore what it can't keep to."""

FRACTION = r"^[^.]*(\.[0-9]{1,6}([^0-9].*)?)?$"
BOUNDS = {"time": FRACTION, "date-time": FRACTION}
"""Patterns that go with formats: a model that wants no time zone, which has to come, would write digits for ever."""

MAPS_OF_SCHEMAS = frozenset({"properties", "patternProperties", "$defs", "definitions", "dependentSchemas"})
DATA = frozenset({"const", "enum", "default", "examples"})
"""Keywords whose value is no schema, whatever it looks like."""

LARK_TOKEN = re.compile(r'"(?:\\.|[^"\\\n])*"|(?://|#)[^\n]*|/(?:\\.|[^/\\\n])+/|%json\s*')
"""What may hold the text `%json` without being it, and `%json` itself."""

TOO_DEEP = "This JSON schema can't be kept to: it is nested too deeply."

Schema = Mapping[str, Any]


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


def for_llguidance(schema: Schema) -> dict[str, Any]:
    """The schema with the layout of its JSON, and with bounds that it does not have itself. Raises InvalidRequest."""
    try:
        return {**_bounded(schema), **LAYOUT}
    except RecursionError:
        raise InvalidRequest(TOO_DEEP) from None


def _bounded(value: Any) -> Any:
    if isinstance(value, list):
        return [_bounded(item) for item in cast("list[object]", value)]
    if not isinstance(value, dict):
        return value
    schema = {
        keyword: part if keyword in DATA else _bounded(part) for keyword, part in cast("dict[str, Any]", value).items()
    }
    pattern = BOUNDS.get(_text(schema.get("format")) or "")
    return schema if pattern is None else {"pattern": pattern, **schema}


def schemas_in_lark(lark: str) -> tuple[str, list[Schema]]:
    """A Lark grammar for llguidance, with the layout in each of its `%json` schemas; and those schemas, checked.

    Raises InvalidRequest.
    """
    pieces: list[str] = []
    schemas: list[Schema] = []
    decoder = json.JSONDecoder()
    done = 0
    while found := LARK_TOKEN.search(lark, done):
        end = found.end()
        pieces.append(lark[done:end])
        if found.group().startswith("%json"):
            try:
                value, after = decoder.raw_decode(lark, end)
            except (ValueError, RecursionError):
                value, after = None, end  # llguidance will say what is wrong with it
            if isinstance(value, dict):
                schemas.append(cast("Schema", value))
                pieces.append(json.dumps(for_llguidance(schemas[-1])))
                end = after
        done = end
    _check_limits(schemas)
    return "".join([*pieces, lark[done:]]), schemas


def place_of(schemas: Iterable[Schema], keyword: str, value: object = None) -> str:
    """Where a keyword stands first, with this value if one is given: as a JSON pointer such as `#/properties/a`.

    Empty where it stands nowhere.
    """
    for pointer, part in places(schemas):
        if keyword in part and value in {None, _text(part[keyword])}:
            return pointer
    return ""


def places(schemas: Iterable[Schema]) -> Iterator[tuple[str, Schema]]:
    """The schemas and all schemas in them, each with its JSON pointer; outer first."""
    return (place for schema in schemas for place in _objects(schema, schemas_only=True))


def schemas_of(grammar: Grammar) -> list[Schema]:
    """The schemas in a grammar, checked. Raises InvalidRequest."""
    return [read_schema(grammar.schema)] if isinstance(grammar, JsonGrammar) else schemas_in_lark(grammar.lark)[1]


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None


def _check_limits(schemas: Iterable[Schema]) -> None:
    meeting, strings = False, set[tuple[str, str]]()
    # A `$ref` can make a schema of anything that looks like one.
    for pointer, part in (place for schema in schemas for place in _objects(schema, schemas_only=False)):
        meeting |= _intersects(part)
        strings |= {(keyword, value) for keyword in ("pattern", "format") if (value := _text(part.get(keyword)))}
        optional = len(_keys(part.get("properties")) - set(_strings(part.get("required"))))
        if optional > MAX_OPTIONAL:
            raise InvalidRequest(
                f"This JSON schema can't be kept to: the object at {pointer} has {optional} optional properties, "
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
    all_of: object = part.get("allOf")
    several = isinstance(all_of, list) and len(cast("list[object]", all_of)) > 1
    return several or (not MEETS.isdisjoint(part) and len(NEIGHBOURS & part.keys()) > 1)


def _keys(value: object) -> set[str]:
    return set(cast("dict[str, object]", value)) if isinstance(value, dict) else set()


def _strings(value: object) -> list[str]:
    return [name for name in cast("list[object]", value) if isinstance(name, str)] if isinstance(value, list) else []


def _objects(schema: Schema, *, schemas_only: bool) -> Iterator[tuple[str, Schema]]:
    """The schema and all objects in it, or only those that are schemas, each with its JSON pointer; outer first."""
    waiting: list[tuple[str, object]] = [("#", schema)]
    while waiting:
        pointer, value = waiting.pop()
        if isinstance(value, list):
            items = list(enumerate(cast("list[object]", value)))
            waiting += [(f"{pointer}/{index}", item) for index, item in reversed(items)]
        elif isinstance(value, dict):
            part = cast("Schema", value)
            yield pointer, part
            below = _schemas_below if schemas_only else _values_below
            waiting += reversed(below(pointer, part))


def _values_below(pointer: str, part: Schema) -> list[tuple[str, object]]:
    return [(f"{pointer}/{_escaped(keyword)}", part[keyword]) for keyword in part]


def _schemas_below(pointer: str, part: Schema) -> list[tuple[str, object]]:
    places: list[tuple[str, object]] = []
    for keyword, value in part.items():
        if keyword in MAPS_OF_SCHEMAS and isinstance(value, dict):
            places += _values_below(f"{pointer}/{keyword}", cast("Schema", value))
        elif keyword not in DATA:
            places.append((f"{pointer}/{_escaped(keyword)}", value))
    return places


def _escaped(name: str) -> str:
    """A JSON pointer's reference token (RFC 6901)."""
    return name.replace("~", "~0").replace("/", "~1")
