"""Messages of Ollama's chats as steps of a conversation.

Source: "Generate a chat message" in Ollama's API documentation. Calls and their results have no ids there: results
belong to the calls before them, by the tool's name or in their order.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

from pydantic import Field

from quern.api.shared.chat_messages import SAID_LIST, ArgumentsText, SaidText, said_object
from quern.api.shared.content import Content, ContentField, UnreadablePart
from quern.api.shared.fields import NoOp, RequestObject
from quern.types import Item, Message, Role, ToolCall, ToolResult

ROLES = {"system": Role.SYSTEM, "developer": Role.SYSTEM, "assistant": Role.ASSISTANT, "tool": Role.TOOL}
"""Whoever has another role is somebody who asks."""


class CalledFunction(RequestObject):
    """What was called, with its arguments as an object."""

    name: SaidText = ""
    arguments: ArgumentsText = ""
    index: NoOp = None
    description: NoOp = None


class Call(RequestObject):
    """A call that the model made."""

    id: SaidText = ""
    type: NoOp = None
    function: Annotated[CalledFunction | None, said_object("arguments")] = None

    def item(self, otherwise: str) -> ToolCall:
        """The step that it stands for; `otherwise`: its id where it has none."""
        function = self.function or CalledFunction()
        return ToolCall(self.id or otherwise, function.name, function.arguments)


Calls = Annotated[list[Annotated[Call, said_object("function")]], SAID_LIST]
"""The calls of a message."""


class ChatMessage(RequestObject):
    """What somebody says, or what a tool gave back."""

    role: SaidText = ""
    content: ContentField = Content()
    tool_calls: Calls = Field(default_factory=list[Call])
    tool_name: SaidText = ""
    name: SaidText = ""
    tool_call_id: SaidText = ""
    images: Annotated[list[Any], SAID_LIST] = Field(default_factory=list[Any])
    thinking: NoOp = None

    @property
    def speaker(self) -> Role:
        """Who speaks."""
        return ROLES.get(self.role.lower(), Role.USER)

    def said(self) -> Content:
        """The text, with the images after it."""
        pictures = [UnreadablePart("", "image") for _ in self.images]
        texts = [part for part in self.content.parts if part != "" or not pictures]
        return Content((*texts, *pictures))


def message_items(messages: Sequence[ChatMessage]) -> tuple[Item, ...]:
    """The messages as steps. Raises InvalidRequest where what the user says now has images."""
    if messages and messages[-1].speaker is Role.USER:
        messages[-1].said().now(f"messages.{len(messages) - 1}.images")
    items: list[Item] = []
    waiting: list[ToolCall] = []
    for number, message in enumerate(messages):
        text = message.said().before()
        if message.speaker is Role.TOOL:
            items.append(ToolResult(_answered(message, waiting, number), text))
            continue
        calls = [call.item(f"call_{number}_{index}") for index, call in enumerate(message.tool_calls)]
        waiting += calls
        if text or not calls:
            items.append(Message(message.speaker, text))
        items += calls
    return tuple(items)


def _answered(result: ChatMessage, waiting: list[ToolCall], number: int) -> str:
    """The id of the call that a result belongs to, which then waits no more."""
    tool = result.tool_name or result.name
    named = [call for call in waiting if result.tool_call_id == call.id] or [
        call for call in waiting if tool == call.name or not tool
    ]
    if not named:
        return result.tool_call_id or f"call_{number}"
    waiting.remove(named[0])
    return named[0].id
