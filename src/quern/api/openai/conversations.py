"""Stored conversations: begin, list, read, update, attach to the running turn, delete; and their items, one by one.

Source of what OpenAI's clients read and send here: "Conversations" in OpenAI's API reference.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Query, Response

from quern.api.openai.conversation_request import ChangedConversation, MoreItems, NewConversation
from quern.api.openai.item_input import references, steps
from quern.api.openai.items import (
    PageCursor,
    PageLimit,
    PageOrder,
    item_cursor,
    item_id_of,
    item_json,
    item_list,
)
from quern.api.openai.response_includes import included
from quern.api.shared.conversation_json import conversation_json, seconds
from quern.api.shared.errors import validation_error
from quern.api.shared.headers import Owner
from quern.api.shared.openapi import EVENTS
from quern.api.shared.raw_text import TurnTextResponse
from quern.api.shared.request_body import JsonRoute
from quern.api.shared.request_turns import loop_json
from quern.api.shared.services import ServicesDep
from quern.api.shared.turn_json import timings_json, usage_json
from quern.errors import ConversationNotFound, InvalidRequest
from quern.records import Page, StoredItem, TurnRecord, unknown_cursor
from quern.types import Message, Role, ToolCall, ToolResult

router = APIRouter(route_class=JsonRoute, prefix="/v1/conversations", tags=["conversations"])

items_router = APIRouter(
    route_class=JsonRoute,
    prefix="/v1/conversations/{conversation_id}/items",
    tags=["conversations"],
    dependencies=[Depends(included)],
)


ArchivedFilter = Literal["false", "true", "any"]
ARCHIVED: dict[ArchivedFilter, bool | None] = {"false": False, "true": True, "any": None}


@router.get("")
async def list_conversations(
    services: ServicesDep,
    owner: Owner,
    limit: PageLimit = 20,
    after: PageCursor = None,
    archived: Annotated[ArchivedFilter, Query(description="Archived ones: left out, alone, or among the others.")] = (
        "false"
    ),
    pinned: Annotated[bool | None, Query(description="Only those that are pinned, or that are not.")] = None,
) -> dict[str, Any]:
    """The caller's conversations: pinned ones first, then newest activity first."""
    page = await services.conversations.page(
        owner, limit=limit, after=after, archived=ARCHIVED[archived], pinned=pinned
    )
    data = [conversation_json(item) for item in page.items]
    return {"object": "list", "data": data, "has_more": page.has_more, "last_id": data[-1]["id"] if data else None}


@router.post("")
async def create_conversation(
    services: ServicesDep, owner: Owner, body: NewConversation | None = None
) -> dict[str, Any]:
    """Begin a conversation without a turn, empty or with items."""
    given = body or NewConversation()
    items = given.items or []
    referenced = await services.responses.referenced(references(items), owner)
    return conversation_json(
        await services.conversations.create(owner, given.metadata or {}, steps(items, referenced, "items"), given.title)
    )


@router.delete("")
async def delete_conversations(
    services: ServicesDep, owner: Owner, all_: Annotated[bool, Query(alias="all", description="Must be true.")] = False
) -> dict[str, Any]:
    """Delete every conversation of the caller, and every stored response. Without `?all=true` nothing happens: a lost
    id must not delete all.
    """
    if not all_:
        message = (
            "This deletes all of your conversations and stored responses. Add ?all=true if you mean it, or name one in "
            "the path."
        )
        raise validation_error(("query", "all"), "value_error", message, None)
    deleted = await services.conversations.delete_all(owner)
    return {"object": "list.deleted", "deleted": deleted.conversations, "responses": deleted.responses}


@router.get("/{conversation_id}")
async def get_conversation(
    conversation_id: str, services: ServicesDep, owner: Owner, limit: PageLimit = 100, after: PageCursor = None
) -> dict[str, Any]:
    """One conversation: a page of its messages and the turns they belong to, with states, usage and timings."""
    view = await services.conversations.view(conversation_id, owner, limit=limit, after=after)
    messages = [_message(item) for item in view.items.items]
    return {
        **conversation_json(view.conversation),
        "messages": messages,
        "turns": [_turn(item) for item in view.turns],
        "has_more": view.items.has_more,
        "last_id": messages[-1]["id"] if messages else None,
    }


@router.post("/{conversation_id}")
async def update_conversation(
    conversation_id: str, body: ChangedConversation, services: ServicesDep, owner: Owner
) -> dict[str, Any]:
    """Replace a conversation's metadata, its title, or whether it is pinned or archived: what is sent."""
    return conversation_json(await services.conversations.change(conversation_id, owner, body.changes()))


