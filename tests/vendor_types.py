"""Requests made of a vendor's own types: each member left out by null, each list empty, each value of a choice, each
arm of a union, at every depth.

Works for any `TypedDict` and any pydantic model of any library. A case differs from the smallest request in one place.
"""

from __future__ import annotations

import collections.abc
import types
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import (
    Annotated,
    Any,
    Literal,
    NotRequired,
    Required,
    Union,
    get_args,
    get_origin,
    get_type_hints,
)

from pydantic import BaseModel

LISTS = (list, collections.abc.Iterable, collections.abc.Sequence)
MAPPINGS = (dict, collections.abc.Mapping)
PLAIN: dict[Any, Any] = {str: "x", int: 1, float: 1.0, bool: True}
DEEPEST = 12
MANY_ARMS = 8
"""A union of so many, as the one of all tools, is walked through where it is met first; wherever else it stands each of
its arms is one case.
"""


@dataclass(frozen=True)
class Case:
    """A value, and what is special in it: `tools.0[function].function.strict=null`. An arm of a union stands in
    brackets, by its type, its role or its name.
    """

    place: str
    value: Any


@dataclass(frozen=True)
class Walk:
    """Over a type. `given`: values that stand in for whatever the vendor's type has, by a member's path (without
    indices and arms), its name or its type. `first`: the member that is walked through before all others.
    """

    given: Mapping[Any, Any]
    first: str = ""
    _walked: set[Any] = field(default_factory=set[Any], init=False, compare=False)

    def cases(self, annotation: Any, path: str = "") -> Iterator[Case]:
        """The values of a type, each with one place that is not as small as can be."""
        if path.count(".") > DEEPEST:
            return
        kind, origin = bare(annotation), get_origin(bare(annotation))
        if self._known(path, kind) is not None:
            return
        if origin in {Union, types.UnionType}:
            yield from self._arms(get_args(kind), path)
        elif origin is Literal:
            yield from (Case(f"{path}={value}", value) for value in get_args(kind))
        elif origin in LISTS:
            yield Case(f"{path}=[]", [])
            yield from (replace(one, value=[one.value]) for one in self.cases(get_args(kind)[0], f"{path}.0"))
        elif origin in MAPPINGS:
            inner = self.cases(get_args(kind)[1], f"{path}.x")
            yield from (replace(one, value={"x": one.value}) for one in inner)
        elif is_object(kind):
            yield from self._members(kind, path)

    def smallest(self, annotation: Any, path: str = "", depth: int = 0) -> Any:
        """A value with nothing in it that may be left out."""
        kind, origin = bare(annotation), get_origin(bare(annotation))
        known = self._known(path, kind)
        if known is not None or depth > DEEPEST:
            return known
        if origin in {Union, types.UnionType}:
            return self.smallest(get_args(kind)[0], path, depth + 1)
        if origin is Literal:
            return get_args(kind)[0]
        if origin in LISTS:
            return [self.smallest(get_args(kind)[0], f"{path}.0", depth + 1)]
        if is_object(kind):
            members = hints(kind).items()
            return {
                name: self.smallest(hint, f"{path}.{name}".lstrip("."), depth + 1)
                for name, (hint, required) in members
                if required
            }
        return {} if origin in MAPPINGS or kind in MAPPINGS or kind is object else PLAIN.get(kind, "x")

    def _members(self, kind: Any, path: str) -> Iterator[Case]:
        base = self.smallest(kind, path)
        for name, (hint, required) in sorted(hints(kind).items(), key=lambda member: member[0] != self.first):
            inner = f"{path}.{name}".lstrip(".")
            if not required:
                yield Case(f"{inner}=null", {**base, name: None})
                yield Case(inner, {**base, name: self.smallest(hint, inner)})
            yield from (replace(one, value={**base, name: one.value}) for one in self.cases(hint, inner))

    def _arms(self, arms: tuple[Any, ...], path: str) -> Iterator[Case]:
        alike = frozenset(map(_likeness, arms))
        again = len(arms) >= MANY_ARMS and alike in self._walked
        self._walked.add(alike)
        for arm in arms:
            if arm is type(None):
                yield Case(f"{path}=null", None)
                continue
            there = f"{path}[{arm_name(arm)}]"
            yield Case(there, self.smallest(arm, there))
            if not again:
                yield from self.cases(arm, there)

    def _known(self, path: str, kind: Any) -> Any:
        if isinstance(kind, type) and kind in self.given:
            return self.given[kind]
        names = "".join(piece.partition("]")[2] if "]" in piece else piece for piece in path.split("["))
        names = ".".join(name for name in names.split(".") if not name.isdigit())
        return self.given.get(names, self.given.get(names.rpartition(".")[2]))


def is_typed_dict(kind: Any) -> bool:
    """Whether it is a `TypedDict`, of `typing` or of `typing_extensions`."""
    return isinstance(kind, type) and hasattr(kind, "__required_keys__")


def is_object(kind: Any) -> bool:
    """Whether it is a `TypedDict` or a pydantic model."""
    return is_typed_dict(kind) or (isinstance(kind, type) and issubclass(kind, BaseModel))


def bare(annotation: Any) -> Any:
    """The type without what is said of it."""
    while get_origin(annotation) in {Annotated, Required, NotRequired}:
        annotation = get_args(annotation)[0]
    return annotation


def hints(kind: Any) -> dict[str, tuple[Any, bool]]:
    """The members of a `TypedDict` or a pydantic model with their types, and whether they are required."""
    if not is_typed_dict(kind):
        return {
            field.alias or name: (field.annotation, field.is_required()) for name, field in kind.model_fields.items()
        }
    told = get_type_hints(kind, include_extras=True)
    return {
        name: (
            hint,
            get_origin(hint) is Required or (name in kind.__required_keys__ and get_origin(hint) is not NotRequired),
        )
        for name, hint in told.items()
    }


def _likeness(arm: Any) -> tuple[str, ...]:
    """The same for the copies of a type that a vendor's generator writes wherever one stands."""
    kind = bare(arm)
    return (arm_name(arm), *sorted(hints(kind))) if is_object(kind) else (str(kind),)


def arm_name(arm: Any) -> str:
    """What tells an arm of a union from the others."""
    kind = bare(arm)
    if is_object(kind):
        members = hints(kind)
        for name in ("role", "type"):
            told = bare(members[name][0]) if name in members else None
            if get_origin(told) in {Union, types.UnionType}:
                told = bare(get_args(told)[0])
            if get_origin(told) is Literal:
                return str(get_args(told)[0])
    return getattr(kind, "__name__", str(kind))
