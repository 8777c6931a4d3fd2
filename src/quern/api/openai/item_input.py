"""Items that a caller says something with, as steps of a conversation.

Source: "Create a model response" in OpenAI's API reference; docs/api.md lists what is not read.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Any, Literal, cast

from pydantic import BeforeValidator, Field

from quern.api.openai.items import item_id_of
from quern.api.shared.chat_messages import ArgumentsText
from quern.api.shared.content import Content, ContentField
from quern.api.shared.fields import NoOp, RequestObject, type_of
from quern.types import Item, Message, Role, ToolCall, ToolResult

MOST_ITEMS = 10_000
NOT_READ = (
    "An item of the type {kind!r} can't be used here: the model reads messages, calls of functions and their results. "
    "Leave the item out"
)


class MessageItem(RequestObject):
    """What somebody says; `developer` is the newer name of the role `system`."""

    type: Literal["message"]
    role: Literal["user", "assistant", "system", "developer"]
    content: ContentField
    id: NoOp = None
    status: NoOp = None
    phase: NoOp = None

    def step(self) -> Item:
        """The same as a value."""
        return Message(Role.SYSTEM if self.role == "developer" else Role(self.role), self.content.before())


class CallItem(RequestObject):
    """A call that the model made."""

    type: Literal["function_call"]
    call_id: str
    name: str
    arguments: ArgumentsText = ""
    id: NoOp = None
    status: NoOp = None

    def step(self) -> Item:
        """The same as a value."""
        return ToolCall(self.call_id, self.name, self.arguments)


class ResultItem(RequestObject):
    """What a call gave back."""

    type: Literal["function_call_output"]
    call_id: str
    output: ContentField = Content()
    id: NoOp = None
    status: NoOp = None
    name: NoOp = None

    def step(self) -> Item:
        """The same as a value."""
        return ToolResult(self.call_id, self.output.before())


class ReasoningItem(RequestObject):
    """What another model thought; these models think nothing of their own, so nothing is left of it."""

    type: Literal["reasoning"]
    id: NoOp = None
    summary: NoOp = None
    content: NoOp = None
    encrypted_content: NoOp = None
    status: NoOp = None


class ReferenceItem(RequestObject):
    """An item that the server has."""

    type: Literal["item_reference"]
    id: str


READ = frozenset({"message", "function_call", "function_call_output", "reasoning", "item_reference"})


def _with_type(value: Any) -> Any:
    """A message may leave its type out, and what is null is as good as left out: OpenAI's library sends items back
    with all that it knows of them. Raises ValueError for a type that is not read.
    """
    if not isinstance(value, dict):
        return value
    members = {name: member for name, member in cast("dict[str, Any]", value).items() if member is not None}
    kind = type_of(members) if "type" in members else "message"
    if kind not in READ:
        raise ValueError(NOT_READ.format(kind=kind))
    return {**members, "type": kind}


InputItem = Annotated[
    Annotated[
        MessageItem | CallItem | ResultItem | ReasoningItem | ReferenceItem,
        Field(discriminator="type"),
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
            case ReasoningItem():
                continue
            case _:
                values.append(item.step())
    return tuple(values)
