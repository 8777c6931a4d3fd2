"""Tools that clients run, those that only a vendor's server runs, and whether they are called.

Source: "Create a Message" in Anthropic's API reference.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Annotated, Any, Literal, Self

from pydantic import Discriminator, Field, Tag, model_validator

from quern.api.anthropic.vendor_tools import is_vendor_tool, named_tool
from quern.api.shared.fields import JsonSchema, LeftOut, NoOp, RequestObject, type_of
from quern.api.shared.tools import ToolName, tool_use
from quern.errors import InvalidRequest
from quern.turns.request import CallMode, ToolUse
from quern.types import Tool

DIRECT = "direct"
TOOL_SEARCH = "tool_search_tool_"


class OfferedTool(RequestObject, ABC):
    """A tool that the client runs. `strict` counts where a call is demanded."""

    name: ToolName
    defer_loading: bool | None = Field(
        default=None, description="Not shown to the model before a tool_reference or a tool_addition names it."
    )
    allowed_callers: list[str] | None = None
    cache_control: NoOp = None
    input_examples: NoOp = None
    strict: bool | None = None

    @property
    def callable(self) -> bool:
        """Whether the model itself may call it: there is no code here that could."""
        return self.allowed_callers is None or DIRECT in self.allowed_callers

    def ignored(self) -> Sequence[str]:
        """What was left out, and `allowed_callers` where that leaves out the tool."""
        return [*super().ignored(), *([] if self.callable else ["allowed_callers"])]

    @abstractmethod
    def tool(self) -> Tool:
        """The same as a value."""


class CustomTool(OfferedTool):
    """A tool of the client's own."""

    type: Literal["custom"] | None = None
    description: str | None = None
    input_schema: JsonSchema
    eager_input_streaming: NoOp = None

    def tool(self) -> Tool:
        """The same as a value."""
        return Tool(self.name, self.description or "", self.input_schema, strict=bool(self.strict))


class KnownTool(OfferedTool):
    """A tool of Anthropic's design, by its type: `bash_20250124`."""

    type: str
    max_characters: NoOp = None

    def tool(self) -> Tool:
        """The same as a value, with the description and the schema that Anthropic's models know by heart."""
        return named_tool(self.type, self.name, strict=bool(self.strict))


class HostedTool(LeftOut):
    """A tool that Anthropic's servers run, or one that answers in images."""

    name: Any = None


def _tag(tool: Any) -> str:
    kind = type_of(tool) or getattr(tool, "type", None)
    if kind is None or kind == "custom":
        return "custom"
    return "known" if is_vendor_tool(kind) else "hosted"


ClientTool = Annotated[
    Annotated[CustomTool, Tag("custom")] | Annotated[KnownTool, Tag("known")] | Annotated[HostedTool, Tag("hosted")],
    Discriminator(_tag),
]


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


def use_of(offered: Sequence[Tool], choice: ToolChoice | None, sent: Sequence[ClientTool]) -> ToolUse:
    """The use of the tools that the model may be shown, of those that were sent.

    Raises InvalidRequest where the choice doesn't fit them.
    """
    if choice is None:
        return tool_use(offered, None, only=None, parallel=True)
    hosted = [tool for tool in sent if isinstance(tool, HostedTool)]
    if choice.type == "any" and hosted and not offered:
        raise _not_here(hosted[0].type)
    named = next((tool for tool in hosted if choice.name is not None and tool.name == choice.name), None)
    if named is not None:
        raise _not_here(named.type)
    return tool_use(offered, MODES[choice.type], only=choice.name, parallel=not choice.disable_parallel_tool_use)


def _not_here(kind: str) -> InvalidRequest:
    return InvalidRequest(
        f"The field tool_choice demands a tool of the type {kind!r}, which only Anthropic's servers can run. Demand a "
        f"tool of yours, or leave tool_choice out.",
        field="tool_choice",
    )
