"""Items as OpenAI's clients see them. Their ids, and those of responses, are a prefix that says what it is, then the 32
hexadecimal digits of the stored id.

Source of the shapes: "The input item list" and "The item list" in OpenAI's API reference.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Annotated, Any, Literal
from uuid import UUID

from fastapi import Query

from quern.api.openai.tool_items import CALL_PREFIXES, RESULT_PREFIXES, call_json, result_json
from quern.errors import ItemNotFound, ResponseNotFound
from quern.records import Page, StoredItem, page_of, unknown_cursor
from quern.turns.history import NO_RESPONSE
from quern.types import Item, Message, Role, ToolCall, ToolResult

COMPLETED = "completed"
NO_ITEM = "There is no such item: the id is wrong, or it was deleted. Send an id exactly as the server gave it."
PageLimit = Annotated[int, Query(ge=1, le=100, description="Most items of a page.")]
PageOrder = Literal["asc", "desc"]
PageCursor = Annotated[str | None, Query(description="The last id of the page before this one.")]
_RESPONSE = re.compile("resp_([0-9a-f]{32})")
_ITEM = re.compile(f"(?:msg|{'|'.join([*CALL_PREFIXES.values(), *RESULT_PREFIXES.values()])})_([0-9a-f]{{32}})")


def public_response_id(turn_id: str) -> str:
    """The id of a turn's response."""
    return f"resp_{UUID(turn_id).hex}"


def turn_id_of(response_id: str) -> str:
    """The turn of a response. Raises ResponseNotFound for anything that is not exactly a response's id."""
    known = _RESPONSE.fullmatch(response_id)
    if known is None:
        raise ResponseNotFound(NO_RESPONSE)
    return str(UUID(known[1]))


def public_item_id(item_id: str, item: Item) -> str:
    """The id of a message, of a call or of its result."""
    match item:
        case Message():
            prefix = "msg"
        case ToolCall(kind=kind):
            prefix = CALL_PREFIXES[kind]
        case ToolResult(kind=kind):
            prefix = RESULT_PREFIXES[kind]
    return f"{prefix}_{UUID(item_id).hex}"


def item_id_of(public_id: str) -> str:
    """The stored id of an item. Raises ItemNotFound for anything that is not exactly an item's id."""
    known = _ITEM.fullmatch(public_id)
    if known is None:
        raise ItemNotFound(NO_ITEM)
    return str(UUID(known[1]))


def item_json(item_id: str, item: Item, status: str = COMPLETED) -> dict[str, Any]:
    """An item with its id."""
    heading = {"id": public_item_id(item_id, item), "status": status}
    match item:
        case Message(role, content):
            return {**heading, "type": "message", "role": role.value, "content": [text_part(role, content)]}
        case ToolCall():
            return {**heading, **call_json(item)}
        case ToolResult():
            return {**heading, **result_json(item)}


def text_part(role: Role, text: str, logprobs: Sequence[dict[str, Any]] = ()) -> dict[str, Any]:
    """A message's content: what the model says is an output, everything else an input."""
    if role is Role.ASSISTANT:
        return {"type": "output_text", "text": text, "annotations": [], "logprobs": list(logprobs)}
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
