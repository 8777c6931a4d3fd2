"""Content blocks, which messages consist of.

Source: "Create a Message" in Anthropic's API reference; of blocks that change the tools: its page on tool search.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, FailFast, Field

from quern.api.anthropic.tools import ClientTool
from quern.api.shared.fields import NoOp, RequestObject, type_of

UNREADABLE = {
    "image": "Could not process image: the model reads text only. Say in a block of text what it shows",
    "document": "Could not process PDF: the model reads text only. Send the document's text in a block of text",
}
"""Where the sentences begin like this, clients leave the block out and ask again."""


class TextBlock(RequestObject):
    """Text."""

    type: Literal["text"]
    text: str
    cache_control: NoOp = None
    citations: NoOp = None


class ToolUseBlock(RequestObject):
    """A call that the model made."""

    type: Literal["tool_use"]
    id: str
    name: str
    input: dict[str, Any]
    cache_control: NoOp = None
    caller: NoOp = None
    toolset_name: None = None


class ToolReferenceBlock(RequestObject):
    """A tool that a search found: from now on the model may call it."""

    type: Literal["tool_reference"]
    tool_name: str
    cache_control: NoOp = None


def blocks_of(content: Any) -> Any:
    """A string is short for one block of text."""
    if isinstance(content, str):
        return [{"type": "text", "text": content}]
    return [] if content is None else content


def _readable(types: Collection[str]) -> BeforeValidator:
    def check(block: Any) -> Any:
        kind = type_of(block)
        if kind is None or kind in types:
            return block
        raise ValueError(
            UNREADABLE.get(kind)
            or f"The model reads text only, and this server runs no tools, so blocks of the type {kind!r} have no "
            f"meaning here. Leave them out"
        )

    return BeforeValidator(check)


Texts = Annotated[list[TextBlock], BeforeValidator(blocks_of)]
"""A string or blocks of text."""

OutputBlock = Annotated[
    TextBlock | ToolReferenceBlock, Field(discriminator="type"), _readable(("text", "tool_reference"))
]


class ToolResultBlock(RequestObject):
    """What a call gave back."""

    type: Literal["tool_result"]
    tool_use_id: str
    content: Annotated[list[OutputBlock], BeforeValidator(blocks_of)] = Field(default_factory=list[OutputBlock])
    is_error: bool | None = None
    cache_control: NoOp = None
    toolset_name: None = None

    def output(self) -> str:
        """The same as text."""
        text = "\n".join(
            block.text if isinstance(block, TextBlock) else f"The tool {block.tool_name} can be called now."
            for block in self.content
        )
        return f"Error: {text}" if self.is_error else text


class ThinkingBlock(RequestObject):
    """What another model thought. It is not shown to this one."""

    type: Literal["thinking"]
    thinking: NoOp = None
    signature: NoOp = None


class RedactedThinkingBlock(RequestObject):
    """The same, encrypted."""

    type: Literal["redacted_thinking"]
    data: NoOp = None


class NamedToolChange(RequestObject):
    """A tool by its name."""

    type: Literal["tool_reference"]
    name: str


class DefinedTool(RequestObject):
    """A tool by its definition."""

    type: Literal["tool_definition"]
    definition: ClientTool


class ToolAdditionBlock(RequestObject):
    """From now on the model may call a tool."""

    type: Literal["tool_addition"]
    tool: Annotated[NamedToolChange | DefinedTool, Field(discriminator="type")]
    cache_control: NoOp = None


class ToolRemovalBlock(RequestObject):
    """From now on the model may not call a tool."""

    type: Literal["tool_removal"]
    tool: NamedToolChange
    cache_control: NoOp = None


BLOCKS_OF_ROLE = {
    "user": ("text", "tool_result"),
    "assistant": ("text", "tool_use", "thinking", "redacted_thinking"),
    "system": ("text", "tool_addition", "tool_removal"),
}
"""Which blocks the messages of a role have."""

Block = Annotated[
    TextBlock
    | ToolUseBlock
    | ToolResultBlock
    | ThinkingBlock
    | RedactedThinkingBlock
    | ToolAdditionBlock
    | ToolRemovalBlock,
    Field(discriminator="type"),
    _readable({kind for kinds in BLOCKS_OF_ROLE.values() for kind in kinds}),
]
Content = Annotated[list[Block], FailFast(), BeforeValidator(blocks_of)]
"""A string or blocks."""
