"""Which JSON types a tool's schema accepts for each argument."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import chain
from typing import Any, cast
from urllib.parse import unquote

Types = frozenset[str]
"""Names of JSON types as JSON Schema has them; empty means any."""

ANYTHING: Types = frozenset()
KINDS = (
    (bool, "boolean"),
    (int, "integer"),
    (float, "number"),
    (str, "string"),
    (Mapping, "object"),
    ((list, tuple), "array"),
    (type(None), "null"),
)
"""Python's types as JSON names them; the first that fits counts, since a bool is an int."""


class ParameterTypes:
    """The types of one tool's arguments, read from `parameters`, the JSON schema of its arguments' object.

    References within the schema, `anyOf`, `oneOf`, `allOf`, `enum`, `const` and lists of types are followed; what can't
    be read accepts anything.
    """

    def __init__(self, parameters: Mapping[str, Any]) -> None:
        self._root = parameters
        self._properties = _mapping(_mapping(parameters).get("properties"))
        self._known: dict[str, Types] = {}

    def of(self, name: str) -> Types:
        """What the argument accepts; anything where the schema does not know it."""
        if name not in self._known:
            self._known[name] = self._accepted(self._properties.get(name), frozenset())
        return self._known[name]

    def choices(self, name: str) -> tuple[str, ...]:
        """The texts that the argument may be, where the schema lists them and all are strings or null; else nothing."""
        return self._choices(self._properties.get(name), frozenset())

    def _accepted(self, schema: Any, seen: frozenset[str]) -> Types:
        schema = _mapping(schema)
        reference = schema.get("$ref")
        if isinstance(reference, str):
            return ANYTHING if reference in seen else self._accepted(self._at(reference), seen | {reference})
        types = _declared(schema) or self._combined(schema, seen)
        return types | {"null"} if types and schema.get("nullable") is True else types

    def _combined(self, schema: Mapping[str, Any], seen: frozenset[str]) -> Types:
        for keyword in ("anyOf", "oneOf"):
            choices = [self._accepted(choice, seen) for choice in _sequence(schema.get(keyword))]
            if choices and all(choices):
                return frozenset[str]().union(*choices)
        for part in _sequence(schema.get("allOf")):
            if types := self._accepted(part, seen):
                return types
        return ANYTHING

    def _choices(self, schema: Any, seen: frozenset[str]) -> tuple[str, ...]:
        schema = _mapping(schema)
        reference = schema.get("$ref")
        if isinstance(reference, str):
            return () if reference in seen else self._choices(self._at(reference), seen | {reference})
        values = [schema["const"]] if "const" in schema else [*_sequence(schema.get("enum"))]
        if values:
            return (
                tuple(value for value in values if isinstance(value, str)) if {*map(kind, values)} == {"string"} else ()
            )
        if schema.get("type") == "null":
            return ("null",)
        parts = [*_sequence(schema.get("anyOf") or schema.get("oneOf") or schema.get("allOf"))]
        choices = [self._choices(part, seen) for part in parts]
        return tuple(chain(*choices)) if all(choices) else ()

    def _at(self, reference: str) -> Any:
        """The part of the schema that a JSON pointer such as `#/$defs/Unit` names; None where there is none."""
        value: Any = self._root
        for part in reference.removeprefix("#").split("/")[1:]:
            value = _mapping(value).get(unquote(part).replace("~1", "/").replace("~0", "~"))
        return value


def kind(value: Any) -> str:
    """The JSON type of a value as `json.loads` gives it; `integer` only for those without a fraction point."""
    for types, name in KINDS:
        if isinstance(value, types):
            return name
    return ""


def accepts(types: Types, kind_of_value: str) -> bool:
    """Whether a value of this type is one of the types."""
    return not types or kind_of_value in types or (kind_of_value == "integer" and "number" in types)


def _declared(schema: Mapping[str, Any]) -> Types:
    declared = schema.get("type")
    if isinstance(declared, str):
        return frozenset({declared})
    if names := [name for name in _sequence(declared) if isinstance(name, str)]:
        return frozenset(names)
    if "const" in schema:
        return frozenset({kind(schema["const"])})
    if values := _sequence(schema.get("enum")):
        return frozenset(map(kind, values))
    return frozenset({name for key, name in (("properties", "object"), ("items", "array")) if key in schema})


def _mapping(value: Any) -> Mapping[str, Any]:
    return cast("Mapping[str, Any]", value) if isinstance(value, Mapping) else {}


def _sequence(value: Any) -> Iterable[Any]:
    is_list = isinstance(value, Sequence) and not isinstance(value, str)
    return cast("Iterable[Any]", value) if is_list else ()
