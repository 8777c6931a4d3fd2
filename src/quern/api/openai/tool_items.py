"""Calls of tools and their results as OpenAI's items: each kind of tool has its own.

To the model every tool is a function. Of a custom tool the one text is told, of OpenAI's own tools (`local_shell`,
`shell`, `apply_patch`), which clients run, the action. A call whose arguments are cut or of another shape is told as
well as can be.

Source of the shapes: "The item list" in OpenAI's API reference.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any, cast

from pydantic_core import from_json

from quern.types import CUSTOM_INPUT, ToolCall, ToolKind, ToolResult

CALL_PREFIXES = {
    ToolKind.FUNCTION: "fc",
    ToolKind.CUSTOM: "ctc",
    ToolKind.LOCAL_SHELL: "lsh",
    ToolKind.SHELL: "sh",
    ToolKind.APPLY_PATCH: "apc",
}
RESULT_PREFIXES = {
    ToolKind.FUNCTION: "fco",
    ToolKind.CUSTOM: "ctco",
    ToolKind.LOCAL_SHELL: "lsho",
    ToolKind.SHELL: "sho",
    ToolKind.APPLY_PATCH: "apco",
}
"""Of items' ids."""

OPENING = re.compile(rf'\s*\{{\s*"{CUSTOM_INPUT}"\s*:\s*"')
CHARACTERS = re.compile(
    r'(?:[^"\\]|\\(?:["\\/bfnrt]|u(?!d[89a-f])[0-9a-f]{4}|ud[89ab][0-9a-f]{2}\\ud[c-f][0-9a-f]{2}))*', re.IGNORECASE
)
"""Of a JSON string; the halves of a surrogate pair come together."""

TEXT: dict[str, Any] = {"type": "string"}
NUMBER: dict[str, Any] = {"type": "integer"}
PARAMETERS: dict[ToolKind, dict[str, Any]] = {
    ToolKind.LOCAL_SHELL: {
        "type": "object",
        "properties": {
            "command": {"type": "array", "items": TEXT, "description": "The program and its arguments."},
            "working_directory": TEXT,
            "timeout_ms": NUMBER,
        },
        "required": ["command"],
        "additionalProperties": False,
    },
    ToolKind.SHELL: {
        "type": "object",
        "properties": {
            "commands": {"type": "array", "items": TEXT, "description": "Command lines, run one after the other."},
            "timeout_ms": NUMBER,
            "max_output_length": NUMBER,
        },
        "required": ["commands"],
        "additionalProperties": False,
    },
    ToolKind.APPLY_PATCH: {
        "type": "object",
        "properties": {
            "type": {"enum": ["create_file", "update_file", "delete_file"]},
            "path": TEXT,
            "diff": {
                "type": "string",
                "description": "Lines that begin with '+', '-' or a blank, after a line '@@'; of a new file, with '+'.",
            },
        },
        "required": ["type", "path"],
        "additionalProperties": False,
    },
}
"""What the model is shown of OpenAI's own tools."""
DESCRIPTIONS = {
    ToolKind.LOCAL_SHELL: "Runs a command on the user's machine.",
    ToolKind.SHELL: "Runs shell commands on the user's machine.",
    ToolKind.APPLY_PATCH: "Creates, updates or deletes a file.",
}


def qualified_name(namespace: str | None, name: str) -> str:
    """A tool's name to the model: that of its group stands before it."""
    return f"{_prefix(namespace)}{name}" if namespace else name


def own_name(call: ToolCall) -> str:
    """The name of a call's tool within its group."""
    return call.name.removeprefix(_prefix(call.namespace)) if call.namespace else call.name


def _prefix(namespace: str | None) -> str:
    return "" if not namespace else namespace if namespace.endswith("__") else f"{namespace}__"


def call_json(call: ToolCall) -> dict[str, Any]:
    """A call's item, without its id and status."""
    tool = {"call_id": call.id}
    named = {**tool, "name": own_name(call), **({"namespace": call.namespace} if call.namespace else {})}
    match call.kind:
        case ToolKind.FUNCTION:
            return {"type": "function_call", **named, "arguments": call.arguments}
        case ToolKind.CUSTOM:
            return {"type": "custom_tool_call", **named, "input": custom_input(call.arguments)}
        case ToolKind.LOCAL_SHELL:
            return {"type": "local_shell_call", **tool, "action": _local_action(_object(call.arguments))}
        case ToolKind.SHELL:
            return {"type": "shell_call", **tool, "action": _action(_object(call.arguments))}
        case ToolKind.APPLY_PATCH:
            return {"type": "apply_patch_call", **tool, "operation": _operation(_object(call.arguments))}


