"""Messages of a request as steps of a conversation, and the tools that they make known.

Source: "Create a Message" in Anthropic's API reference.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Literal

from pydantic import Field

from quern.api.anthropic.blocks import (
    Block,
    Content,
    ServerResultBlock,
    ToolByDefinition,
    ToolChangeBlock,
    ToolReferenceBlock,
    ToolResultBlock,
    ToolUseBlock,
)
from quern.api.anthropic.said import DocumentBlock, OtherBlock, Said
from quern.api.anthropic.tools import TOOL_SEARCH, ClientTool, HostedTool, OfferedTool
from quern.api.shared.fields import NoOp, RequestObject
from quern.errors import InvalidRequest
from quern.types import Item, Message, Role, Tool, ToolCall, ToolResult

BILLING_HEADER = re.compile(r"(?:\s*x-anthropic-billing-header:[^\n]*(?:\n|\Z))+", re.IGNORECASE)
"""Claude Code begins its first system text with lines of this kind. They change with every request, so whatever follows
them would never be found in the cache.
"""


def without_billing(text: str) -> str:
    """A system text without such lines at its beginning."""
    return BILLING_HEADER.sub("", text, count=1) if BILLING_HEADER.match(text) else text


class InputMessage(RequestObject):
    """What somebody says. `clear_at`: how long a system message is shown."""

    role: Literal["user", "assistant", "system"]
    content: Content = Field(default_factory=list[Block])
    clear_at: Literal["next_user_message", "never"] | None = None
    output_config: NoOp = None

    def ignored(self) -> Sequence[str]:
        """What was left out, and `clear_at` where it has no meaning."""
        misplaced = self.clear_at is not None and self.role != "system"
        return [*super().ignored(), *(["clear_at"] if misplaced else [])]

    def items(self) -> list[Item]:
        """The steps that it stands for. Texts that follow each other are one message."""
        role = Role(self.role)
        items: list[Item] = []
        for block in self.content:
            match block:
                case ToolUseBlock():
                    items.append(ToolCall(block.id, block.name, block.input))
                case ToolResultBlock() | ServerResultBlock():
                    items.append(ToolResult(block.tool_use_id, block.output()))
                case _ if isinstance(block, Said):
                    text = without_billing(block.said()) if role is Role.SYSTEM else block.said()
                    if items and isinstance(last := items[-1], Message) and text:
                        items[-1] = Message(role, f"{last.content}\n{text}")
                    elif text:
                        items.append(Message(role, text))
                case _:
                    continue
        return items or ([Message(role, "")] if role is Role.USER else [])

    def check_said_now(self, field: str) -> None:
        """Raises InvalidRequest where it says something that the model can't be shown; `field`: the message's."""
        for index, block in enumerate(self.content):
            sentence = block.refusal() if isinstance(block, DocumentBlock | OtherBlock) else None
            if sentence is not None:
                where = f"{field}.content.{index}"
                raise InvalidRequest(f"The field {where} can't be used: {sentence}.", field=where)


def check_said_now(messages: Sequence[InputMessage]) -> None:
    """Raises InvalidRequest where what the user says now can't be shown to the model.

    That is the last message, apart from an answer's beginning and what the system says besides.
    """
    indexes = [index for index, message in enumerate(messages) if message.role != "system"]
    if len(indexes) > 1 and messages[indexes[-1]].role == "assistant" and indexes[-1] == len(messages) - 1:
        indexes.pop()
    if indexes and (message := messages[indexes[-1]]).role == "user":
        message.check_said_now(f"messages.{indexes[-1]}")


def items_of(messages: Sequence[InputMessage]) -> tuple[Item, ...]:
    """The messages as steps, without those that were to be shown up to the next user message only."""
    last_user = max((index for index, message in enumerate(messages) if message.role == "user"), default=0)
    return tuple(
        item
        for index, message in enumerate(messages)
        if message.role != "system" or message.clear_at != "next_user_message" or index > last_user
        for item in message.items()
    )


def offered_tools(tools: Sequence[ClientTool], messages: Sequence[InputMessage]) -> list[Tool]:
    """The tools that are not deferred, and what the messages add and take away.

    Where a vendor's server was to search for the deferred ones, they are shown as well: nobody else would find them.
    """
    added: dict[str, Tool] = {}
    searched = any(isinstance(tool, HostedTool) and tool.type.startswith(TOOL_SEARCH) for tool in tools)
    shown = [tool for tool in tools if isinstance(tool, OfferedTool) and tool.callable]
    offered = {tool.name for tool in shown if searched or not tool.defer_loading}
    for block in [block for message in messages for block in message.content]:
        match block:
            case ToolResultBlock():
                offered |= {found.tool_name for found in block.content if isinstance(found, ToolReferenceBlock)}
            case ToolChangeBlock(type="tool_removal"):
                offered.discard(block.name() or "")
            case ToolChangeBlock():
                if isinstance(block.tool, ToolByDefinition) and isinstance(block.tool.definition, OfferedTool):
                    added.pop(block.tool.definition.name, None)
                    added[block.tool.definition.name] = block.tool.definition.tool()
                offered.add(block.name() or "")
            case _:
                continue
    known = [tool.tool() for tool in shown if tool.name not in added]
    return [tool for tool in (*known, *added.values()) if tool.name in offered]
