"""Content blocks, which messages consist of.

A client sends all that was said with every request, so no block of any type makes a history useless: what the model
can't be shown is a sentence in its place. `refusal` says of a block why it can't stand in what the user says now.

Source: "Create a Message" in Anthropic's API reference; of blocks that change the tools: its page on tool search.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Sequence
from typing import Annotated, Any, Literal, cast

from pydantic import BeforeValidator, Discriminator, FailFast, Field, Tag

from quern.api.anthropic.documents import framed, readable, source_text
from quern.api.anthropic.tools import ClientTool, OfferedTool
from quern.api.shared.content import UnreadablePart
from quern.api.shared.fields import LeftOut, NoOp, RequestObject, type_of

UNREADABLE = {
    "image": "Could not process image: the model reads text only. Say in a block of text what it shows",
    "document": "Could not process PDF: the model reads text only. Send the document's text in a block of text",
}
"""Where the sentences begin like this, clients leave the block out and ask again."""


class TextBlock(RequestObject):
    """Text."""

    type: Literal["text"] = "text"
    text: str = ""
    cache_control: NoOp = None
    citations: NoOp = None

    def said(self) -> str:
        """Its text."""
        return self.text


class DocumentBlock(RequestObject):
    """A document. Of a PDF, or of one that lies elsewhere, nothing can be read."""

    type: Literal["document"]
    source: Any = None
    title: str | None = None
    context: str | None = None
    cache_control: NoOp = None
    citations: NoOp = None

    def said(self) -> str:
        """Its text with title and context, or a sentence in its place."""
        text = source_text(self.source)
        if text is None:
            return UnreadablePart("", self.type).sentence()
        return framed("document", {"source": self.title, "context": self.context, "document_content": text})

    def refusal(self) -> str | None:
        """Why it can't be used in what is said now."""
        return UNREADABLE["document"] if source_text(self.source) is None else None


class SearchResultBlock(RequestObject):
    """What a search of the client's found."""

    type: Literal["search_result"]
    source: str = ""
    title: str = ""
    content: Any = None
    cache_control: NoOp = None
    citations: NoOp = None

    def said(self) -> str:
        """Its text, with where it is from."""
        return framed(
            "search_result", {"source": self.source, "title": self.title, "content": source_text(self.content) or ""}
        )


class CompactionBlock(RequestObject):
    """A summary of what was said before."""

    type: Literal["compaction"]
    content: str = ""
    cache_control: NoOp = None
    encrypted_content: NoOp = None
    signature: NoOp = None
    tool_changes: NoOp = None

    def said(self) -> str:
        """The summary."""
        return self.content


class OtherBlock(RequestObject):
    """An image, a file, or a block of a type that is not known."""

    type: str

    def ignored(self) -> Sequence[str]:
        """Nothing: in its place there is a sentence or a refusal."""
        return ()

    def said(self) -> str:
        """A sentence in its place."""
        return UnreadablePart("", self.type).sentence()

    def refusal(self) -> str:
        """Why it can't be used in what is said now."""
        return UNREADABLE.get(self.type) or (
            f"The model reads text only, so it can't be shown a block of the type {self.type!r}. Say in a block of "
            f"text what is in it, or leave it out"
        )


class SilentBlock(RequestObject):
    """What another model thought, or what a server noted for itself. It is not shown to the model."""

    type: str

    def ignored(self) -> Sequence[str]:
        """Nothing: none of it is meant for this server."""
        return ()


class ToolUseBlock(RequestObject):
    """A call that the model made, or one that a vendor's server made for it. Its input may have been cut off."""

    type: Literal["tool_use", "server_tool_use", "mcp_tool_use"]
    id: str = ""
    name: str = ""
    input: Any = None
    cache_control: NoOp = None
    caller: NoOp = None
    server_name: NoOp = None
    toolset_name: NoOp = None

    def arguments(self) -> str:
        """Its input as text: JSON, as far as it is any."""
        return _as_text(self.input)


class ToolReferenceBlock(RequestObject):
    """A tool that a search found: from now on the model may call it."""

    type: Literal["tool_reference"]
    tool_name: str
    cache_control: NoOp = None

    def said(self) -> str:
        """What the model is told of it."""
        return f"The tool {self.tool_name} can be called now."


def blocks_of(content: Any) -> Any:
    """A string is short for one block of text, and so is one in a list; null is nothing."""
    return [{"type": "text", "text": one} if isinstance(one, str) else one for one in _listed(content)]


def _outputs_of(content: Any) -> Any:
    """The same of what a tool gave back; what is no block is shown as JSON."""
    return blocks_of([one if _is_block(one) else _as_text(one) for one in _listed(content)])


def _is_block(value: Any) -> bool:
    match value:
        case {"type": str()} | {"text": str()}:
            return True
        case _:
            return False


def _listed(content: Any) -> list[Any]:
    if content is None:
        return []
    return cast("list[Any]", content) if isinstance(content, list) else [content]


def _as_text(value: Any) -> str:
    """A text as it is, and anything else as JSON; null is nothing."""
    return value or "" if value is None or isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _tagged(known: Collection[str], aliases: Callable[[str], str] = str) -> Discriminator:
    """Which block an object is: text where it has no type, and `other` where that is none of the known."""

    def tag(block: Any) -> str | None:
        kind = type_of(block) or getattr(block, "type", None)
        if kind is None:
            return "text" if isinstance(block, dict) and "text" in block else None
        return alias if (alias := aliases(kind)) in known else "other"

    return Discriminator(
        tag, custom_error_type="block_type", custom_error_message="A block has its type in the member 'type'"
    )


Texts = Annotated[list[TextBlock], BeforeValidator(blocks_of)]
"""A string or blocks of text."""

OutputBlock = Annotated[
    Annotated[TextBlock, Tag("text")]
    | Annotated[DocumentBlock, Tag("document")]
    | Annotated[SearchResultBlock, Tag("search_result")]
    | Annotated[ToolReferenceBlock, Tag("tool_reference")]
    | Annotated[OtherBlock, Tag("other")],
    _tagged(("text", "document", "search_result", "tool_reference")),
]


class ToolResultBlock(RequestObject):
    """What a call gave back. No image in it is refused: the client can't take it back."""

    type: Literal["tool_result", "mcp_tool_result"]
    tool_use_id: str = ""
    content: Annotated[list[OutputBlock], BeforeValidator(_outputs_of)] = Field(default_factory=list[OutputBlock])
    is_error: bool | None = None
    cache_control: NoOp = None
    toolset_name: NoOp = None

    def output(self) -> str:
        """The same as text."""
        text = "\n".join(block.said() for block in self.content)
        return f"Error: {text}" if self.is_error else text


class ServerResultBlock(RequestObject):
    """What a call gave back that a vendor's server made, as `web_search_tool_result`."""

    type: str
    tool_use_id: str = ""
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
    _tagged(("tool_reference", "tool_definition")),
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


Said = TextBlock | DocumentBlock | SearchResultBlock | CompactionBlock | OtherBlock
"""Blocks of what somebody says."""

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
    _tagged(
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
Content = Annotated[list[Block], FailFast(), BeforeValidator(blocks_of)]
"""A string or blocks."""
