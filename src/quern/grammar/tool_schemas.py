"""A tool's schema on its way into the grammar of its calls: as a part of another schema, and its structure alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from quern.grammar.object_shapes import object_shapes
from quern.grammar.schema_walk import ANNOTATIONS, DEFINITIONS, Schema, mapping, rebuilt, sequence, steps

TYPES = ("object", "array", "string", "number", "integer", "boolean", "null")
OTHER_MEMBERS = frozenset({"$ref", "allOf", "anyOf", "oneOf", "patternProperties"})
"""Keywords by which an object may have members that its `properties` don't name."""

OF_A_WHOLE_SCHEMA = frozenset({"$id", "$schema", *DEFINITIONS})
COMBINED = frozenset({"$ref", "allOf", "anyOf", "oneOf"})
"""Keywords by which other schemas say which members an object has."""
OPEN_ENDED = frozenset({"$ref", "additionalProperties", "allOf", "anyOf", "oneOf", "patternProperties"})
NO_ARGUMENTS: Mapping[str, Any] = {"type": "object", "properties": {}, "additionalProperties": False}

Path = tuple[str, ...]


class EmbeddedSchema:
    """The schema of a tool's arguments, with references that still hold where it is embedded.

    `arguments` goes where the arguments are; `definitions` belong into the outermost schema's `$defs`, in which every
    name begins with `prefix`.
    """

    def __init__(self, parameters: Schema, prefix: str) -> None:
        self._prefix = prefix
        self._refers_to_itself = False
        own = {keyword: value for keyword, value in parameters.items() if keyword not in OF_A_WHOLE_SCHEMA}
        takes_nothing = not own.get("properties") and not own.get("required") and OPEN_ENDED.isdisjoint(own)
        self.arguments: dict[str, Any] = (
            dict(NO_ARGUMENTS) if takes_nothing else {"type": "object", **rebuilt(own, self._moved)}
        )
        self._definitions: dict[str, Any] = {
            f"{prefix}.{name}": rebuilt(schema, self._moved)
            for keyword in DEFINITIONS
            for name, schema in mapping(parameters.get(keyword)).items()
        }

    @property
    def definitions(self) -> dict[str, Any]:
        """What `arguments`, and what was moved so far, refer to."""
        return {**self._definitions, **({self._prefix: self.arguments} if self._refers_to_itself else {})}

    def moved(self, schema: Any) -> Any:
        """A schema within that of the arguments, with references that still hold."""
        return rebuilt(schema, self._moved)

    def _moved(self, schema: Schema, _place: str) -> Schema:
        # Annotations would only make a grammar's text long.
        kept = {
            keyword: value
            for keyword, value in schema.items()
            if keyword not in ANNOTATIONS and not keyword.startswith("x-")
        }
        reference = kept.get("$ref")
        if isinstance(reference, str) and reference.startswith("#"):
            kept["$ref"] = self._moved_reference(reference)
        return kept

    def _moved_reference(self, reference: str) -> str:
        for keyword in DEFINITIONS:
            beginning = f"#/{keyword}/"
            if reference.startswith(beginning):
                return f"#/$defs/{self._prefix}.{reference.removeprefix(beginning)}"
        self._refers_to_itself = True
        return f"#/$defs/{self._prefix}{reference.removeprefix('#')}"


def loose_alternatives(parameters: Schema) -> list[dict[str, Any]]:
    """The structures of the shapes that a tool's arguments may have, at least one; each is a schema by itself."""
    if COMBINED.isdisjoint(parameters):
        return [structure_of(parameters)]
    definitions = {keyword: parameters[keyword] for keyword in DEFINITIONS if keyword in parameters}
    return [
        structure_of({"type": "object", "properties": shape.properties, "required": shape.required, **definitions})
        for shape in object_shapes(parameters)
    ]


def structure_of(schema: Mapping[str, Any]) -> dict[str, Any]:
    """A schema of the structure alone, which can always be kept to: types, members, items, choices, and references to
    such. It allows whatever the schema allows: keywords are left out, none is added.
    """
    places: dict[Path, dict[str, Any]] = {}
    structure = _structure(schema, (), places)
    for keyword in DEFINITIONS:
        if definitions := mapping(schema.get(keyword)):
            structure[keyword] = _members(definitions, (keyword,), places)
    for place in _dead_references(places):
        del place["$ref"]
    return structure


