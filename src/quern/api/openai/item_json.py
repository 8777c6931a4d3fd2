"""Steps of conversations as OpenAI's items.

Source of the shapes: "The input item list" and "The item list" in OpenAI's API reference.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from quern.api.openai.item_ids import item_id_of, shown_item_id
from quern.errors import ItemNotFound
from quern.records import Page, StoredItem, page_of, unknown_cursor
from quern.types import Item, Message, Role, ToolCall, ToolResult

COMPLETED = "completed"


def item_json(item_id: str, item: Item, status: str = COMPLETED) -> dict[str, Any]:
    """An item with its id."""
    shown = {"id": shown_item_id(item_id, item), "status": status}
    match item:
        case Message(role, content):
            return {**shown, "type": "message", "role": role.value, "content": [text_part(role, content)]}
        case ToolCall(call_id, name, arguments):
            return {**shown, "type": "function_call", "call_id": call_id, "name": name, "arguments": arguments}
        case ToolResult(call_id, output):
            return {**shown, "type": "function_call_output", "call_id": call_id, "output": output}


def text_part(role: Role, text: str) -> dict[str, Any]:
    """A message's content: what the model says is an output, everything else an input."""
    if role is Role.ASSISTANT:
        return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}
    return {"type": "input_text", "text": text}


def item_list(page: Page[StoredItem]) -> dict[str, Any]:
    """A page of items."""
    data = [item_json(stored.id, stored.item) for stored in page.items]
    return {
        "object": "list",
        "data": data,
        "first_id": data[0]["id"] if data else None,
        "last_id": data[-1]["id"] if data else None,
        "has_more": page.has_more,
    }


def item_cursor(after: str | None) -> str | None:
    """The stored id behind the query parameter `after`. Raises InvalidRequest for what is no item's id."""
    try:
        return None if after is None else item_id_of(after)
    except ItemNotFound:
        raise unknown_cursor("item", after or "") from None


def page_in_order(
    items: Sequence[StoredItem], *, limit: int, after: str | None, newest_first: bool
) -> Page[StoredItem]:
    """A part of a list that is there as a whole. Raises InvalidRequest where `after` names none of its items."""
    ordered = list(reversed(items)) if newest_first else list(items)
    cursor = item_cursor(after)
    if cursor is not None:
        ids = [stored.id for stored in ordered]
        if cursor not in ids:
            raise unknown_cursor("item", after or "")
        ordered = ordered[ids.index(cursor) + 1 :]
    return page_of(ordered, limit)
