"""Messages of Chat Completions as steps of a conversation."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from quern.api.shared.content import Content, ContentField
from quern.api.shared.fields import NoOp, RequestObject
from quern.types import Item, Message, Role, ToolCall, ToolResult


class SystemMessage(RequestObject):
    """Instructions; `developer` is the newer name of the role."""

    role: Literal["system", "developer"]
    content: ContentField
    name: NoOp = None

    def items(self) -> list[Item]:
        """The steps that it stands for."""
        return [Message(Role.SYSTEM, self.content.before())]


class UserMessage(RequestObject):
    """What the user says."""

    role: Literal["user"]
    content: ContentField
    name: NoOp = None

    def items(self) -> list[Item]:
        """The steps that it stands for."""
        return [Message(Role.USER, self.content.before())]


def _as_text(arguments: Any) -> Any:
    """Clients send back a call that was cut off, or what they made of its arguments."""
    if arguments is None or isinstance(arguments, str):
        return arguments or ""
    return json.dumps(arguments, ensure_ascii=False)


ArgumentsText = Annotated[str, BeforeValidator(_as_text, json_schema_input_type=str | dict[str, Any] | None)]
"""The arguments of a call that was made before: JSON text as a rule, but whatever it is, it was said already."""


class CalledFunction(RequestObject):
    """What was called, with its arguments as JSON text."""

    name: str
    arguments: ArgumentsText = ""


class Call(RequestObject):
    """A call that the model made."""

    id: str = ""
    type: NoOp = None
    function: CalledFunction
    index: NoOp = None


class AssistantMessage(RequestObject):
    """What the model said and called."""

    role: Literal["assistant"]
    content: ContentField = Content()
    tool_calls: list[Call] = Field(default_factory=list[Call])
    name: NoOp = None
    refusal: NoOp = None
    annotations: NoOp = None
    audio: NoOp = None
    reasoning_content: NoOp = None
    reasoning: NoOp = None

    def items(self) -> list[Item]:
        """The steps that it stands for."""
        calls = [ToolCall(call.id, call.function.name, call.function.arguments) for call in self.tool_calls]
        content = self.content.before()
        message = [Message(Role.ASSISTANT, content)] if content or not calls else []
        return [*message, *calls]


class ToolMessage(RequestObject):
    """What a call gave back."""

    role: Literal["tool"]
    content: ContentField = Content()
    tool_call_id: str = ""
    name: NoOp = None

    def items(self) -> list[Item]:
        """The steps that it stands for."""
        return [ToolResult(self.tool_call_id, self.content.before())]


ChatMessage = Annotated[
    SystemMessage | UserMessage | AssistantMessage | ToolMessage,
    Field(discriminator="role"),
]


def message_items(messages: Sequence[ChatMessage], field: str = "messages") -> tuple[Item, ...]:
    """The messages as steps. Raises InvalidRequest where what the user says now is no text; `field`: the messages'."""
    last = len(messages) - 1
    if last > 0 and isinstance(messages[last], AssistantMessage):
        last -= 1
    if messages and isinstance(said_now := messages[last], UserMessage):
        said_now.content.now(f"{field}.{last}.content")
    return tuple(item for message in messages for item in message.items())