@router.patch("/{conversation_id}")
async def patch_conversation(
    conversation_id: str, body: ChangedConversation, services: ServicesDep, owner: Owner
) -> dict[str, Any]:
    """The same as `POST`."""
    return await update_conversation(conversation_id, body, services, owner)


@router.delete("/{conversation_id}")
async def delete_conversation(conversation_id: str, services: ServicesDep, owner: Owner) -> dict[str, Any]:
    """Delete one conversation; a turn that runs in it is cancelled first."""
    await services.conversations.delete(conversation_id, owner)
    return {"id": conversation_id, "object": "conversation.deleted", "deleted": True}


@router.get("/{conversation_id}/stream", response_model=None, responses=EVENTS)
async def attach(conversation_id: str, services: ServicesDep, owner: Owner) -> Response:
    """Come back to a running turn after a lost connection: its text from the start, then as it comes. 404 where no turn
    runs: then the conversation itself has what there is.
    """
    turn = services.turns.running_turn(conversation_id, owner)
    if turn is None:
        message = f"No turn of this conversation is running. GET /v1/conversations/{conversation_id} has its messages."
        raise ConversationNotFound(message)
    return TurnTextResponse(turn, media_type="text/event-stream")


@items_router.get("")
async def list_items(
    conversation_id: str,
    services: ServicesDep,
    owner: Owner,
    limit: PageLimit = 20,
    order: PageOrder = "desc",
    after: PageCursor = None,
) -> dict[str, Any]:
    """A page of a conversation's items, the newest first unless `order=asc`."""
    cursor = item_cursor(after)
    try:
        page = await services.conversations.items(
            conversation_id, owner, limit=limit, after=cursor, newest_first=order == "desc"
        )
    except InvalidRequest:  # its sentence has the stored id, which the caller doesn't know
        raise unknown_cursor("item", after or "") from None
    return item_list(page)


@items_router.post("")
async def add_items(conversation_id: str, body: MoreItems, services: ServicesDep, owner: Owner) -> dict[str, Any]:
    """Put items at the end of a conversation in which nothing runs; the model sees them in the next turn."""
    referenced = await services.responses.referenced(references(body.items), owner)
    added = await services.conversations.append(conversation_id, owner, steps(body.items, referenced, "items"))
    return item_list(Page(tuple(added), has_more=False))


@items_router.get("/{item_id}")
async def get_item(conversation_id: str, item_id: str, services: ServicesDep, owner: Owner) -> dict[str, Any]:
    """One item."""
    stored = await services.conversations.item(conversation_id, owner, item_id_of(item_id))
    return item_json(stored.id, stored.item)


@items_router.delete("/{item_id}")
async def delete_item(conversation_id: str, item_id: str, services: ServicesDep, owner: Owner) -> dict[str, Any]:
    """Take an item out of a conversation in which nothing runs; the model never sees it again."""
    return conversation_json(await services.conversations.delete_item(conversation_id, owner, item_id_of(item_id)))


def _message(stored: StoredItem) -> dict[str, Any]:
    identity = {"id": stored.id, "turn_id": stored.turn_id, "created_at": seconds(stored.created_at)}
    match stored.item:
        case Message(role, content):
            return {**identity, "role": role, "content": content}
        case ToolCall(call_id, name, arguments):
            call = {"id": call_id, "name": name, "arguments": arguments}
            return {**identity, "role": Role.ASSISTANT, "content": "", "tool_call": call}
        case ToolResult(call_id, output):
            return {**identity, "role": Role.TOOL, "content": output, "tool_call_id": call_id}


def _turn(item: TurnRecord) -> dict[str, Any]:
    speed = item.timings.tokens_per_second(item.usage.completion_tokens)
    return {
        "id": item.id,
        "state": item.state,
        "finish_reason": item.finish_reason,
        "error": item.error,
        "repairs": item.repairs,
        "loop": loop_json(item.loop),
        "text": item.text,
        "model": item.model_id,
        "created_at": seconds(item.created_at),
        "started_at": seconds(item.started_at),
        "finished_at": seconds(item.finished_at),
        "usage": usage_json(item.usage),
        "timings": {
            **timings_json(item.timings),
            "tokens_per_second": round(speed, 2) if speed is not None else None,
            "drafts_accepted": item.timings.drafts_accepted,
        },
    }
