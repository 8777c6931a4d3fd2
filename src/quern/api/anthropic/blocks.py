"""Content blocks, which messages consist of.

A client sends all that was said with every request, so no block of any type makes a history useless: what the model
can't be shown is a sentence in its place.

Source: "Create a Message" in Anthropic's API reference; of blocks that change the tools: its page on tool search.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, FailFast, Field, Tag

from quern.api.anthropic.documents import readable
from quern.api.anthropic.said import (
    CompactionBlock,
    DocumentBlock,
    OtherBlock,
    SearchResultBlock,
    SilentBlock,
    TextBlock,
    history_of,
    tagged,
)
from quern.api.anthropic.tools import ClientTool, OfferedTool
from quern.api.shared.chat_messages import ArgumentsText, SaidText
from quern.api.shared.fields import LeftOut, NoOp, RequestObject


class ToolUseBlock(RequestObject):
    """A call that the model made, or one that a vendor's server made for it. Its input may have been cut off."""

    type: Literal["tool_use", "server_tool_use", "mcp_tool_use"]
    id: SaidText = ""
    name: SaidText = ""
    input: ArgumentsText = ""
    cache_control: NoOp = None
    caller: NoOp = None
    server_name: NoOp = None
    toolset_name: NoOp = None


class ToolReferenceBlock(RequestObject):
    """A tool that a search found: from now on the model may call it."""

    type: Literal["tool_reference"]
    tool_name: SaidText = ""
    cache_control: NoOp = None

    def said(self) -> str:
        """What the model is told of it."""
        return f"The tool {self.tool_name} can be called now."


OutputBlock = Annotated[
    Annotated[TextBlock, Tag("text")]
    | Annotated[DocumentBlock, Tag("document")]
    | Annotated[SearchResultBlock, Tag("search_result")]
    | Annotated[ToolReferenceBlock, Tag("tool_reference")]
    | Annotated[OtherBlock, Tag("other")],
    tagged(("text", "document", "search_result", "tool_reference")),
]


class ToolResultBlock(RequestObject):
    """What a call gave back. No image in it is refused: the client can't take it back."""

    type: Literal["tool_result", "mcp_tool_result"]
    tool_use_id: SaidText = ""
    content: Annotated[list[OutputBlock], BeforeValidator(history_of)] = Field(default_factory=list[OutputBlock])
    is_error: Any = None
    cache_control: NoOp = None
    toolset_name: NoOp = None

    def output(self) -> str:
        """The same as text."""
        text = "\n".join(block.said() for block in self.content)
        return f"Error: {text}" if self.is_error is True else text


class ServerResultBlock(RequestObject):
    """What a call gave back that a vendor's server made, as `web_search_tool_result`."""

    type: str
    tool_use_id: SaidText = ""
    content: Any = None
    cache_control: NoOp = None
    caller: NoOp = None

    def output(self) -> str:
        """What of it can be read, as JSON."""
        return readable(self.content)


class ToolByName(RequestObject):
    """A tool by its name."""

    type: Literal["tool_reference"]
    name: str


class ToolByDefinition(RequestObject):
    """A tool by its definition."""

    type: Literal["tool_definition"]
    definition: ClientTool


class ForeignTool(LeftOut):
    """A tool of an MCP server."""


ChangedTool = Annotated[
    Annotated[ToolByName, Tag("tool_reference")]
    | Annotated[ToolByDefinition, Tag("tool_definition")]
    | Annotated[ForeignTool, Tag("other")],
    tagged(("tool_reference", "tool_definition")),
]


class ToolChangeBlock(RequestObject):
    """From now on the model may call a tool, or may not."""

    type: Literal["tool_addition", "tool_removal"]
    tool: ChangedTool
    cache_control: NoOp = None

    def name(self) -> str | None:
        """The tool's name; None for one that can't be called anyway."""
        match self.tool:
            case ToolByName(name=name):
                return name
            case ToolByDefinition(definition=OfferedTool() as definition):
                return definition.name
            case _:
                return None


SILENT = frozenset({"thinking", "redacted_thinking", "fallback", "mcp_tool_listing"})
ALIASES = {
    **dict.fromkeys(SILENT, "silent"),
    **dict.fromkeys(("server_tool_use", "mcp_tool_use"), "tool_use"),
    "mcp_tool_result": "tool_result",
    "tool_removal": "tool_addition",
}


def _alias(kind: str) -> str:
    if kind not in ALIASES and kind != "tool_result" and kind.endswith("_tool_result"):
        return "server_result"
    return ALIASES.get(kind, kind)


Block = Annotated[
    Annotated[TextBlock, Tag("text")]
    | Annotated[DocumentBlock, Tag("document")]
    | Annotated[SearchResultBlock, Tag("search_result")]
    | Annotated[CompactionBlock, Tag("compaction")]
    | Annotated[SilentBlock, Tag("silent")]
    | Annotated[ToolUseBlock, Tag("tool_use")]
    | Annotated[ToolResultBlock, Tag("tool_result")]
    | Annotated[ServerResultBlock, Tag("server_result")]
    | Annotated[ToolChangeBlock, Tag("tool_addition")]
    | Annotated[OtherBlock, Tag("other")],
    tagged(
        (
            "text",
            "document",
            "search_result",
            "compaction",
            "silent",
            "tool_use",
            "tool_result",
            "server_result",
            "tool_addition",
        ),
        _alias,
    ),
]
Content = Annotated[list[Block], FailFast(), BeforeValidator(history_of)]
"""A string or blocks."""
