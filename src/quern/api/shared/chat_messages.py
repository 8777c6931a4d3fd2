"""Messages of Chat Completions as steps of a conversation.

What was said before is never refused for what it says: a client sends it with every request, and would be refused for
ever.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Annotated, Any, Literal, cast

from pydantic import BaseModel, BeforeValidator, Field

from quern.api.shared.content import Content, ContentField, SaidBefore
from quern.api.shared.fields import NoOp, RequestObject
from quern.errors import InvalidRequest
from quern.types import Item, Message, Role, ToolCall, ToolResult


class SystemMessage(RequestObject):
    """Instructions; `developer` is the newer name of the role."""

    role: Literal["system", "developer"]
    content: ContentField = Content()
    name: NoOp = None

    def items(self) -> list[Item]:
        """The steps that it stands for."""
        return [Message(Role.SYSTEM, self.content.before())]


class UserMessage(RequestObject):
    """What the user says."""

    role: Literal["user"]
    content: ContentField = Content()
    name: NoOp = None

    def items(self) -> list[Item]:
        """The steps that it stands for."""
        return [Message(Role.USER, self.content.before())]


def _as_text(value: Any) -> Any:
    """Clients send back a call that was cut off, or what they made of its arguments."""
    if value is None or isinstance(value, str):
        return value or ""
    return json.dumps(value, ensure_ascii=False)


SaidText = Annotated[str, BeforeValidator(_as_text, json_schema_input_type=Any)]
"""A text of what was said before, as a call's id; another value is shown as JSON."""

ArgumentsText = Annotated[SaidText, Field(description="JSON as a rule, and cut where the answer was.")]
"""The arguments of a call that was made before."""


def said_object(name: str) -> BeforeValidator:
    """For an object of what was said before: a value that is none is its member `name`, one that says nothing null."""

    def read(value: Any) -> Any:
        if isinstance(value, dict | BaseModel):
            return cast("Any", value)
        return {name: value} if value else None

    return BeforeValidator(read, json_schema_input_type=Any)


def _as_list(value: Any) -> Any:
    listed = cast("list[Any]", value) if isinstance(value, list) else [value]
    return [one for one in listed if one or isinstance(one, dict)]


SAID_LIST = BeforeValidator(_as_list, json_schema_input_type=Any)
"""For a list of what was said before: one alone is a list of it, and what says nothing is left out."""


class CalledFunction(RequestObject):
    """What was called, with its arguments as JSON text."""

    name: SaidText = ""
    arguments: ArgumentsText = ""


class CalledCustomTool(RequestObject):
    """A tool that takes text, and the text."""

    name: SaidText = ""
    input: SaidText = ""


SaidFunction = Annotated[CalledFunction | None, said_object("arguments")]
"""A function that was called."""


class Call(RequestObject):
    """A call that the model made."""

    id: SaidText = ""
    type: NoOp = None
    function: SaidFunction = None
    custom: Annotated[CalledCustomTool | None, said_object("input")] = None
    index: NoOp = None

    def item(self) -> ToolCall:
        """The step that it stands for."""
        if self.custom is not None:
            return ToolCall(self.id, self.custom.name, self.custom.input)
        function = self.function or CalledFunction()
        return ToolCall(self.id, function.name, function.arguments)


Calls = Annotated[list[Annotated[Call, said_object("function")]], SAID_LIST]
"""The calls of a message."""


class AssistantMessage(RequestObject):
    """What the model said and called."""

    role: Literal["assistant"]
    content: SaidBefore = Content()
    refusal: SaidText = ""
    tool_calls: Calls = Field(default_factory=list[Call])
    function_call: SaidFunction = None
    name: NoOp = None
    annotations: NoOp = None
    audio: NoOp = None
    reasoning_content: NoOp = None
    reasoning: NoOp = None

    def text(self) -> str:
        """What was said."""
        return self.content.before() or self.refusal

    def calls(self) -> list[ToolCall]:
        """What was called."""
        calls = [call.item() for call in self.tool_calls]
        if self.function_call is not None and not calls:
            called = self.function_call
            calls.append(ToolCall(legacy_call_id(called.name), called.name, called.arguments))
        return calls

    def items(self) -> list[Item]:
        """The steps that it stands for."""
        text, calls = self.text(), self.calls()
        message = [Message(Role.ASSISTANT, text)] if text or not calls else []
        return [*message, *calls]


class ToolMessage(RequestObject):
    """What a call gave back."""

    role: Literal["tool"]
    content: SaidBefore = Content()
    tool_call_id: SaidText = ""
    name: NoOp = None

    def items(self) -> list[Item]:
        """The steps that it stands for."""
        return [ToolResult(self.tool_call_id, self.content.before())]


class FunctionMessage(RequestObject):
    """What a function gave back, when calls had no ids yet."""

    role: Literal["function"]
    content: SaidBefore = Content()
    name: SaidText = ""

    def items(self) -> list[Item]:
        """The steps that it stands for."""
        return [ToolResult(legacy_call_id(self.name), self.content.before())]


def legacy_call_id(name: str) -> str:
    """The id of a call that had none, of a function: its result names the function alone."""
    return f"function_{name}"


ChatMessage = Annotated[
    SystemMessage | UserMessage | AssistantMessage | ToolMessage | FunctionMessage,
    Field(discriminator="role"),
]


def message_items(messages: Sequence[ChatMessage], field: str = "messages") -> tuple[Item, ...]:
    """The messages as steps. Raises InvalidRequest where what the user says now is nothing, or no text.

    `field`: the messages'.
    """
    last = len(messages) - 1
    if last > 0 and isinstance(messages[last], AssistantMessage):
        last -= 1
    if messages and isinstance(said_now := messages[last], UserMessage):
        if "content" not in said_now.model_fields_set:
            where = f"{field}.{last}.content"
            raise InvalidRequest(f"The field {where} is missing. Send what the user says.", field=where)
        said_now.content.now(f"{field}.{last}.content")
    return tuple(item for message in messages for item in message.items())
