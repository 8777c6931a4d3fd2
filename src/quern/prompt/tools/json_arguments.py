"""The arguments of a call in JSON: found wherever in it they stand, and given out as its tool wants them."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, cast

from quern.grammar.parameter_types import ParameterTypes, Types
from quern.prompt.tools.coercion import as_json, from_json
from quern.prompt.tools.json_values import JsonValue
from quern.prompt.tools.protocols import CallSink, plausible
from quern.prompt.tools.source import Source, result_of

ARGUMENTS = frozenset({"arguments", "parameters"})
OTHER_ARGUMENTS = ("input", "args", "params", "kwargs", "tool_input", "action_input")
"""These may as well be an argument's name, which shows only when the call is complete."""
ENVELOPE = frozenset({"id", "type", "index", "call_id", "tool_call_id"})
"""Members of calls in APIs; a tool may have arguments of these names all the same."""
KINDS = {"{": "object", "[": "array", '"': "string", "'": "string"}
"""What a value is, by its first character."""
NO_ARGUMENTS = frozenset({"", "null", "None", "[]"})


class GivenArguments:
    """The arguments of one call as they are given out: each brought to a type that the tool wants.

    `types`: those of the tool, known once the call has begun. `twice`: whether one of them was given again by a member
    beside them, so that there is no telling which was meant.
    """

    def __init__(self, sink: CallSink) -> None:
        self._sink = sink
        self._names: set[str] = set()
        self._empty = True
        self._repeated = False
        self.types = ParameterTypes({})
        self.twice = False

    @property
    def complete(self) -> bool:
        """Whether all that the tool requires were given."""
        return self._names.issuperset(self.types.required)

    @property
    def unmistakable(self) -> bool:
        """Whether the tool knows all that were given, and each was given once."""
        return not self._repeated and all(plausible(name, self.types) for name in self._names)

    def value_from(self, source: Source, mend: Callable[[], None]) -> JsonValue:
        """Reads and gives out the object that comes next, all but its last brace: more may stand behind it."""
        return JsonValue(source, self._write, mend, self._conversion, may_have=self.types.may_have, open_end=True)

    def add(self, name: str, said: str) -> None:
        """A member that stood beside the arguments is one of them where the tool has such an argument."""
        if not self.types.names(name):
            return
        if name in self._names:
            self.twice = True
            return
        separator = "" if self._empty else ", "
        self._write(f"{separator}{as_json(name)}: {self._coerced(self.types.of(name), said)}")
        self._names.add(name)

    def _conversion(self, name: str, first: str) -> Callable[[str], str] | None:
        self._repeated = self._repeated or name in self._names
        self._names.add(name)
        wanted = self.types.of(name)
        return None if not wanted or KINDS.get(first) in wanted else partial(self._coerced, wanted)

    def _coerced(self, wanted: Types, text: str) -> str:
        value = from_json(text, wanted)
        if value.mended:
            self._sink.mend()
        return value.text

    def _write(self, fragment: str) -> None:
        self._empty = self._empty and fragment in {"{", ""}
        self._sink.write(fragment)


def among_members(members: Mapping[str, str], types: ParameterTypes) -> str:
    """The arguments under another name, or the members that stand beside the tool's."""
    for key in OTHER_ARGUMENTS:
        said = unwrapped(members.get(key, "0"))
        if (said.startswith("{") or said in NO_ARGUMENTS) and not types.names(key):
            return said
    beside = [(key, said) for key, said in members.items() if key not in ENVELOPE or types.names(key)]
    return "{" + ", ".join(f"{as_json(key)}: {said}" for key, said in beside) + "}"


def is_clear(arguments: str, types: ParameterTypes, *, mended: bool) -> bool:
    """Whether it can be told what is meant by them. `mended`: something of the call was, before."""
    names: list[str] = []
    slips: list[None] = []
    value = JsonValue(
        Source.of(arguments),
        lambda _: None,
        lambda: slips.append(None),
        lambda name, _: names.append(name),
        may_have=types.may_have,
    )
    result_of(value.read())
    return not value.doubtful and (not (slips or mended) or all(plausible(name, types) for name in names))


def unwrapped(text: str) -> str:
    """What is within a JSON string, and the only object of a list; other JSON as it is."""
    said = json.loads(text).strip() if text.startswith('"') else text
    if said.startswith("["):
        try:
            listed = json.loads(said)
        except (ValueError, RecursionError):
            return said
        if len(listed) == 1 and isinstance(listed[0], dict):
            return as_json(listed[0])
    return said


def within(said: str, types: ParameterTypes) -> str:
    """What is called the arguments in an object that has nothing else; else the object itself."""
    value = json.loads(said)
    if isinstance(value, dict) and len(members := cast("dict[str, Any]", value)) == 1:
        ((key, inner),) = members.items()
        if key in {*ARGUMENTS, *OTHER_ARGUMENTS} and not types.names(key):
            return as_json(inner)
    return said
