"""What of a tool's schema every engine can enforce: types, members, items, choices, and references to such."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from quern.grammar.schema_walk import DEFINITIONS, mapping, pointer, sequence

TYPES = ("object", "array", "string", "number", "integer", "boolean", "null")
OTHER_MEMBERS = frozenset({"$ref", "allOf", "anyOf", "oneOf", "patternProperties"})
"""Keywords by which an object may have members that its `properties` don't name."""

Path = tuple[str, ...]


def structure_of(schema: Mapping[str, Any]) -> dict[str, Any]:
    """A schema of the structure alone. It allows whatever the schema allows: keywords are left out, none is added."""
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
            path = pointer(places[path]["$ref"])
        alive = path is not None and leads_on.get(path, path in places)
        leads_on |= dict.fromkeys(chain, alive)
    return [places[path] for path, alive in leads_on.items() if not alive]
