"""What clients' generators put into JSON schemas without asking for anything, taken out; and what nobody can keep to
exactly, made wider and named. Pure.

Seen from pydantic, zod, TypeBox, LangChain, Vertex AI, .NET and Java: `null` for what is left out, the bounds of a
64-bit integer, formats of their own, the address of a dialect, names of members that are strings.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeGuard

from quern.grammar.schema_walk import ANNOTATIONS, Schema, at, mapping, rebuilt, sequence

FORMATS = frozenset({
    "date", "time", "date-time", "duration", "email", "hostname", "ipv4", "ipv6", "uuid", "uri", "unknown",
})  # fmt: skip
"""Those that an engine keeps to; JSON Schema calls all formats annotations."""
LARGEST = 10**18
SMALLEST = 1e-50
"""Bounds that are farther from zero, or nearer to it, can't be kept to."""
LONGEST = 2**31
"""No answer has so many characters, items or members."""
LOWER, UPPER = ("minimum", "exclusiveMinimum"), ("maximum", "exclusiveMaximum")
AT_LEAST, AT_MOST = ("minLength", "minItems", "minProperties"), ("maxLength", "maxItems", "maxProperties")
NULL_IS_A_VALUE = frozenset({"const", "default", "example"})
EMPTY_LISTS = frozenset({"anyOf", "oneOf"})
EMPTY_MAPS = frozenset({"dependencies", "dependentRequired", "dependentSchemas"})
ASKS_NOTHING: Mapping[str, Callable[[Any], bool]] = {
    "$schema": lambda _: True,
    "$dynamicAnchor": lambda _: True,
    "$recursiveAnchor": lambda _: True,
    "type": lambda value: value in ("any", []),
    "format": lambda value: not isinstance(value, str),
    "uniqueItems": lambda value: value is False,
    "not": lambda value: value is False,
    **dict.fromkeys(("unevaluatedItems", "unevaluatedProperties"), lambda value: value in (True, {})),
    **dict.fromkeys(EMPTY_LISTS, lambda value: value == []),
    **dict.fromkeys(EMPTY_MAPS, lambda value: value == {}),
    **dict.fromkeys(AT_LEAST, lambda value: _is_number(value) and value <= 0),
}
"""Keywords, and when they do. What else asks nothing is read as such anyway."""
PARTNERS: Mapping[str, tuple[str, ...]] = {
    "then": ("if",),
    "else": ("if",),
    "if": ("then", "else"),
    "minContains": ("contains",),
    "maxContains": ("contains",),
}
"""Keywords that mean nothing without one of these."""
APPLICATORS = frozenset({"$ref", "$dynamicRef", "allOf", "anyOf", "oneOf", "if", "not", "dependentSchemas"})


@dataclass(frozen=True, slots=True)
class Relaxed:
    """`schema`: with the same meaning, except for what `ignored` names: a sentence for each part, with its place."""

    schema: Schema
    ignored: tuple[str, ...] = ()


def relaxed(schema: Schema) -> Relaxed:
    """A schema, without what asks nothing and with wider bounds where they can't be kept to. What can't be kept to and
    is more than a bound or a format stays, so that it is refused.
    """
    relaxing = _Relaxing(schema)
    try:
        return Relaxed(rebuilt(schema, relaxing.change), tuple(relaxing.ignored))
    except RecursionError:
        return Relaxed(schema)


def relaxed_text(text: str) -> tuple[str, tuple[str, ...]]:
    """The same for a schema as text. What is no JSON object stays as it is, for others to refuse."""
    try:
        schema: object = json.loads(text)
    except (ValueError, RecursionError):
        return text, ()
    if not isinstance(schema, dict):
        return text, ()
    found = relaxed(mapping(schema))
    return text if found.schema == schema else json.dumps(found.schema, ensure_ascii=False), found.ignored


