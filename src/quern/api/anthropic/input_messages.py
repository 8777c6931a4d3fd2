"""Messages of a request as steps of a conversation, and the tools that they make known.

Source: "Create a Message" in Anthropic's API reference.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Literal, Self

from pydantic import model_validator

from quern.api.anthropic.blocks import (
    BLOCKS_OF_ROLE,
    Content,
    DefinedTool,
    NamedToolChange,
    TextBlock,
    ToolAdditionBlock,
    ToolReferenceBlock,
    ToolRemovalBlock,
    ToolResultBlock,
    ToolUseBlock,
)
from quern.api.anthropic.tools import ToolFields
from quern.api.shared.fields import NoOp, RequestObject
from quern.types import Item, Message, Role, Tool, ToolCall, ToolResult


class InputMessage(RequestObject):
    """What somebody says. `clear_at`: how long a system message is shown."""

    role: Literal["user", "assistant", "system"]
    content: Content
    clear_at: Literal["next_user_message", "never"] | None = None
    output_config: NoOp = None

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        kinds = BLOCKS_OF_ROLE[self.role]
        foreign = next((block.type for block in self.content if block.type not in kinds), None)
        if foreign is not None:
            msg = f"Messages of the role {self.role!r} have no blocks of the type {foreign!r}, only {', '.join(kinds)}"
            raise ValueError(msg)
        if self.role == "user" and not self.content:
            msg = "It says nothing. Send some content"
            raise ValueError(msg)
        if self.role != "system" and (self.clear_at is not None or self.output_config is not None):
            msg = "Only messages of the role 'system' have clear_at and output_config"
            raise ValueError(msg)
        return self

    def items(self) -> list[Item]:
        """The steps that it stands for. Texts that follow each other are one message."""
        role = Role(self.role)
        items: list[Item] = []
        for block in self.content:
            match block:
                case TextBlock():
                    if items and isinstance(last := items[-1], Message):
                        items[-1] = Message(role, f"{last.content}\n{block.text}")
                    else:
                        items.append(Message(role, block.text))
                case ToolUseBlock():
                    items.append(ToolCall(block.id, block.name, json.dumps(block.input, ensure_ascii=False)))
                case ToolResultBlock():
                    items.append(ToolResult(block.tool_use_id, block.output()))
                case _:
                    continue
        return items


def items_of(messages: Sequence[InputMessage]) -> tuple[Item, ...]:
    """The messages as steps, without those that were to be shown up to the next user message only."""
    last_user = max((index for index, message in enumerate(messages) if message.role == "user"), default=0)
    return tuple(
        item
        for index, message in enumerate(messages)
        if message.clear_at != "next_user_message" or index > last_user
        for item in message.items()
    )


def offered_tools(tools: Sequence[ToolFields], messages: Sequence[InputMessage]) -> list[Tool]:
    """The tools that are not deferred, and what the messages add and take away."""
    added: dict[str, Tool] = {}
    offered = {tool.name for tool in tools if not tool.defer_loading}
    for block in [block for message in messages for block in message.content]:
        match block:
            case ToolResultBlock():
                offered |= {found.tool_name for found in block.content if isinstance(found, ToolReferenceBlock)}
            case ToolAdditionBlock(tool=DefinedTool(definition=definition)):
                added.pop(definition.name, None)
                added[definition.name] = definition.tool()
                offered.add(definition.name)
            case ToolAdditionBlock(tool=NamedToolChange(name=name)):
                offered.add(name)
            case ToolRemovalBlock():
                offered.discard(block.tool.name)
            case _:
                continue
    known = [tool for tool in map(ToolFields.tool, tools) if tool.name not in added]
    return [tool for tool in (*known, *added.values()) if tool.name in offered]
