"""Which JSON types a tool's schema accepts for each argument."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from itertools import chain
from typing import Any

from quern.grammar.object_shapes import ObjectShape, object_shapes, one_shape
from quern.grammar.schema_walk import SchemaWalk, mapping, sequence

Types = frozenset[str]
"""Names of JSON types as JSON Schema has them; empty means any."""

ANYTHING: Types = frozenset()
NO_CHOICES: tuple[str, ...] = ()
MOST_CHOICE_TEXT = 2**20
"""Characters of all choices of one tool; many arguments may refer to the same long list."""
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
    be read accepts anything. `shape`: of the arguments, one of those that the schema allows; without it all of them
    count.
    """

    def __init__(self, parameters: Mapping[str, Any], shape: ObjectShape | None = None) -> None:
        self._parameters = mapping(parameters)
        self._given_shape = shape
        self._types = SchemaWalk(parameters, self._accepted, ANYTHING)
        self._choices = SchemaWalk(parameters, self._listed, NO_CHOICES)
        self._known: dict[str, Types] = {}
        self._room = MOST_CHOICE_TEXT

    @cached_property
    def _shape(self) -> ObjectShape:
        return self._given_shape or one_shape(object_shapes(self._parameters))

    @property
    def _properties(self) -> Mapping[str, Any]:
        return self._shape.properties

    @property
    def required(self) -> tuple[str, ...]:
        """The arguments that may not be missing."""
        return self._shape.required

    def names(self, name: str) -> bool:
        """Whether the schema names the argument."""
        return name in self._properties

    def may_have(self, name: str) -> bool:
        """Whether the tool may have such an argument: it names it, or names none, or says that it takes others too."""
        return not self._properties or self._shape.open or name in self._properties

    def of(self, name: str) -> Types:
        """What the argument accepts; anything where the schema does not know it."""
        if name not in self._properties:
            return ANYTHING
        if name not in self._known:
            self._known[name] = self._types.of(self._properties[name])
        return self._known[name]

    def choices(self, name: str) -> tuple[str, ...]:
        """The texts that the argument may be, where the schema lists them and all are strings or null; else nothing."""
        choices = self._choices.of(self._properties.get(name))
        self._room -= sum(map(len, choices))
        return choices if self._room >= 0 else NO_CHOICES

    def _accepted(self, schema: Mapping[str, Any]) -> Types:
        types = _declared(schema) or self._combined(schema)
        return types | {"null"} if types and schema.get("nullable") is True else types

    def _combined(self, schema: Mapping[str, Any]) -> Types:
        for keyword in ("anyOf", "oneOf"):
            choices = [self._types.of(choice) for choice in sequence(schema.get(keyword))]
            if choices and all(choices):
                return frozenset[str]().union(*choices)
        for part in sequence(schema.get("allOf")):
            if types := self._types.of(part):
                return types
        return ANYTHING

    def _listed(self, schema: Mapping[str, Any]) -> tuple[str, ...]:
        values = [schema["const"]] if "const" in schema else sequence(schema.get("enum"))
        if values:
            texts = [value for value in values if isinstance(value, str)]
            return tuple(texts) if len(texts) == len(values) else NO_CHOICES
        if schema.get("type") == "null":
            return ("null",)
        parts = sequence(schema.get("anyOf") or schema.get("oneOf"))
        choices = [self._choices.of(part) for part in parts or sequence(schema.get("allOf"))]
        if not parts:  # a value is of all of them, so those of one hold, whatever the others say
            choices = [listed for listed in choices if listed][:1]
        if not all(choices) or not self._choices.spend(sum(map(len, choices))):
            return NO_CHOICES
        return tuple(dict.fromkeys(chain(*choices)))


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
        return frozenset({declared.lower()}) - {"any"}  # Vertex AI writes them in capitals
    if names := [name for name in sequence(declared) if isinstance(name, str)]:
        return frozenset(names)
    if "const" in schema:
        return frozenset({kind(schema["const"])})
    if values := sequence(schema.get("enum")):
        return frozenset(map(kind, values))
    return frozenset({name for key, name in (("properties", "object"), ("items", "array")) if key in schema})
