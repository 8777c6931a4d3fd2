"""Tools whose descriptions and schemas Anthropic's own models know by heart, and that clients run.

A request has their types only, so other models must be told what they are.

Source: "Bash tool", "Text editor tool" and "Memory tool" in Anthropic's documentation.
"""

from __future__ import annotations

from typing import Any

from quern.types import Tool


def _text(description: str) -> dict[str, Any]:
    return {"type": "string", "description": description}


def _parameters(required: list[str], properties: dict[str, Any]) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": required}


def _commands(*names: str) -> dict[str, Any]:
    return {"type": "string", "enum": [*names], "description": "What to do."}


RANGE = {
    "type": "array",
    "items": {"type": "integer"},
    "minItems": 2,
    "maxItems": 2,
    "description": "For view: first and last line to show, from 1 on; -1 as the last one is the end of the file.",
}
BASH = _parameters(
    [],
    {
        "command": _text("The command to run. Needed unless restart is true."),
        "restart": {"type": "boolean", "description": "True starts the shell anew."},
    },
)
MEMORY = _parameters(
    ["command"],
    {
        "command": _commands("view", "create", "str_replace", "insert", "delete", "rename"),
        "path": _text("The file or directory, below /memories. For all commands but rename."),
        "view_range": RANGE,
        "file_text": _text("For create: the whole text of the file."),
        "old_str": _text("For str_replace: the text to replace, exactly as it is in the file, and once only."),
        "new_str": _text("For str_replace: the text in its place."),
        "insert_line": {"type": "integer", "description": "For insert: the line after which to insert; 0 is the top."},
        "insert_text": _text("For insert: the text to insert."),
        "old_path": _text("For rename: the path as it is."),
        "new_path": _text("For rename: the path as it is to be."),
    },
)


def _editor(*commands: str, insert: str) -> dict[str, Any]:
    """The editor's parameters. `insert`: the name of the one that has the text to insert."""
    inserted = {} if insert == "new_str" else {insert: _text("For insert: the text to insert.")}
    also = "" if inserted else " For insert: the text to insert."
    properties = {
        "command": _commands(*commands),
        "path": _text("The file or directory."),
        "view_range": RANGE,
        "file_text": _text("For create: the whole text of the file."),
        "old_str": _text("For str_replace: the text to replace, exactly as it is in the file, and once only."),
        "new_str": _text(f"For str_replace: the text in its place.{also}"),
        "insert_line": {"type": "integer", "description": "For insert: the line after which to insert; 0 is the top."},
        **inserted,
    }
    return _parameters(["command", "path"], properties)


_SHELL = "Run a command in a bash shell that stays open between calls, and get what it prints."
_EDIT = "See, create and change text files: view a file or directory, create a file, replace or insert text."
_MEMORY = (
    "Notes that outlive this conversation, as files in the directory /memories. View it before you begin, and keep "
    "there what will be needed later."
)
_FOUR = ("view", "create", "str_replace", "insert")
_OLD_EDITOR = (_EDIT, _editor(*_FOUR, "undo_edit", insert="new_str"))
KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "bash_": (_SHELL, BASH),
    "text_editor_20241022": _OLD_EDITOR,
    "text_editor_20250124": _OLD_EDITOR,
    "text_editor_20250429": (_EDIT, _editor(*_FOUR, insert="new_str")),
    "text_editor_": (_EDIT, _editor(*_FOUR, insert="insert_text")),
    "memory_": (_MEMORY, MEMORY),
}
"""Descriptions and parameters by how the types begin. A type that is not known yet is taken to be like the newest."""


def _beginning(kind: str) -> str | None:
    return next((beginning for beginning in KINDS if kind.startswith(beginning)), None)


def is_vendor_tool(kind: str) -> bool:
    """Whether a type of Anthropic's, as `bash_20250124`, is a tool that clients run and that answers in text."""
    return _beginning(kind) is not None


def named_tool(kind: str, name: str, *, strict: bool) -> Tool:
    """The tool of such a type. Raises KeyError for another."""
    description, parameters = KINDS[_beginning(kind) or kind]
    return Tool(name, description, parameters, strict=strict)
