"""The steps of conversations as rows, and as values again."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Row, Select, func, insert, select
from sqlalchemy.ext.asyncio import AsyncConnection

from quern.errors import InvalidRequest
from quern.records import StoredItem
from quern.store.schema import ItemKind, items, storable
from quern.types import Item, Message, Role, ToolCall, ToolKind, ToolResult

ITEM = select(
    items.c.id,
    items.c.conversation_id,
    items.c.turn_id,
    items.c.position,
    items.c.kind,
    items.c.role,
    items.c.content,
    items.c.name,
    items.c.call_id,
    items.c.namespace,
    items.c.created_at,
    items.c.branch,
)
"""Selects what `stored_item` takes."""

CALLS = {
    ToolKind.FUNCTION: ItemKind.FUNCTION_CALL,
    ToolKind.CUSTOM: ItemKind.CUSTOM_CALL,
    ToolKind.LOCAL_SHELL: ItemKind.LOCAL_SHELL_CALL,
    ToolKind.SHELL: ItemKind.SHELL_CALL,
    ToolKind.APPLY_PATCH: ItemKind.APPLY_PATCH_CALL,
}
RESULTS = {
    ToolKind.FUNCTION: ItemKind.FUNCTION_RESULT,
    ToolKind.CUSTOM: ItemKind.CUSTOM_RESULT,
    ToolKind.LOCAL_SHELL: ItemKind.LOCAL_SHELL_RESULT,
    ToolKind.SHELL: ItemKind.SHELL_RESULT,
    ToolKind.APPLY_PATCH: ItemKind.APPLY_PATCH_RESULT,
}
KINDS_OF_CALLS = {kind: tool for tool, kind in CALLS.items()}
KINDS_OF_RESULTS = {kind: tool for tool, kind in RESULTS.items()}


@dataclass(frozen=True, slots=True)
class NewItem:
    """An item and the identity that it gets."""

    id: str
    item: Item


def stored_item(row: Row[*tuple[Any, ...]]) -> StoredItem:
    """An item from a row of `ITEM`."""
    return StoredItem(row.id, row.conversation_id, row.turn_id, row.position, _item(row), row.created_at, row.branch)


async def append_items(
    connection: AsyncConnection,
    conversation_id: str | None,
    turn_id: str | None,
    new: Iterable[NewItem],
    now: datetime,
    *,
    branch: int = 0,
) -> None:
    """Put items at the end of a conversation's branch, or of a turn that belongs to none. Either is locked."""
    last = await connection.execute(_last_position(conversation_id, turn_id))
    first = last.scalar_one() + 1
    rows = [
        {
            "id": item.id,
            "conversation_id": conversation_id,
            "turn_id": turn_id,
            "position": position,
            "created_at": now,
            "branch": branch,
            **columns_of(item.item),
        }
        for position, item in enumerate(new, first)
    ]
    if rows:
        await connection.execute(insert(items), rows)


def check_storable(new: Iterable[Item]) -> None:
    """Raise InvalidRequest, without a field, for characters that no database can hold (NUL, lone surrogates)."""
    for item in new:
        columns = columns_of(item)
        texts = [columns["content"], columns["name"], columns["call_id"], columns["namespace"]]
        if any(text is not None and storable(text) != text for text in texts):
            raise InvalidRequest(
                "What is said contains a NUL character (U+0000) or half of a surrogate pair, which can't be stored. "
                "Remove it, then send the request again."
            )


def _last_position(conversation_id: str | None, turn_id: str | None) -> Select[int]:
    last = select(func.coalesce(func.max(items.c.position), -1))
    if conversation_id is not None:
        return last.where(items.c.conversation_id == conversation_id)
    return last.where(items.c.turn_id == turn_id)


def columns_of(item: Item) -> dict[str, Any]:
    """What an item's row has of it."""
    columns: dict[str, Any] = {"kind": ItemKind.MESSAGE, "name": None, "call_id": None, "namespace": None}
    match item:
        case Message(role, content):
            return {**columns, "role": role, "content": content}
        case ToolCall(call_id, name, arguments, kind, namespace):
            call = {"name": name, "call_id": call_id, "namespace": namespace}
            return {"kind": CALLS[kind], "role": Role.ASSISTANT, "content": arguments, **call}
        case ToolResult(call_id, output, kind):
            return {**columns, "kind": RESULTS[kind], "role": Role.TOOL, "content": output, "call_id": call_id}


def _item(row: Row[*tuple[Any, ...]]) -> Item:
    if row.kind in KINDS_OF_CALLS:
        return ToolCall(row.call_id, row.name, row.content, KINDS_OF_CALLS[row.kind], row.namespace)
    if row.kind in KINDS_OF_RESULTS:
        return ToolResult(row.call_id, row.content, KINDS_OF_RESULTS[row.kind])
    return Message(row.role, row.content)
