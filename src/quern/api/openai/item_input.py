"""Items that a caller says something with, as steps of a conversation.

What was said before is never refused: an item that the model can't be shown is left out, and named.

Source: "Create a model response" in OpenAI's API reference; docs/api.md lists what is not read.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Any, Literal, cast

from pydantic import BeforeValidator, Discriminator, Field, Tag

from quern.api.openai.compaction import summary_of
from quern.api.openai.items import item_id_of
from quern.api.openai.tool_items import qualified_name
from quern.api.shared.chat_messages import (
    OTHER,
    SOMEBODY,
    ArgumentsText,
    AssistantMessage,
    FunctionMessage,
    OtherMessage,
    SaidText,
    ToolMessage,
    object_or_left_out,
    speaker_of,
)
from quern.api.shared.content import Content, ContentField, SaidBefore
from quern.api.shared.fields import LeftOut, NoOp, RequestObject, type_of
from quern.types import CUSTOM_INPUT, Item, Message, Role, ToolCall, ToolKind, ToolResult

MOST_ITEMS = 10_000
LEFT_OUT = "left out"


class MessageItem(RequestObject):
    """What somebody says; `developer` is the newer name of the role `system`."""

    type: Literal["message"]
    role: Literal["user", "assistant", "system", "developer"]
    content: ContentField = Content()
    id: NoOp = None
    status: NoOp = None
    phase: NoOp = None

    def steps(self) -> list[Item]:
        """The same as values."""
        return [Message(Role.SYSTEM if self.role == "developer" else Role(self.role), self.content.before())]


class _OfCall(RequestObject):
    """What calls and their results have in common."""

    call_id: SaidText = ""
    id: SaidText = ""
    status: NoOp = None
    caller: NoOp = None
    created_by: NoOp = None

    @property
    def called(self) -> str:
        """The id that names a call to its result."""
        return self.call_id or self.id


class CallItem(_OfCall):
    """A call of a function."""

    type: Literal["function_call"]
    name: SaidText = ""
    namespace: SaidText | None = None
    arguments: ArgumentsText = ""
    async_: NoOp = Field(default=None, alias="async")

    def steps(self) -> list[Item]:
        """The same as values."""
        name = qualified_name(self.namespace, self.name)
        return [ToolCall(self.called, name, self.arguments, namespace=self.namespace)]


class CustomCallItem(_OfCall):
    """A call of a custom tool."""

    type: Literal["custom_tool_call"]
    name: SaidText = ""
    namespace: SaidText | None = None
    input: ArgumentsText = ""
    async_: NoOp = Field(default=None, alias="async")

    def steps(self) -> list[Item]:
        """The same as values."""
        name, arguments = qualified_name(self.namespace, self.name), _json({CUSTOM_INPUT: self.input})
        return [ToolCall(self.called, name, arguments, ToolKind.CUSTOM, self.namespace)]


class ActionItem(_OfCall):
    """A call of one of OpenAI's own tools that clients run."""

    type: Literal["local_shell_call", "shell_call", "apply_patch_call"]
    action: Any = None
    operation: Any = None
    environment: NoOp = None
    max_output_length: NoOp = None

    def steps(self) -> list[Item]:
        """The same as values."""
        kind = ToolKind(self.type.removesuffix("_call"))
        done = self.operation if kind is ToolKind.APPLY_PATCH else self.action
        members = cast("dict[str, Any]", done) if isinstance(done, dict) else {}
        shown = {
            name: value
            for name, value in members.items()
            if value not in (None, {}) and not (name == "type" and kind is not ToolKind.APPLY_PATCH)
        }
        return [ToolCall(self.called, kind.value, _json(shown), kind)]


class ResultItem(_OfCall):
    """What a call of a function or of a custom tool gave back."""

    type: Literal["function_call_output", "custom_tool_call_output", "local_shell_call_output"]
    output: SaidBefore = Content()
    name: NoOp = None
    namespace: NoOp = None
    tool_name: NoOp = None

    def steps(self) -> list[Item]:
        """The same as values."""
        return [ToolResult(self.called, self.output.before(), RESULTS[self.type])]


class ActionResultItem(_OfCall):
    """What a call of one of OpenAI's own tools gave back."""

    type: Literal["shell_call_output", "apply_patch_call_output"]
    output: Any = None
    max_output_length: NoOp = None

    def steps(self) -> list[Item]:
        """The same as values."""
        told = {"status": self.status, "output": self.output} if self.type == "apply_patch_call_output" else self.output
        return [ToolResult(self.called, _json(told), RESULTS[self.type])]


class RemoteCallItem(RequestObject):
    """A call that OpenAI's servers made to another one, with its result."""

    type: Literal["mcp_call"]
    id: SaidText = ""
    name: SaidText = ""
    arguments: ArgumentsText = ""
    output: SaidText = ""
    error: Any = None
    server_label: NoOp = None
    approval_request_id: NoOp = None
    status: NoOp = None

    def steps(self) -> list[Item]:
        """The same as values."""
        result = self.output if self.error is None else f"Error: {_text(self.error)}"
        return [ToolCall(self.id, self.name, self.arguments), ToolResult(self.id, result)]


