"""Messages of Chat Completions as steps of a conversation.

What was said before is never refused for what it says: a client sends it with every request, and would be refused for
ever.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, cast

from pydantic import BaseModel, BeforeValidator, Discriminator, Field, Tag

from quern.api.shared.content import Content, ContentField, SaidBefore
from quern.api.shared.fields import LeftOut, NoOp, RequestObject
from quern.errors import InvalidRequest
from quern.types import CUSTOM_INPUT, Item, Message, Role, ToolCall, ToolKind, ToolResult

CALL, SOMEBODY, OTHER = "call", "somebody", "other"


class _Said(RequestObject):
    """What all messages may have: the members of Responses' messages, too."""

    name: NoOp = None
    id: NoOp = None
    phase: NoOp = None
    status: NoOp = None
    type: NoOp = None


class SystemMessage(_Said):
    """Instructions; `developer` is the newer name of the role."""

    role: Literal["system", "developer"]
    content: ContentField = Content()

    def items(self) -> list[Item]:
        """The steps that it stands for."""
        return [Message(Role.SYSTEM, self.content.before())]


class UserMessage(_Said):
    """What the user says."""

    role: Literal["user"]
    content: ContentField = Content()

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


class Call(RequestObject):
    """A call that the model made."""

    id: SaidText = ""
    type: NoOp = None
    function: Annotated[CalledFunction | None, said_object("name")] = None
    custom: Annotated[CalledCustomTool | None, said_object("name")] = None
    index: NoOp = None

    def item(self) -> ToolCall:
        """The step that it stands for."""
        if self.custom is not None:
            arguments = json.dumps({CUSTOM_INPUT: self.custom.input}, ensure_ascii=False)
            return ToolCall(self.id, self.custom.name, arguments, ToolKind.CUSTOM)
        function = self.function or CalledFunction()
        return ToolCall(self.id, function.name, function.arguments)


def object_or_left_out(value: Any) -> Any:
    """What is no object is left out."""
    return cast("Any", value) if isinstance(value, dict | BaseModel) else LeftOut()


def _call_kind(value: Any) -> str:
    return OTHER if isinstance(value, LeftOut) else CALL


def _list_of_calls(value: Any) -> Any:
    return cast("Any", value) if isinstance(value, list) else [value] if value else []


Calls = Annotated[
    list[
        Annotated[
            Annotated[Call, Tag(CALL)] | Annotated[LeftOut, Tag(OTHER)],
            Discriminator(_call_kind),
            BeforeValidator(object_or_left_out),
        ]
    ],
    BeforeValidator(_list_of_calls),
]
"""Calls that the model made; what is none is left out, and named."""


class AssistantMessage(_Said):
    """What the model said and called."""

    role: Literal["assistant"]
    content: SaidBefore = Content()
    refusal: SaidText = ""
    tool_calls: Calls = Field(default_factory=list[Call | LeftOut])
    function_call: Annotated[CalledFunction | None, said_object("name")] = None
    annotations: NoOp = None
    audio: NoOp = None
    reasoning_content: NoOp = None
    reasoning: NoOp = None

    def text(self) -> str:
        """What was said."""
        return self.content.before() or self.refusal

    def calls(self) -> list[ToolCall]:
        """What was called."""
        calls = [call.item() for call in self.tool_calls if isinstance(call, Call)]
        if self.function_call is not None and not calls:
            called = self.function_call
            calls.append(ToolCall(legacy_call_id(called.name), called.name, called.arguments))
        return calls

    def items(self) -> list[Item]:
        """The steps that it stands for."""
        text, calls = self.text(), self.calls()
        message = [Message(Role.ASSISTANT, text)] if text or not calls else []
        return [*message, *calls]


class ToolMessage(_Said):
    """What a call gave back."""

    role: Literal["tool"]
    content: SaidBefore = Content()
    tool_call_id: SaidText = ""

    def items(self) -> list[Item]:
        """The steps that it stands for."""
        return [ToolResult(self.tool_call_id, self.content.before())]


class FunctionMessage(_Said):
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


class OtherMessage(_Said):
    """What somebody says whose role models don't know, so the user says it."""

    role: SaidText = ""
    content: SaidBefore = Content()

    def ignored(self) -> Sequence[str]:
        """See `RequestObject.ignored`."""
        return [*super().ignored(), "role"] if self.role else super().ignored()

    def items(self) -> list[Item]:
        """The steps that it stands for."""
        return [Message(Role.USER, self.content.before())]


SPEAKERS = {
    **dict.fromkeys(("system", "developer"), "system"),
    **{role: role for role in ("user", "assistant", "tool", "function")},
}


def speaker_of(message: Mapping[str, Any]) -> str:
    """Who says it: one of `SPEAKERS`, somebody else, or nobody, who says nothing."""
    role = message.get("role")
    known = SPEAKERS.get(role) if isinstance(role, str) else None
    return known or (SOMEBODY if message.get("content") is not None else OTHER)


def _speaker(value: Any) -> str:
    match value:
        case dict():
            return speaker_of(cast("dict[str, Any]", value))
        case OtherMessage():
            return SOMEBODY
        case SystemMessage() | UserMessage() | AssistantMessage() | ToolMessage() | FunctionMessage():
            return SPEAKERS[value.role]
        case _:
            return OTHER


def _message(value: Any) -> Any:
    """A text is what the user says."""
    return {"role": "user", "content": value} if isinstance(value, str) else object_or_left_out(value)


ChatMessage = Annotated[
    Annotated[SystemMessage, Tag("system")]
    | Annotated[UserMessage, Tag("user")]
    | Annotated[AssistantMessage, Tag("assistant")]
    | Annotated[ToolMessage, Tag("tool")]
    | Annotated[FunctionMessage, Tag("function")]
    | Annotated[OtherMessage, Tag(SOMEBODY)]
    | Annotated[LeftOut, Tag(OTHER)],
    Discriminator(_speaker),
    BeforeValidator(_message),
]
"""A message. One of a role that nobody knows is the user's; what is no message is left out. Both are named."""


def message_items(messages: Sequence[ChatMessage], field: str = "messages") -> tuple[Item, ...]:
    """The messages as steps. Raises InvalidRequest where there are none, or what the user says now is nothing or no
    text.

    `field`: the messages'.
    """
    said = [(index, message) for index, message in enumerate(messages) if not isinstance(message, LeftOut)]
    if not said:
        raise InvalidRequest(
            f"None of the {field} is one: it must be an object with a role and content. Send what the user says.",
            field=field,
        )
    now = said[-2] if len(said) > 1 and isinstance(said[-1][1], AssistantMessage) else said[-1]
    if isinstance(said_now := now[1], UserMessage):
        where = f"{field}.{now[0]}.content"
        if "content" not in said_now.model_fields_set:
            raise InvalidRequest(f"The field {where} is missing. Send what the user says.", field=where)
        said_now.content.now(where)
    return tuple(item for _, message in said for item in message.items())
