"""Tools and whether they are called, as Responses asks for them, keeps them and shows them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Annotated, Any, cast

from pydantic import AfterValidator, BeforeValidator, Field

from quern.api.shared.fields import JsonSchema, RequestObject, type_of
from quern.api.shared.tools import NO_PARAMETERS, ToolName, tool_use
from quern.turns.request import CallMode, ToolUse
from quern.types import Tool


def _writable(value: Mapping[str, Any]) -> Mapping[str, Any]:
    """Python's JSON reader takes what JSON does not have. Raises ValueError for it."""
    try:
        json.dumps(value, ensure_ascii=False, allow_nan=False).encode()
    except ValueError:
        raise ValueError("It has a number or a character that JSON can't hold. Leave it out") from None
    return value


Json = Annotated[JsonSchema, AfterValidator(_writable)]
"""A JSON object that can be written again."""


def _function(value: Any) -> Any:
    """Raises ValueError for a tool that only OpenAI's own servers have."""
    if not isinstance(value, dict):
        return value
    members = cast("dict[str, Any]", value)
    kind = type_of(members)
    if kind != "function":
        raise ValueError(
            f"A tool of the type {kind!r} can't be used: this server runs no tools of its own. Send tools of the type "
            f"'function'"
        )
    return {name: member for name, member in members.items() if name != "type"}


class FunctionTool(RequestObject):
    """A function. `strict` counts where a call is demanded."""

    name: ToolName
    description: str | None = None
    parameters: Json | None = None
    strict: bool | None = None

    def as_json(self) -> dict[str, Any]:
        """The same as JSON."""
        return {"type": "function", **self.model_dump()}


ResponseTool = Annotated[FunctionTool, BeforeValidator(_function)]


def _choice(value: Any) -> Any:
    """One of the modes, or a function's name. Raises ValueError."""
    if value is None or value in list(CallMode):
        return value
    if isinstance(value, dict):
        members = cast("dict[str, Any]", value)
        if members.keys() == {"type", "name"} and members["type"] == "function" and isinstance(members["name"], str):
            return members
        kind = type_of(members)
        if kind not in {None, "function"}:
            raise ValueError(
                f"A choice of the type {kind!r} can't be made here. Send 'auto', 'none', 'required' or "
                f'{{"type": "function", "name": …}}'
            )
    raise ValueError("It must be 'auto', 'none', 'required' or {\"type\": \"function\", \"name\": …}")


ToolChoice = Annotated[
    Any,
    BeforeValidator(_choice),
    Field(json_schema_extra={"anyOf": [{"enum": list(CallMode)}, {"type": "object", "required": ["type", "name"]}]}),
]
"""One of the modes, or `{"type": "function", "name": …}`."""


def read_tool_use(settings: Mapping[str, Any]) -> ToolUse:
    """The use of tools in a response's settings. Raises InvalidRequest where its parts don't fit each other."""
    choice: str | Mapping[str, str] = settings["tool_choice"]
    mode, only = (choice, None) if isinstance(choice, str) else (None, choice["name"])
    tools: list[Mapping[str, Any]] = settings["tools"]
    return tool_use(
        [
            Tool(tool["name"], tool["description"] or "", tool["parameters"] or NO_PARAMETERS, bool(tool["strict"]))
            for tool in tools
        ],
        mode,
        only=only,
        parallel=settings["parallel_tool_calls"],
    )