class CompactionItem(RequestObject):
    """What was said before, made short: by this server, or by another one, whose form only that one knows."""

    type: Literal["compaction", "compaction_summary"]
    encrypted_content: SaidText = ""
    id: NoOp = None
    created_by: NoOp = None
    internal_chat_message_metadata_passthrough: NoOp = None

    def ignored(self) -> Sequence[str]:
        """See RequestObject."""
        unread = () if summary_of(self.encrypted_content) else ("encrypted_content",)
        return (*super().ignored(), *unread)

    def steps(self) -> list[Item]:
        """The same as values."""
        summary = summary_of(self.encrypted_content)
        return [] if summary is None else [Message(Role.USER, summary)]


class ReasoningItem(RequestObject):
    """What another model thought; these models think nothing of their own, so nothing is left of it."""

    type: Literal["reasoning"]
    id: NoOp = None
    summary: NoOp = None
    content: NoOp = None
    encrypted_content: NoOp = None
    status: NoOp = None

    def steps(self) -> list[Item]:
        """Nothing."""
        return []


class ReferenceItem(RequestObject):
    """An item that the server has."""

    type: Literal["item_reference"]
    id: str


RESULTS = {
    "function_call_output": ToolKind.FUNCTION,
    "custom_tool_call_output": ToolKind.CUSTOM,
    "local_shell_call_output": ToolKind.LOCAL_SHELL,
    "shell_call_output": ToolKind.SHELL,
    "apply_patch_call_output": ToolKind.APPLY_PATCH,
}
READ = {
    "message": "message",
    "function_call": "call",
    "custom_tool_call": "custom",
    **dict.fromkeys(("local_shell_call", "shell_call", "apply_patch_call"), "action"),
    **dict.fromkeys(("function_call_output", "custom_tool_call_output", "local_shell_call_output"), "result"),
    **dict.fromkeys(("shell_call_output", "apply_patch_call_output"), "action result"),
    "mcp_call": "remote",
    **dict.fromkeys(("compaction", "compaction_summary"), "compaction"),
    "reasoning": "reasoning",
    "item_reference": "reference",
}


def _with_type(value: Any) -> Any:
    """A message may leave its type out, and so may what has nothing but an id, which refers to an item. A text is what
    the user says, and what is no object is left out.
    """
    if isinstance(value, str):
        return {"type": "message", "role": "user", "content": value}
    members = cast("dict[str, Any]", object_or_left_out(value))
    if not isinstance(value, dict) or type_of(members) is not None:
        return members
    if speaker_of(members) != OTHER:
        return {**members, "type": "message"}
    is_reference = isinstance(members.get("id"), str) and members.keys() <= {"id", "type"}
    return {**members, "type": "item_reference" if is_reference else None}


def _kind(value: Any) -> str:
    if not isinstance(value, dict):
        return LEFT_OUT if isinstance(value, LeftOut) else READ[value.type]
    members = cast("dict[str, Any]", value)
    kind = READ.get(type_of(members) or "", LEFT_OUT)
    if kind == "reference":
        return kind if isinstance(members.get("id"), str) else LEFT_OUT
    return _message_kind(members) if kind == "message" else kind


def _message_kind(members: Mapping[str, Any]) -> str:
    """Results, and calls that stand in a message, have Chat Completions' shape."""
    speaker = speaker_of(members)
    if speaker == "assistant" and not (members.get("tool_calls") or members.get("function_call")):
        return "message"
    return {"system": "message", "user": "message", OTHER: LEFT_OUT}.get(speaker, speaker)


InputItem = Annotated[
    Annotated[
        Annotated[MessageItem, Tag("message")]
        | Annotated[AssistantMessage, Tag("assistant")]
        | Annotated[ToolMessage, Tag("tool")]
        | Annotated[FunctionMessage, Tag("function")]
        | Annotated[OtherMessage, Tag(SOMEBODY)]
        | Annotated[CallItem, Tag("call")]
        | Annotated[CustomCallItem, Tag("custom")]
        | Annotated[ActionItem, Tag("action")]
        | Annotated[ResultItem, Tag("result")]
        | Annotated[ActionResultItem, Tag("action result")]
        | Annotated[RemoteCallItem, Tag("remote")]
        | Annotated[CompactionItem, Tag("compaction")]
        | Annotated[ReasoningItem, Tag("reasoning")]
        | Annotated[ReferenceItem, Tag("reference")]
        | Annotated[LeftOut, Tag(LEFT_OUT)],
        Discriminator(_kind),
    ],
    BeforeValidator(_with_type),
]


def references(items: Iterable[InputItem]) -> list[str]:
    """The stored ids of the items that are only referred to. Raises ItemNotFound for what is no item's id."""
    return [item_id_of(item.id) for item in items if isinstance(item, ReferenceItem)]


def steps(items: Sequence[InputItem], referenced: Mapping[str, Item], field: str = "input") -> tuple[Item, ...]:
    """The items as values. `referenced`: those behind `references`, by id; `field`: the items'.

    Raises InvalidRequest where what the user says now is no text.
    """
    if items and isinstance(last := items[-1], MessageItem) and last.role == "user":
        last.content.now(f"{field}.{len(items) - 1}.content")
    values: list[Item] = []
    for item in items:
        match item:
            case ReferenceItem():
                values.append(referenced[item_id_of(item.id)])
            case LeftOut():
                continue
            case AssistantMessage() | ToolMessage() | FunctionMessage() | OtherMessage():
                values += item.items()
            case _:
                values += item.steps()
    return tuple(values)


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def _text(value: Any) -> str:
    return value if isinstance(value, str) else _json(value)
