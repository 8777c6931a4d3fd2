"""Ways through JSON schemas that clients sent: their parts, where those stand, and what they refer to. Pure.

A place in a schema is a JSON pointer (RFC 6901) as a URI fragment, such as `#/properties/a`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Generic, TypeVar, cast
from urllib.parse import unquote

DEFINITIONS = ("definitions", "$defs")
MAPS_OF_SCHEMAS = frozenset({"properties", "patternProperties", "dependentSchemas", *DEFINITIONS})
DATA = frozenset({"const", "enum", "default", "examples"})
"""Keywords whose value is no schema, whatever it looks like."""
ANNOTATIONS = frozenset({
    "$comment", "default", "deprecated", "description", "example", "examples", "readOnly", "title", "writeOnly",
})  # fmt: skip
"""Keywords that demand nothing."""
INDEX = re.compile("[0-9]{1,9}")

MOST_NODES = 2**15
"""Schemas that are looked at in all. References let a short text stand for more of them than can ever be visited."""
DEEPEST = 100
"""Schemas in each other, or that refer to each other; Python's own stack ends at some hundreds."""

Schema = Mapping[str, Any]
Value = TypeVar("Value")


def mapping(value: Any) -> Mapping[str, Any]:
    """The value, or nothing where it is no object."""
    return cast("Mapping[str, Any]", value) if isinstance(value, Mapping) else {}


def sequence(value: Any) -> Sequence[Any]:
    """The value, or nothing where it is no array."""
    return cast("Sequence[Any]", value) if isinstance(value, list | tuple) else ()


def places(schemas: Iterable[Schema]) -> Iterator[tuple[str, Schema]]:
    """The schemas and all schemas in them, each with its JSON pointer; outer first."""
    return (place for schema in schemas for place in _walk(schema, _schemas_below))


def objects(schemas: Iterable[Schema]) -> Iterator[tuple[str, Schema]]:
    """The schemas and all objects in them, schemas or not, each with its JSON pointer; outer first."""
    return (place for schema in schemas for place in _walk(schema, _values_below))


def place_of(schemas: Iterable[Schema], keyword: str, value: str | None = None) -> str:
    """Where a keyword stands first, with this value if one is given; empty where it stands nowhere."""
    for place, part in places(schemas):
        if keyword in part and (value is None or part[keyword] == value):
            return place
    return ""


def rebuilt(value: Any, change: Callable[[Schema, str], Schema], place: str = "#") -> Any:
    """A copy in which every schema is what `change` made of it and its JSON pointer, outer ones first.

    Raises RecursionError where they are nested too deeply.
    """
    if isinstance(value, list):
        return [rebuilt(item, change, below(place, index)) for index, item in enumerate(cast("list[Any]", value))]
    if not isinstance(value, Mapping):
        return value
    parts = change(cast("Schema", value), place)
    return {keyword: _rebuilt_part(keyword, part, change, below(place, keyword)) for keyword, part in parts.items()}


class SchemaWalk(Generic[Value]):
    """Finds something out about schemas within `root`, of which some refer to others; in bounded work.

    `find` is given a schema without `$ref` (one that has neighbours has become a part of its `allOf`), and asks the
    walk about the schemas in it. What is found out about a reference is remembered. The answer is `unknown` for a
    circle, and for all that lies beyond the bounds.
    """

    def __init__(self, root: Any, find: Callable[[Schema], Value], unknown: Value) -> None:
        self._root = root
        self._find = find
        self._unknown = unknown
        self._known: dict[str, Value] = {}
        self._left = MOST_NODES
        self._depth = 0

    def of(self, schema: Any) -> Value:
        """What is found out about a schema."""
        if self._depth == DEEPEST or not self.spend(1):
            return self._unknown
        self._depth += 1
        try:
            schema = mapping(schema)
            reference = schema.get("$ref")
            if not isinstance(reference, str):
                return self._find(schema)
            return self._referred(reference) if len(schema) == 1 else self._find(_with_reference_apart(schema))
        finally:
            self._depth -= 1

    def spend(self, nodes: int) -> bool:
        """Count so many more nodes as visited; whether there still were so many."""
        self._left = max(self._left - nodes, -1)
        return self._left >= 0

    def _referred(self, reference: str) -> Value:
        if reference not in self._known:
            self._known[reference] = self._unknown
            self._known[reference] = self.of(at(self._root, reference))
        return self._known[reference]


def steps(reference: str) -> tuple[str, ...] | None:
    """The steps of a JSON pointer such as `#/$defs/Unit`; None where it points out of the schema, or to an anchor."""
    if not (reference == "#" or reference.startswith("#/")):
        return None
    return tuple(step.replace("~1", "/").replace("~0", "~") for step in unquote(reference).split("/")[1:])


def _with_reference_apart(schema: Schema) -> Schema:
    """The same schema, in which what is referred to is one of several that a value has to be of."""
    others = {keyword: value for keyword, value in schema.items() if keyword != "$ref"}
    return {**others, "allOf": [*sequence(schema.get("allOf")), {"$ref": schema["$ref"]}]}


def below(place: str, step: object) -> str:
    """The JSON pointer of what stands there under a keyword, a name or an index."""
    escaped = str(step).replace("~", "~0").replace("/", "~1")
    return f"{place}/{escaped}"


def at(root: Any, reference: str) -> Any:
    """The part of a schema that is referred to; None where there is none."""
    path = steps(reference)
    if path is None:
        return None
    value = root
    for step in path:
        items = sequence(value)
        is_index = INDEX.fullmatch(step) is not None and int(step) < len(items)
        value = items[int(step)] if is_index else mapping(value).get(step)
    return value


def _walk(
    schema: Schema, within: Callable[[str, Schema], Sequence[tuple[str, object]]]
) -> Iterator[tuple[str, Schema]]:
    waiting: list[tuple[str, object]] = [("#", schema)]
    while waiting:
        place, value = waiting.pop()
        if isinstance(value, list):
            items = enumerate(cast("list[object]", value))
            waiting += reversed([(below(place, index), item) for index, item in items])
        elif isinstance(value, Mapping):
            part = cast("Schema", value)
            yield place, part
            waiting += reversed(within(place, part))


def _values_below(place: str, part: Schema) -> list[tuple[str, object]]:
    return [(below(place, keyword), value) for keyword, value in part.items()]


def _schemas_below(place: str, part: Schema) -> list[tuple[str, object]]:
    found: list[tuple[str, object]] = []
    for keyword, value in part.items():
        if keyword in MAPS_OF_SCHEMAS and isinstance(value, Mapping):
            found += _values_below(below(place, keyword), cast("Schema", value))
        elif keyword not in DATA:
            found.append((below(place, keyword), value))
    return found


def _rebuilt_part(keyword: str, part: Any, change: Callable[[Schema, str], Schema], place: str) -> Any:
    if keyword in DATA:
        return part
    if keyword in MAPS_OF_SCHEMAS and isinstance(part, Mapping):
        schemas = cast("Schema", part)
        return {name: rebuilt(schema, change, below(place, name)) for name, schema in schemas.items()}
    return rebuilt(part, change, place)
