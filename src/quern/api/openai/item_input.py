"""Items that a caller says something with, as steps of a conversation.

Source: "Create a model response" in OpenAI's API reference; docs/api.md lists what is not read.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Literal, cast

from pydantic import AfterValidator, BeforeValidator, Field

from quern.api.openai.items import item_id_of
from quern.api.shared.fields import NoOp, Strict, Text, type_of
from quern.types import Item, Message, Role, ToolCall, ToolResult

MOST_ITEMS = 10_000
NOT_READ = (
    "An item of the type {kind!r} can't be used here: the model reads messages, calls of functions and their results. "
    "Leave the item out"
)


class MessageItem(Strict):
    """What somebody says; `developer` is the newer name of the role `system`."""

    type: Literal["message"]
    role: Literal["user", "assistant", "system", "developer"]
    content: Text
    id: NoOp = None
    status: NoOp = None
    phase: NoOp = None

    def step(self) -> Item:
        """The same as a value."""
        return Message(Role.SYSTEM if self.role == "developer" else Role(self.role), self.content)


def _an_object(arguments: str) -> str:
    """The model was trained on arguments as an object. Raises ValueError for other text."""
    try:
        value = json.loads(arguments)
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise ValueError("It must be the text of a JSON object, as the server gave it")  # noqa: TRY004 (pydantic makes a sentence of a ValueError)
    return arguments


class CallItem(Strict):
    """A call that the model made."""

    type: Literal["function_call"]
    call_id: str
    name: str
    arguments: Annotated[str, AfterValidator(_an_object)]
    id: NoOp = None
    status: NoOp = None

    def step(self) -> Item:
        """The same as a value."""
        return ToolCall(self.call_id, self.name, self.arguments)


class ResultItem(Strict):
    """What a call gave back."""

    type: Literal["function_call_output"]
    call_id: str
    output: Text
    id: NoOp = None
    status: NoOp = None
    name: NoOp = None

    def step(self) -> Item:
        """The same as a value."""
        return ToolResult(self.call_id, self.output)


class ReasoningItem(Strict):
    """What another model thought; these models think nothing of their own, so nothing is left of it."""

    type: Literal["reasoning"]
    id: NoOp = None
    summary: NoOp = None
    content: NoOp = None
    encrypted_content: NoOp = None
    status: NoOp = None


class ReferenceItem(Strict):
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


def steps(items: Iterable[InputItem], referenced: Mapping[str, Item]) -> tuple[Item, ...]:
    """The items as values. `referenced`: those behind `references`, by id."""
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