class _Relaxing:
    """One schema's parts, one after the other."""

    def __init__(self, root: Schema) -> None:
        self._root = root
        self.ignored: list[str] = []

    def change(self, schema: Schema, place: str) -> Schema:
        changed = {keyword: value for keyword, value in schema.items() if not _asks_nothing(keyword, value)}
        for keyword, partners in PARTNERS.items():
            if keyword in changed and not any(partner in changed for partner in partners):
                del changed[keyword]
        if "$ref" in changed:  # llguidance knows no circles where anything stands beside them
            changed = {keyword: value for keyword, value in changed.items() if not _is_annotation(keyword)}
        if isinstance(changed.get("type"), str):
            changed["type"] = changed["type"].lower() if changed["type"].isupper() else changed["type"]
        self._members(changed)
        self._format(changed, place)
        self._bounds(changed, place)
        return changed

    def _members(self, schema: dict[str, Any]) -> None:
        properties = mapping(schema.get("properties"))
        if properties:
            # Draft 3 says at the member itself that it is required, and some generators write null for no schema.
            named = [name for name, part in properties.items() if mapping(part).get("required") is True]
            schema["properties"] = {
                name: {} if part is None else _unlike_draft_3(part) for name, part in properties.items()
            }
            if named:
                schema["required"] = list(dict.fromkeys([*sequence(schema.get("required")), *named]))
        if isinstance(schema.get("required"), bool):
            del schema["required"]
        if schema.get("unevaluatedProperties") is False and APPLICATORS.isdisjoint(schema):
            del schema["unevaluatedProperties"]
            schema.setdefault("additionalProperties", False)
        if schema.get("unevaluatedItems") is False and APPLICATORS.isdisjoint(schema) and "contains" not in schema:
            del schema["unevaluatedItems"]
            schema.setdefault("items", False)
        if "propertyNames" in schema:
            self._names(schema)

    def _names(self, schema: dict[str, Any]) -> None:
        """Names that may be any say nothing; those of a list or a pattern can be said in another way."""
        names = schema["propertyNames"]
        if isinstance(reference := mapping(names).get("$ref"), str):
            names = at(self._root, reference)
        asked = {key: value for key, value in mapping(names).items() if not _is_annotation(key)}
        asked = {key: value for key, value in asked.items() if not _asks_nothing(key, value)}
        if asked.get("type") == "string":
            del asked["type"]
        if names is not True and names != {} and not mapping(names):
            return
        if not asked:
            del schema["propertyNames"]
            return
        if not APPLICATORS.isdisjoint(schema) or "properties" in schema or "patternProperties" in schema:
            return
        others = schema.get("additionalProperties", {})
        listed = [asked["const"]] if "const" in asked else list(sequence(asked.get("enum")))
        if len(asked) == 1 and listed:
            schema["properties"] = {name: others for name in listed if isinstance(name, str)}
        elif len(asked) == 1 and isinstance(asked.get("pattern"), str):
            schema["patternProperties"] = {asked["pattern"]: others}
        else:
            return
        schema["additionalProperties"] = False
        del schema["propertyNames"]

    def _format(self, schema: dict[str, Any], place: str) -> None:
        name = schema.get("format")
        if name is not None and name not in FORMATS:
            del schema["format"]
            if schema.get("type", "string") not in ("integer", "number", "boolean", "array", "object", "null"):
                self.ignored.append(f"The format {_shown(name)} at {place} is not checked.")

    def _bounds(self, schema: dict[str, Any], place: str) -> None:
        for keywords, sign in ((LOWER, -1), (UPPER, 1)):
            for keyword in keywords:
                bound = schema.get(keyword)
                if _is_number(bound) and (wider := _wider(bound, sign)) != bound:
                    self._replace(schema, keyword, wider, place)
        for keyword in (*AT_LEAST, *AT_MOST):
            bound = schema.get(keyword)
            if isinstance(bound, float) and bound.is_integer():
                schema[keyword] = bound = int(bound)
            if keyword in AT_MOST and _is_number(bound) and bound >= LONGEST:
                self._replace(schema, keyword, None, place)

    def _replace(self, schema: dict[str, Any], keyword: str, wider: float | None, place: str) -> None:
        now = "is not checked" if wider is None else f"is taken for {wider!r}"
        self.ignored.append(f"The bound {_shown(schema[keyword])} of {keyword} at {place} {now}.")
        if wider is None:
            del schema[keyword]
        else:
            schema[keyword] = wider


def _asks_nothing(keyword: str, value: Any) -> bool:
    if value is None:
        return keyword not in NULL_IS_A_VALUE
    return keyword in ASKS_NOTHING and ASKS_NOTHING[keyword](value)


def _is_annotation(keyword: str) -> bool:
    return keyword in ANNOTATIONS or keyword == "nullable" or keyword.startswith("x-")


def _unlike_draft_3(schema: Any) -> Any:
    if not isinstance(mapping(schema).get("required"), bool):
        return schema
    return {keyword: value for keyword, value in mapping(schema).items() if keyword != "required"}


def _wider(bound: float, sign: int) -> float | None:
    """A bound that is not narrower and can be kept to; None for none at all. `sign`: 1 for an upper one, else -1."""
    if abs(bound) > LARGEST:
        return None
    if 0 < abs(bound) < SMALLEST:
        return sign * SMALLEST if bound * sign > 0 else 0
    return bound


def _is_number(value: Any) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _shown(value: object) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 100 else f"{text[:100]}…"
