"""Tools as Chat Completions describes them."""

from __future__ import annotations

from typing import Any, Literal

from quern.api.shared.fields import JsonSchema, Strict
from quern.api.shared.tool_use import ToolName
from quern.types import Tool

NO_PARAMETERS: dict[str, Any] = {"type": "object", "properties": {}}


class Function(Strict):
    """A function, as Chat Completions describes it. `strict` counts where a call is demanded."""

    name: ToolName
    description: str | None = None
    parameters: JsonSchema | None = None
    strict: bool | None = None

    def tool(self) -> Tool:
        """The same as a value."""
        return Tool(self.name, self.description or "", self.parameters or NO_PARAMETERS, strict=bool(self.strict))


class ChatTool(Strict):
    """A tool of Chat Completions."""

    type: Literal["function"]
    function: Function


class NamedFunction(Strict):
    """A function's name."""

    name: str


class NamedTool(Strict):
    """The tool that must be called, as Chat Completions names it."""

    type: Literal["function"]
    function: NamedFunction