def result_json(result: ToolResult) -> dict[str, Any]:
    """A result's item, without its id and status."""
    tool = {"call_id": result.call_id}
    match result.kind:
        case ToolKind.FUNCTION:
            return {"type": "function_call_output", **tool, "output": result.output}
        case ToolKind.CUSTOM:
            return {"type": "custom_tool_call_output", **tool, "output": result.output}
        case ToolKind.LOCAL_SHELL:
            return {"type": "local_shell_call_output", **tool, "output": result.output}
        case ToolKind.SHELL:
            return {"type": "shell_call_output", **tool, "output": _value(result.output)}
        case ToolKind.APPLY_PATCH:
            return {"type": "apply_patch_call_output", **tool, **_object(result.output)}


def custom_input(arguments: str) -> str:
    """The text that a custom tool is called with, as far as there is one: models name the argument as they like."""
    members = _object(arguments)
    if not members:
        return "" if _value(arguments) in (None, {}) else arguments
    if CUSTOM_INPUT in members:
        return _text(members[CUSTOM_INPUT])
    return _text(next(iter(members.values()))) if len(members) == 1 else json.dumps(members, ensure_ascii=False)


def len_of_whole(text: str) -> int:
    """How many characters of a JSON string's inside are certain: escapes come whole, its end is none of them."""
    whole = CHARACTERS.match(text)
    return whole.end() if whole is not None else 0


class CustomInput:
    """A custom tool's text, from the pieces of the arguments in which it stands. Joined, its pieces are `custom_input`,
    but for what `rest` adds.
    """

    def __init__(self) -> None:
        self._arguments: list[str] = []
        self._told: list[str] = []
        self._held = ""
        self._begun = self._ended = False

    def write(self, fragment: str) -> str:
        """More of the arguments; what that adds to the text."""
        self._arguments.append(fragment)
        if self._ended:
            return ""
        self._held += fragment
        if not self._begun:
            opening = OPENING.match(self._held)
            if opening is None:
                return ""
            self._begun, self._held = True, self._held[opening.end() :]
        raw = self._held[: len_of_whole(self._held)]
        self._held = self._held[len(raw) :]
        self._ended = self._held.startswith('"')
        text: str = json.loads(f'"{raw}"', strict=False)
        self._told.append(text)
        return text

    def rest(self) -> str:
        """What has not been told when the arguments have ended."""
        text, told = custom_input("".join(self._arguments)), "".join(self._told)
        return text.removeprefix(told) if text.startswith(told) else ""

    def text(self) -> str:
        """All that there is."""
        return custom_input("".join(self._arguments))


def _local_action(members: Mapping[str, Any]) -> dict[str, Any]:
    command = members.get("command", [])
    return {
        "type": "exec",
        "command": ["bash", "-lc", command] if isinstance(command, str) else _texts(command),
        "env": {},
        **_numbers(members, "timeout_ms"),
        **({"working_directory": _text(members["working_directory"])} if members.get("working_directory") else {}),
    }


def _action(members: Mapping[str, Any]) -> dict[str, Any]:
    commands = members.get("commands", members.get("command", []))
    return {
        "commands": [commands] if isinstance(commands, str) else _texts(commands),
        **_numbers(members, "timeout_ms", "max_output_length"),
    }


def _operation(members: Mapping[str, Any]) -> dict[str, Any]:
    kind = members.get("type")
    operation = {
        "type": kind if kind in {"create_file", "delete_file"} else "update_file",
        "path": _text(members.get("path", "")),
    }
    return operation if kind == "delete_file" else {**operation, "diff": _text(members.get("diff", ""))}


def _numbers(members: Mapping[str, Any], *names: str) -> dict[str, int]:
    return {name: int(members[name]) for name in names if isinstance(members.get(name), int | float)}


def _texts(value: Any) -> list[str]:
    return [_text(one) for one in cast("list[Any]", value)] if isinstance(value, list) else [_text(value)]


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _object(text: str) -> dict[str, Any]:
    value = _value(text)
    return cast("dict[str, Any]", value) if isinstance(value, dict) else {}


def _value(text: str) -> Any:
    """The value of a JSON text, as far as it goes; the text itself where it is none."""
    try:
        return from_json(text, allow_partial="trailing-strings") if text.strip() else None
    except ValueError:
        return text
