"""The arguments of a call in JSON, wherever in it they stand, once all of them are there."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, cast

from quern.grammar.parameter_types import ParameterTypes
from quern.prompt.tools.coercion import as_json
from quern.prompt.tools.json_values import JsonValue
from quern.prompt.tools.protocols import plausible
from quern.prompt.tools.source import Source, result_of

ARGUMENTS = frozenset({"arguments", "parameters"})
OTHER_ARGUMENTS = ("input", "args", "params", "kwargs", "tool_input", "action_input")
"""These may as well be an argument's name, which shows only when the call is complete."""
ENVELOPE = frozenset({"id", "type", "index", "call_id", "tool_call_id"})
"""Members of calls in APIs; a tool may have arguments of these names all the same."""
NO_ARGUMENTS = frozenset({"", "null", "None", "[]"})


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
