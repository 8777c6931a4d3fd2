"""JSON schemas as the engine llamacpp reads them: what a place in a schema demands, all of it, or a refusal.

The meaning is JSON Schema 2020-12. Whatever is not understood is refused by its JSON pointer, never skipped: an answer
that is not of the schema would break the promise that it is.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import reduce
from typing import Any, NoReturn
from urllib.parse import unquote

from quern.engine.gbnf.keywords import ANNOTATIONS, KEYWORDS, TYPES, as_list, as_object
from quern.engine.gbnf.notation import too_large
from quern.errors import InvalidRequest

MOST_BYTES = 64 * 1024
MOST_NESTED = 64
MOST_FOLLOWED = 30
MOST_READ = 10_000
MOST_COMPARED = 20_000


@dataclass(frozen=True, slots=True)
class Place:
    """A value in a schema and the JSON pointer to it."""

    value: Any
    pointer: str = ""

    def child(self, key: str | int) -> Place:
        """What is below it."""
        return Place(self.value[key], f"{self.pointer}/{str(key).replace('~', '~0').replace('/', '~1')}")

    def children(self) -> list[Place]:
        """All that is below it."""
        return [self.child(key) for key in (as_object(self.value) or range(len(self.value)))]


Demands = Mapping[str, Place]
"""Keywords that hold together for one value."""


def refuse(place: Place, why: str) -> NoReturn:
    """Raise InvalidRequest."""
    raise InvalidRequest(
        f"The engine llamacpp can't keep an answer to this JSON schema: {why} (at #{place.pointer}). Say it in another "
        f"way or leave it out, or serve the model with the engine cpu, which knows other parts of JSON Schema."
    )


def read_schema(text: str) -> Place:
    """The whole of a schema. Raises InvalidRequest where it is no JSON or too large."""
    if len(text.encode(errors="surrogatepass")) > MOST_BYTES:
        msg = f"This JSON schema is larger than {MOST_BYTES // 1024} KiB. Make it smaller."
        raise InvalidRequest(msg)
    try:
        schema = json.loads(text)
        json.dumps(schema, ensure_ascii=False, allow_nan=False).encode()
    except ValueError as error:
        msg = f"This JSON schema is not well-formed JSON: {error}. Correct it."
        raise InvalidRequest(msg) from error
    except RecursionError:
        schema = None
    if schema is None or _nested(schema) > MOST_NESTED:
        msg = f"This JSON schema has more than {MOST_NESTED} levels inside of each other. Make it flatter."
        raise InvalidRequest(msg)
    return Place(schema)


class Schema:
    """Reads places in one schema."""

    def __init__(self, root: Place) -> None:
        self.root = root
        self._read = 0
        self._compared = 0

    def reference(self, place: Place) -> Place | None:
        """What a place refers to, where it does nothing else."""
        schema = as_object(place.value) or {}
        if schema.keys() - ANNOTATIONS != {"$ref"}:
            return None
        return self._resolve(place.child("$ref"))

    def demands(self, place: Place, followed: tuple[str, ...] = ()) -> Demands:
        """The keywords that hold at a place, those of `$ref` and `allOf` among them."""
        self._read += 1
        if self._read > MOST_READ:
            raise too_large()
        if place.value is True:
            return {}
        if place.value is False:
            refuse(place, "`false` allows nothing")
        schema = as_object(place.value)
        if schema is None:
            refuse(place, "a schema must be an object, true or false")
        keywords = {name: place.child(name) for name in schema if name not in ANNOTATIONS}
        for name, keyword in keywords.items():
            self._check(name, keyword)
        parts = [{name: keyword for name, keyword in keywords.items() if name not in {"$ref", "allOf", "$id"}}]
        if "$ref" in keywords:
            target = self._resolve(keywords["$ref"])
            if target.pointer in followed or len(followed) > MOST_FOLLOWED:
                refuse(keywords["$ref"], "it refers to itself, or to too many others one after another")
            parts.append(dict(self.demands(target, (*followed, target.pointer))))
        if "allOf" in keywords:
            parts += [dict(self.demands(part, followed)) for part in keywords["allOf"].children()]
        return reduce(combine, parts)

    def exclude(self, one: Demands, other: Demands, depth: int = 0) -> bool:
        """Whether it is certain that no value meets both."""
        self._compared += 1
        if depth > MOST_NESTED or self._compared > MOST_COMPARED:
            return False
        for first, second in ((one, other), (other, one)):
            for name in ("anyOf", "oneOf"):
                if name in first:
                    return all(self.exclude(branch, second, depth + 1) for branch in self.branches(first, name))
        values, others = allowed_values(one), allowed_values(other)
        if values is not None and others is not None:
            return not any(value == another for value in values for another in others)
        shared = _possible_types(one) & _possible_types(other)
        return not shared or (shared == {"object"} and self._members_exclude(one, other, depth + 1))

    def branches(self, demands: Demands, name: str) -> list[Demands]:
        """Each alternative of the keyword `name`, together with what is demanded besides."""
        rest = {keyword: place for keyword, place in demands.items() if keyword != name}
        return [combine(rest, self.demands(branch)) for branch in demands[name].children()]

    def _members_exclude(self, one: Demands, other: Demands, depth: int) -> bool:
        for first, second in ((one, other), (other, one)):
            if _closed(second) and _required(first) - properties_of(second).keys():
                return True
        mine, others = properties_of(one), properties_of(other)
        return any(
            self.exclude(self.demands(mine[name]), self.demands(others[name]), depth)
            for name in _required(one) & _required(other) & mine.keys() & others.keys()
        )

    def _resolve(self, reference: Place) -> Place:
        self._check("$ref", reference)
        if not reference.value.startswith("#"):
            refuse(reference, f"`$ref` to {reference.value!r} leaves this schema")
        if reference.value[1:2] not in {"", "/"}:
            refuse(reference, f"`$ref` to {reference.value!r} is no JSON pointer")
        place = self.root
        for step in unquote(reference.value[1:]).split("/")[1:]:
            key = step.replace("~1", "/").replace("~0", "~")
            items = as_list(place.value)
            if key in (as_object(place.value) or {}):
                place = place.child(key)
            elif items is not None and key.isdecimal() and int(key) < len(items):
                place = place.child(int(key))
            else:
                refuse(reference, f"`$ref` to {reference.value!r} finds nothing")
        return place

    def _check(self, name: str, keyword: Place) -> None:
        if name not in KEYWORDS:
            refuse(keyword, f"the keyword `{name}` is not supported")
        if name == "$id" and keyword.pointer != "/$id":
            refuse(keyword, "`$id` inside of a schema is not supported")
        expected, fits = KEYWORDS[name]
        if not fits(keyword.value):
            refuse(keyword, f"`{name}` must be {expected}")


def combine(one: Demands, other: Demands) -> dict[str, Place]:
    """What is demanded by both. Refuses where that can't be said in one."""
    both = dict(one)
    for first, second in ((one, other), (other, one)):
        if "additionalProperties" in first and first["additionalProperties"].value is not True:
            for name, place in properties_of(second).items():
                if name not in properties_of(first):
                    refuse(place, f"it is an additional property to #{first['additionalProperties'].pointer}")
        if "items" in first and first.get("prefixItems") != second.get("prefixItems", first.get("prefixItems")):
            refuse(second["prefixItems"], f"`prefixItems` changes the meaning of #{first['items'].pointer}")
    for name, place in other.items():
        if name not in both or _same(both[name].value, place.value):
            both.setdefault(name, place)
        elif name in _BOTH:
            both[name] = Place(_BOTH[name](both[name].value, place.value), place.pointer)
        else:
            refuse(place, f"`{name}` is there twice, and differs from #{both[name].pointer}")
    return both


