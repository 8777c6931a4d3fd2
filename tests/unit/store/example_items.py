"""Steps of conversations, for the store's tests."""

from __future__ import annotations

from datetime import UTC, datetime
from uuid import uuid4

from quern.store.items import NewItem
from quern.types import Item, Message, Role, ToolCall, ToolResult

NOON = datetime(2026, 5, 1, 12, tzinfo=UTC)

QUESTION = Message(Role.USER, "What is the weather in Paris and in 北京?")
CALLING = (
    Message(Role.ASSISTANT, "I look it up."),
    ToolCall("call_1", "weather", '{"city": "Paris"}'),
    ToolCall("call_2", "weather", '{"city": "北京"}'),
)
RESULTS = (ToolResult("call_2", '{"degrees": 3}'), ToolResult("call_1", ""))
ANSWER = Message(Role.ASSISTANT, "Cold in both.")


def new_item(item: Item) -> NewItem:
    """An item with an id of its own."""
    return NewItem(str(uuid4()), item)
