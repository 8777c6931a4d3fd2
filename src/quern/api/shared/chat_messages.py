"""Messages of Chat Completions as steps of a conversation."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from quern.api.shared.fields import NoOp, Strict, Text
from quern.types import Item, Message, Role, ToolCall, ToolResult


class SystemMessage(Strict):
    """Instructions; `developer` is the newer name of the role."""

    role: Literal["system", "developer"]
    content: Text
    name: NoOp = None

    def items(self) -> list[Item]:
        """The steps that it stands for."""
        return [Message(Role.SYSTEM, self.content)]


class UserMessage(Strict):
    """What the user says."""

    role: Literal["user"]
    content: Text
    name: NoOp = None

    def items(self) -> list[Item]:
        """The steps that it stands for."""
        return [Message(Role.USER, self.content)]


class CalledFunction(Strict):
    """What was called, with its arguments as JSON text."""

    name: str
    arguments: str


class Call(Strict):
    """A call that the model made."""

    id: str
    type: Literal["function"] = "function"
    function: CalledFunction
    index: NoOp = None


class AssistantMessage(Strict):
    """What the model said and called."""

    role: Literal["assistant"]
    content: Text = ""
    tool_calls: list[Call] | None = None
    name: NoOp = None
    refusal: NoOp = None
    annotations: NoOp = None
    audio: NoOp = None
    function_call: None = None
    reasoning_content: NoOp = None
    reasoning: NoOp = None

    def items(self) -> list[Item]:
        """The steps that it stands for."""
        calls = [ToolCall(call.id, call.function.name, call.function.arguments) for call in self.tool_calls or []]
        message = [Message(Role.ASSISTANT, self.content)] if self.content or not calls else []
        return [*message, *calls]


class ToolMessage(Strict):
    """What a call gave back."""

    role: Literal["tool"]
    content: Text
    tool_call_id: str
    name: NoOp = None

    def items(self) -> list[Item]:
        """The steps that it stands for."""
        return [ToolResult(self.tool_call_id, self.content)]


ChatMessage = Annotated[
    SystemMessage | UserMessage | AssistantMessage | ToolMessage,
    Field(discriminator="role"),
]