def allowed_values(demands: Demands) -> list[Any] | None:
    """The values of `enum` and `const`; None where any may do."""
    values: list[Any] | None = demands["enum"].value if "enum" in demands else None
    if "const" not in demands:
        return values
    constant = demands["const"].value
    return [constant] if values is None or _contains(values, constant) else []


def types_of(value: Any) -> set[str]:
    """The types that a value has; a whole number has two."""
    if isinstance(value, bool):
        return {"boolean"}
    if isinstance(value, int | float):
        return {"number", "integer"} if value == int(value) else {"number"}
    return {{dict: "object", list: "array", str: "string", type(None): "null"}[type(value)]}


def allowed_types(demands: Demands) -> list[str] | None:
    """The types of `type`; None where any may do."""
    if "type" not in demands:
        return None
    types = demands["type"].value
    return [types] if isinstance(types, str) else types


def _possible_types(demands: Demands) -> set[str]:
    """An integer counts as a number."""
    values = allowed_values(demands)
    if values is not None:
        return {found for value in values for found in types_of(value)} - {"integer"}
    types = allowed_types(demands) or TYPES
    return {"number" if name == "integer" else name for name in types}


def properties_of(demands: Demands) -> dict[str, Place]:
    """The schemas of the members that have a name."""
    place = demands.get("properties")
    return {} if place is None else {name: place.child(name) for name in place.value}


def _required(demands: Demands) -> set[str]:
    return set(demands["required"].value) if "required" in demands else set()


def _closed(demands: Demands) -> bool:
    return "additionalProperties" in demands and demands["additionalProperties"].value is False


def _common_types(one: str | list[str], other: str | list[str]) -> list[str]:
    first, second = ({types} if isinstance(types, str) else set(types) for types in (one, other))
    common = first & second
    if "number" not in common and all(types & {"integer", "number"} for types in (first, second)):
        common.add("integer")
    return sorted(common)


def _all_properties(one: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    twice = {
        name: {"allOf": [one[name], other[name]]}
        for name in one.keys() & other.keys()
        if not _same(one[name], other[name])
    }
    return one | other | twice


def _contains(values: list[Any], value: Any) -> bool:
    return any(_same(value, other) for other in values)


def _same(value: Any, other: Any) -> bool:
    """Equal, and not only to Python, where 1 is True."""
    if value is other or value != other:
        return value is other
    return json.dumps(value, sort_keys=True) == json.dumps(other, sort_keys=True)


def _nested(value: Any) -> int:
    depth, level = 0, [value]
    while level:
        depth += 1
        level = [child for item in level for child in [*(as_object(item) or {}).values(), *(as_list(item) or [])]]
    return depth


_BOTH: Mapping[str, Callable[[Any, Any], Any]] = {
    "type": _common_types,
    "enum": lambda one, other: [value for value in one if _contains(other, value)],
    "properties": _all_properties,
    "required": lambda one, other: list(dict.fromkeys([*one, *other])),
    **dict.fromkeys(("minItems", "minLength", "minimum", "exclusiveMinimum"), max),
    **dict.fromkeys(("maxItems", "maxLength", "maximum", "exclusiveMaximum"), min),
}
"""How two values of a keyword are said in one."""
