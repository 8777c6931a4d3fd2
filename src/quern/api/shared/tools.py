"""Tools and whether they are called: what all dialects check, and how Chat Completions describes them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import Field

from quern.api.shared.fields import JsonSchema, RequestObject
from quern.errors import InvalidRequest
from quern.turns.request import CallMode, ToolUse
from quern.types import Tool

MOST_TOOLS = 256
NO_PARAMETERS: dict[str, Any] = {"type": "object", "properties": {}}
ToolName = Annotated[str, Field(pattern=r"^[A-Za-z0-9_.\-]{1,128}$")]


class Function(RequestObject):
    """A function, as Chat Completions describes it. `strict` counts where a call is demanded."""

    name: ToolName
    description: str | None = None
    parameters: JsonSchema | None = None
    strict: bool | None = None

    def tool(self) -> Tool:
        """The same as a value."""
        return Tool(self.name, self.description or "", self.parameters or NO_PARAMETERS, strict=bool(self.strict))


class ChatTool(RequestObject):
    """A tool of Chat Completions."""

    type: Literal["function"]
    function: Function


class NamedFunction(RequestObject):
    """A function's name."""

    name: str


class NamedTool(RequestObject):
    """The tool that must be called, as Chat Completions names it."""

    type: Literal["function"]
    function: NamedFunction


def tool_use(tools: Sequence[Tool], choice: str | None, *, only: str | None, parallel: bool) -> ToolUse:
    """The use of tools that a request asks for. Raises InvalidRequest where its parts don't fit each other."""
    if len(tools) > MOST_TOOLS:
        raise InvalidRequest(f"A model is shown {MOST_TOOLS} tools at most, and these are {len(tools)}.", field="tools")
    names = Counter(tool.name for tool in tools)
    twice = next((name for name, count in names.items() if count > 1), None)
    if twice is not None:
        raise InvalidRequest(f"Two tools have the name {twice!r}. Give each a name of its own.", field="tools")
    if only is not None and only not in names:
        raise InvalidRequest(
            f"The tool {only!r} must be called, but it is not among the tools. Send it there, or name one that is.",
            field="tool_choice",
        )
    if choice == CallMode.REQUIRED and not tools:
        raise InvalidRequest(
            "A tool must be called, but there are no tools. Send some, or leave tool_choice out.", field="tool_choice"
        )
    mode = CallMode.REQUIRED if only is not None else CallMode(choice or CallMode.AUTO)
    return ToolUse(tuple(tools), mode, only, parallel)
