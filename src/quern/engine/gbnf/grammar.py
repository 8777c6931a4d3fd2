"""JSON schemas as GBNF, so that llama.cpp draws nothing that is not of the schema.

llama-server has a converter of its own, which is not used. Where it was built with llguidance, as in xllamacpp, a
schema that it can't keep to costs a line in its log, and the answer is not constrained at all; where it was not, it
skips what it does not know.

What a schema allows and is left out here: members in another order than the schema's, and members that it does not
name, unless it has `additionalProperties`; and arrays with a part of their `prefixItems`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from graphlib import CycleError, TopologicalSorter
from itertools import combinations
from typing import Any

from quern.engine.gbnf.containers import Member, array_text, object_text, other_name
from quern.engine.gbnf.notation import Rules, either, literal, one_text_of, too_large
from quern.engine.gbnf.scalars import count, integer_text, number_text, string_text
from quern.engine.gbnf.schema import (
    Demands,
    Place,
    Schema,
    allowed_types,
    allowed_values,
    properties_of,
    read_schema,
    refuse,
    types_of,
)

MOST_PARTS = 5000
MOST_NESTED_PARTS = 50
MOST_WAYS = 10_000
MOST_OPEN = 400
"""What may come next, at one point: llama.cpp tries each with the whole vocabulary."""
KEYWORDS_OF_TYPES = {
    "object": {"properties", "required", "additionalProperties"},
    "array": {"items", "prefixItems", "minItems", "maxItems"},
    "string": {"pattern", "format", "minLength", "maxLength"},
    "number": {"minimum", "exclusiveMinimum", "maximum", "exclusiveMaximum"},
}


def schema_grammar(schema: str) -> str:
    """A grammar whose texts are JSON values of this JSON schema.

    Takes milliseconds, and some seconds at worst. Raises InvalidRequest for what it can't keep to.
    """
    return _Writer(Schema(read_schema(schema))).grammar()


class _Writer:
    """Writes the rules of one schema."""

    def __init__(self, schema: Schema) -> None:
        self._schema = schema
        self._rules = Rules()
        self._named: dict[str, str] = {}
        self._unwritten: list[tuple[str, Place]] = []
        self._begins_with: dict[str, list[str]] = {}
        self._parts = 0
        self._depth = 0

    def grammar(self) -> str:
        root = self._name(self._schema.root)
        while self._unwritten:
            name, place = self._unwritten.pop()
            self._rules.define(name, self._value(place, name))
        self._check_beginnings()
        return self._rules.text(root)

    def _check_beginnings(self) -> None:
        """llama.cpp follows every way from a rule to what it begins with, and refuses one that leads back."""
        ways: dict[str, int] = {}
        try:
            for name in TopologicalSorter(self._begins_with).static_order():
                ways[name] = 1 + sum(ways[other] for other in self._begins_with.get(name, ()))
        except CycleError:
            refuse(self._schema.root, "a `$ref` leads back to itself with nothing in between")
        if max(ways.values(), default=0) > MOST_WAYS:
            raise too_large()

    def _name(self, place: Place) -> str:
        """The rule of a place that is referred to; it is written later."""
        if place.pointer not in self._named:
            self._named[place.pointer] = self._rules.reserve()
            self._unwritten.append((self._named[place.pointer], place))
        return self._named[place.pointer]

    def _value(self, place: Place, beginning_of: str | None = None) -> str:
        """A rule for a schema. `beginning_of`: the named rule that begins with it."""
        target = self._schema.reference(place)
        if target is None:
            return self._demanded(self._schema.demands(place), place, beginning_of)
        name = self._name(target)
        if beginning_of is not None:
            self._begins_with.setdefault(beginning_of, []).append(name)
        return name

    def _demanded(self, demands: Demands, place: Place, beginning_of: str | None) -> str:
        self._parts += 1
        if self._parts > MOST_PARTS:
            raise too_large()
        if self._depth > MOST_NESTED_PARTS:
            refuse(place, "it has too many levels inside of each other, or refers to itself")
        self._depth += 1
        try:
            for name in ("anyOf", "oneOf"):
                if name in demands:
                    return self._alternatives(demands, name, beginning_of)
            values = allowed_values(demands)
            parts = self._typed(demands) if values is None else _constants(demands, values)
        finally:
            self._depth -= 1
        if not parts:
            refuse(place, "it allows nothing")
        return self._rules.add(either(parts) if values is None else one_text_of(parts))

    def _alternatives(self, demands: Demands, name: str, beginning_of: str | None) -> str:
        places, branches = demands[name].children(), self._schema.branches(demands, name)
        if len(places) > MOST_OPEN:
            refuse(demands[name], f"`{name}` has more than {MOST_OPEN} parts")
        if name == "oneOf" and not all(self._schema.exclude(one, other) for one, other in combinations(branches, 2)):
            refuse(demands[name], "the parts of `oneOf` are not known to exclude each other; those of `anyOf` need not")
        if len(demands) == 1:
            return self._rules.add(either([self._value(place, beginning_of) for place in places]))
        pairs = zip(branches, places, strict=True)
        return self._rules.add(either([self._demanded(branch, place, beginning_of) for branch, place in pairs]))

    def _typed(self, demands: Demands) -> list[str]:
        types = allowed_types(demands)
        if types is None:
            types = [name for name, keywords in KEYWORDS_OF_TYPES.items() if keywords & demands.keys()]
            if not types:
                return ["value"]
        return [self._of_type(name, demands) for name in types if name != "integer" or "number" not in types]

    def _of_type(self, name: str, demands: Demands) -> str:
        match name:
            case "object":
                return self._object(demands)
            case "array":
                return self._array(demands)
            case "string":
                return string_text(demands, self._rules)
            case "integer":
                return integer_text(demands, self._rules)
            case "number":
                return number_text(demands, self._rules)
            case _:
                return name

    def _object(self, demands: Demands) -> str:
        properties = properties_of(demands)
        required: Sequence[str] = demands["required"].value if "required" in demands else ()
        others = demands.get("additionalProperties")
        for name in required:
            if properties.setdefault(name, others or Place(value=True)).value is False:
                refuse(demands["required"], f"it requires {name!r}, which is forbidden")
        members = [
            Member(self._member(literal(json.dumps(name, ensure_ascii=False)), place), name in required)
            for name, place in properties.items()
            if place.value is not False
        ]
        if sum(not member.required for member in members) > MOST_OPEN:
            refuse(demands["properties"], f"more than {MOST_OPEN} members may be left out")
        additional = None
        if others is None and not properties:
            additional = "member"
        elif others is not None and others.value is not False:
            name = other_name(list(properties), self._rules) if properties else "string"
            additional = self._member(name, others)
        return object_text(members, additional, self._rules)

    def _member(self, name: str, value: Place) -> str:
        return self._rules.add(f'{name} ":" space {self._value(value)}')

    def _array(self, demands: Demands) -> str:
        low, high = count(demands, "minItems") or 0, count(demands, "maxItems")
        if high is not None and low > high:
            refuse(demands["minItems"], "`minItems` is more than `maxItems`")
        places = demands["prefixItems"].children()[:high] if "prefixItems" in demands else []
        first = [self._value(place) for place in places]
        low, high = max(low - len(first), 0), None if high is None else high - len(first)
        items = demands.get("items")
        more = None
        if items is None and (low or not first):
            more = "value"
        elif items is not None and items.value is not False:
            more = self._value(items)
        if more is None and low:
            refuse(demands["minItems"], "`minItems` asks for more items than there can be")
        return array_text(first, more, low, high, self._rules)


def _constants(demands: Demands, values: Iterable[Any]) -> list[str]:
    for name, keyword in demands.items():
        if name not in {"const", "enum", "type"}:
            refuse(keyword, f"`{name}` beside `enum` or `const` is not supported")
    types = allowed_types(demands)
    fitting = (value for value in values if types is None or types_of(value) & set(types))
    return list(dict.fromkeys(json.dumps(value, ensure_ascii=False) for value in fitting))
