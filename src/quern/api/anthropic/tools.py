"""Tools that clients run, and whether they are called.

Source: "Create a Message" in Anthropic's API reference.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from quern.api.shared.fields import JsonSchema, NoOp, RequestObject, type_of
from quern.api.shared.tools import ToolName, tool_use
from quern.turns.request import CallMode, ToolUse
from quern.types import Tool


def _callable_directly(callers: list[str]) -> list[str]:
    if "direct" not in callers:
        msg = "This server runs no code that could call tools, so only the model itself can. Add 'direct'"
        raise ValueError(msg)
    return callers


def _client_tool(tool: Any) -> Any:
    kind = type_of(tool)
    if kind is None or kind == "custom":
        return tool
    raise ValueError(
        f"Tools of the type {kind!r} are Anthropic's own, and this server has none of them. Leave it out, or describe "
        f"a tool of yours with name, description and input_schema"
    )


class ToolFields(RequestObject):
    """A tool that the client runs. `strict` counts where a call is demanded."""

    name: ToolName
    description: str | None = None
    input_schema: JsonSchema
    type: Literal["custom"] | None = None
    defer_loading: bool | None = Field(
        default=None, description="Not shown to the model before a tool_reference or a tool_addition names it."
    )
    allowed_callers: Annotated[list[str], AfterValidator(_callable_directly)] | None = None
    cache_control: NoOp = None
    eager_input_streaming: NoOp = None
    input_examples: NoOp = None
    strict: bool | None = None

    def tool(self) -> Tool:
        """The same as a value."""
        return Tool(self.name, self.description or "", self.input_schema, strict=bool(self.strict))


ClientTool = Annotated[ToolFields, BeforeValidator(_client_tool)]


MODES = {"auto": CallMode.AUTO, "any": CallMode.REQUIRED, "tool": CallMode.REQUIRED, "none": CallMode.NONE}


class ToolChoice(RequestObject):
    """Whether the model calls tools; `name`: the one that it must call, with the type `tool`."""

    type: Literal["auto", "any", "tool", "none"]
    name: str | None = None
    disable_parallel_tool_use: bool | None = None

    @model_validator(mode="after")
    def _named(self) -> Self:
        if (self.type == "tool") != (self.name is not None):
            msg = "A name belongs to the type 'tool', and to that one only"
            raise ValueError(msg)
        return self


def use_of(tools: Sequence[Tool], choice: ToolChoice | None) -> ToolUse:
    """The use of the tools that the model may be shown. Raises InvalidRequest where the choice doesn't fit them."""
    if choice is None:
        return tool_use(tools, None, only=None, parallel=True)
    return tool_use(tools, MODES[choice.type], only=choice.name, parallel=not choice.disable_parallel_tool_use)