def _structure(schema: Any, path: Path, places: dict[Path, dict[str, Any]]) -> dict[str, Any]:
    structure = places[path] = {}
    schema = mapping(schema)
    choices = next((name for name in ("anyOf", "oneOf") if sequence(schema.get(name))), None)
    if isinstance(schema.get("$ref"), str):
        structure["$ref"] = schema["$ref"]
    elif "const" in schema or sequence(schema.get("enum")):
        structure["enum"] = [schema["const"]] if "const" in schema else list(schema["enum"])
    elif choices is not None and "properties" not in schema:
        structure["anyOf"] = _parts(schema[choices], (*path, "anyOf"), places)
    elif len(sequence(schema.get("allOf"))) == 1 and "properties" not in schema:
        structure["allOf"] = _parts(schema["allOf"], (*path, "allOf"), places)
    else:
        structure |= _types(schema) | _of_objects(schema, path, places) | _of_arrays(schema, path, places)
    return _nullable(structure) if schema.get("nullable") is True else structure


def _types(schema: Mapping[str, Any]) -> dict[str, Any]:
    declared = schema.get("type")
    types = [declared] if isinstance(declared, str) else list(sequence(declared))
    return {"type": types if len(types) > 1 else types[0]} if types and all(name in TYPES for name in types) else {}


def _of_objects(schema: Mapping[str, Any], path: Path, places: dict[Path, dict[str, Any]]) -> dict[str, Any]:
    structure: dict[str, Any] = {}
    properties = mapping(schema.get("properties"))
    required = [name for name in sequence(schema.get("required")) if isinstance(name, str)]
    others = schema.get("additionalProperties")
    if not OTHER_MEMBERS.isdisjoint(schema):
        others = None
    if properties:
        structure["properties"] = _members(properties, (*path, "properties"), places)
    if others is False:
        structure["additionalProperties"] = False
        required = [name for name in required if name in properties]
    elif isinstance(others, Mapping):
        structure["additionalProperties"] = _structure(others, (*path, "additionalProperties"), places)
    return structure | ({"required": required} if required else {})


def _of_arrays(schema: Mapping[str, Any], path: Path, places: dict[Path, dict[str, Any]]) -> dict[str, Any]:
    structure: dict[str, Any] = {}
    items = schema.get("items")
    if first := sequence(schema.get("prefixItems")):
        structure["prefixItems"] = _parts(first, (*path, "prefixItems"), places)
    if isinstance(items, Mapping):
        structure["items"] = _structure(items, (*path, "items"), places)
    return structure


def _nullable(structure: dict[str, Any]) -> dict[str, Any]:
    """OpenAPI's way to say that it may be null."""
    if "enum" in structure:
        structure["enum"] = [*structure["enum"], None]
    elif isinstance(structure.get("type"), str):
        structure["type"] = [structure["type"], "null"]
    return structure


def _members(schemas: Mapping[str, Any], path: Path, places: dict[Path, dict[str, Any]]) -> dict[str, Any]:
    return {name: _structure(schema, (*path, name), places) for name, schema in schemas.items()}


def _parts(schemas: Sequence[Any], path: Path, places: dict[Path, dict[str, Any]]) -> list[dict[str, Any]]:
    return [_structure(schema, (*path, str(index)), places) for index, schema in enumerate(schemas)]


def _dead_references(places: Mapping[Path, dict[str, Any]]) -> list[dict[str, Any]]:
    """The places whose reference leads to nothing else than references."""
    leads_on: dict[Path, bool] = {}
    for start in places:
        chain: list[Path] = []
        path: Path | None = start
        while path is not None and path in places and path not in leads_on and "$ref" in places[path]:
            leads_on[path] = False
            chain.append(path)
            path = steps(places[path]["$ref"])
        alive = path is not None and leads_on.get(path, path in places)
        leads_on |= dict.fromkeys(chain, alive)
    return [places[path] for path, alive in leads_on.items() if not alive]
