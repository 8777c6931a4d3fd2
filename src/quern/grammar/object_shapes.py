"""Which members the objects of a schema have, found by walking it from its root: references, `allOf`, `anyOf` and the
like lead to them as `properties` do. Pure.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain, product
from typing import Any

from quern.grammar.schema_walk import Schema, SchemaWalk, mapping, sequence

MOST_ALTERNATIVES = 16
"""More shapes than these are taken for one that has the members of all."""
CHOICES = ("anyOf", "oneOf")
CONDITIONAL = ("then", "else")


@dataclass(frozen=True, slots=True)
class ObjectShape:
    """`properties`: the members' schemas, by name; `required`: those that may not be missing; `open`: the schema says
    that others are welcome. (JSON Schema lets an object have others wherever it doesn't forbid them, but who lists a
    tool's arguments means those.)
    """

    properties: Mapping[str, Any] = field(default_factory=dict[str, Any])
    required: tuple[str, ...] = ()
    open: bool = False


def object_shapes(schema: Mapping[str, Any]) -> tuple[ObjectShape, ...]:
    """The alternatives that a schema allows, at least one. Those of `anyOf` and `oneOf` stand side by side, what
    `allOf` and references add is a part of each. A required member without a schema has one that allows anything.
    """
    shapes = _Shapes(schema).of(schema)
    return tuple(map(_complete, shapes)) or (ObjectShape(),)


def one_shape(shapes: Sequence[ObjectShape]) -> ObjectShape:
    """A shape with the members of all; what is required in each of them is."""
    if len(shapes) == 1:
        return shapes[0]
    required = [name for name in shapes[0].required if all(name in shape.required for shape in shapes)]
    return ObjectShape(_joined("anyOf", shapes), tuple(required), any(shape.open for shape in shapes))


class _Shapes:
    """Shapes of the schemas within a root; none of what is no object, or leads back to itself."""

    def __init__(self, root: Schema) -> None:
        self._walk: SchemaWalk[tuple[ObjectShape, ...]] = SchemaWalk(root, self._found, ())

    def of(self, schema: Any) -> tuple[ObjectShape, ...]:
        return self._walk.of(schema)

    def _found(self, schema: Schema) -> tuple[ObjectShape, ...]:
        declared = schema.get("type")
        if declared is not None and "object" not in (declared, *sequence(declared)):
            return ()
        choices = [tuple(chain(*map(self.of, sequence(schema.get(keyword))))) for keyword in CHOICES]
        conditional = [schema[keyword] for keyword in CONDITIONAL if keyword in schema]
        conditional += mapping(schema.get("dependentSchemas")).values()
        parts = [
            (_own(schema),),
            *map(self.of, sequence(schema.get("allOf"))),
            *choices,
            *(tuple(ObjectShape(shape.properties) for shape in self.of(part)) for part in conditional),
        ]
        parts = [shapes for shapes in parts if shapes]
        if math.prod(map(len, parts)) > MOST_ALTERNATIVES:
            parts = [(one_shape(shapes),) for shapes in parts]
        if not self._walk.spend(sum(len(shape.properties) for shapes in parts for shape in shapes)):
            return parts[0]
        return tuple(map(_together, product(*parts)))


def _own(schema: Schema) -> ObjectShape:
    properties = {name: part for name, part in mapping(schema.get("properties")).items() if part is not False}
    required = tuple(name for name in sequence(schema.get("required")) if isinstance(name, str))
    others = schema.get("additionalProperties", schema.get("unevaluatedProperties"))
    is_open = others is True or isinstance(others, Mapping) or bool(mapping(schema.get("patternProperties")))
    return ObjectShape(properties, required, is_open)


def _together(shapes: Sequence[ObjectShape]) -> ObjectShape:
    """What has to be of all of the shapes."""
    if len(shapes) == 1:
        return shapes[0]
    required = tuple(dict.fromkeys(chain(*(shape.required for shape in shapes))))
    return ObjectShape(_joined("allOf", shapes), required, any(shape.open for shape in shapes))


def _joined(keyword: str, shapes: Iterable[ObjectShape]) -> dict[str, Any]:
    """The members of all shapes. One that several have is of their schemas as the keyword says, each of them once."""
    found: dict[str, dict[int, Any]] = {}
    for shape in shapes:
        for name, schema in shape.properties.items():
            found.setdefault(name, {})[id(schema)] = schema
    return {name: _one(keyword, list(schemas.values())) for name, schemas in found.items()}


def _one(keyword: str, schemas: list[Any]) -> Any:
    if keyword == "allOf":
        schemas = [schema for schema in schemas if mapping(schema)] or schemas[:1]
    return schemas[0] if len(schemas) == 1 else {keyword: schemas}


def _complete(shape: ObjectShape) -> ObjectShape:
    missing: dict[str, Any] = {name: {} for name in shape.required if name not in shape.properties}
    return ObjectShape({**shape.properties, **missing}, shape.required, shape.open) if missing else shape
