"""What of a tool's schema every engine can enforce: types, members, items, choices, and references to such."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast
from urllib.parse import unquote

DEFINITIONS = ("definitions", "$defs")
TYPES = ("object", "array", "string", "number", "integer", "boolean", "null")
OTHER_MEMBERS = frozenset({"$ref", "allOf", "anyOf", "oneOf", "patternProperties"})
"""Keywords by which an object may have members that its `properties` don't name."""

Path = tuple[str, ...]


def structure_of(schema: Mapping[str, Any]) -> dict[str, Any]:
    """A schema of the structure alone. It allows whatever the schema allows: keywords are left out, none is added."""
    places: dict[Path, dict[str, Any]] = {}
    structure = _structure(schema, (), places)
    for keyword in DEFINITIONS:
        if definitions := _mapping(schema.get(keyword)):
            structure[keyword] = _members(definitions, (keyword,), places)
    for place in places.values():
        if "$ref" in place and not _leads_on(place, places):
            del place["$ref"]
    return structure


def _structure(schema: Any, path: Path, places: dict[Path, dict[str, Any]]) -> dict[str, Any]:
    structure = places[path] = {}
    schema = _mapping(schema)
    choices = next((name for name in ("anyOf", "oneOf") if _sequence(schema.get(name))), None)
    if isinstance(schema.get("$ref"), str):
        structure["$ref"] = schema["$ref"]
    elif "const" in schema or _sequence(schema.get("enum")):
        structure["enum"] = [schema["const"]] if "const" in schema else list(schema["enum"])
    elif choices is not None and "properties" not in schema:
        structure["anyOf"] = _parts(schema[choices], (*path, "anyOf"), places)
    elif len(_sequence(schema.get("allOf"))) == 1 and "properties" not in schema:
        structure["allOf"] = _parts(schema["allOf"], (*path, "allOf"), places)
    else:
        structure |= _types(schema) | _of_objects(schema, path, places) | _of_arrays(schema, path, places)
    return _nullable(structure) if schema.get("nullable") is True else structure


def _types(schema: Mapping[str, Any]) -> dict[str, Any]:
    declared = schema.get("type")
    types = [declared] if isinstance(declared, str) else list(_sequence(declared))
    return {"type": types if len(types) > 1 else types[0]} if types and all(name in TYPES for name in types) else {}


def _of_objects(schema: Mapping[str, Any], path: Path, places: dict[Path, dict[str, Any]]) -> dict[str, Any]:
    structure: dict[str, Any] = {}
    properties = _mapping(schema.get("properties"))
    required = [name for name in _sequence(schema.get("required")) if isinstance(name, str)]
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
    if first := _sequence(schema.get("prefixItems")):
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


def _leads_on(place: dict[str, Any], places: Mapping[Path, dict[str, Any]]) -> bool:
    """Whether a reference leads to something else than references."""
    seen: set[str] = set()
    target: dict[str, Any] | None = place
    while target is not None and "$ref" in target:
        reference: str = target["$ref"]
        if reference in seen or reference[:2] not in {"#", "#/"}:
            return False
        seen.add(reference)
        steps = unquote(reference).removeprefix("#").split("/")[1:]
        target = places.get(tuple(step.replace("~1", "/").replace("~0", "~") for step in steps))
    return target is not None


def _mapping(value: Any) -> Mapping[str, Any]:
    return cast("Mapping[str, Any]", value) if isinstance(value, Mapping) else {}


def _sequence(value: Any) -> Sequence[Any]:
    return cast("Sequence[Any]", value) if isinstance(value, list | tuple) else ()
