"""Parts of JSON schemas that clients sent: read whatever they are, and followed within bounds."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Generic, TypeVar, cast
from urllib.parse import unquote

DEFINITIONS = ("definitions", "$defs")
INDEX = re.compile("[0-9]{1,9}")

MOST_NODES = 2**15
"""Schemas that are looked at in all. References let a short text stand for more of them than can ever be visited."""
DEEPEST = 100
"""Schemas in each other, or that refer to each other; Python's own stack ends at some hundreds."""

Value = TypeVar("Value")


class SchemaWalk(Generic[Value]):
    """Finds something out about schemas within `root`, of which some refer to others.

    `find` is given a schema without `$ref`, and asks the walk about the schemas in it. What is found out about a
    reference is remembered. The answer is `unknown` for a circle, and for all that lies beyond the bounds.
    """

    def __init__(self, root: Any, find: Callable[[Mapping[str, Any]], Value], unknown: Value) -> None:
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
            return self._referred(reference) if isinstance(reference, str) else self._find(schema)
        finally:
            self._depth -= 1

    def spend(self, nodes: int) -> bool:
        """Count so many more nodes as visited; whether there still were so many."""
        self._left = max(self._left - nodes, -1)
        return self._left >= 0

    def _referred(self, reference: str) -> Value:
        if reference not in self._known:
            self._known[reference] = self._unknown
            self._known[reference] = self.of(_at(self._root, reference))
        return self._known[reference]


def mapping(value: Any) -> Mapping[str, Any]:
    """The value, or nothing where it is no object."""
    return cast("Mapping[str, Any]", value) if isinstance(value, Mapping) else {}


def sequence(value: Any) -> Sequence[Any]:
    """The value, or nothing where it is no array."""
    return cast("Sequence[Any]", value) if isinstance(value, list | tuple) else ()


def pointer(reference: str) -> tuple[str, ...] | None:
    """The steps of a JSON pointer such as `#/$defs/Unit`; None where it points out of the schema, or to an anchor."""
    if not (reference == "#" or reference.startswith("#/")):
        return None
    steps = unquote(reference).split("/")[1:]
    return tuple(step.replace("~1", "/").replace("~0", "~") for step in steps)


def _at(root: Any, reference: str) -> Any:
    """The part of a schema that is referred to; None where there is none."""
    steps = pointer(reference)
    if steps is None:
        return None
    value = root
    for step in steps:
        items = sequence(value)
        is_index = INDEX.fullmatch(step) is not None and int(step) < len(items)
        value = items[int(step)] if is_index else mapping(value).get(step)
    return value
