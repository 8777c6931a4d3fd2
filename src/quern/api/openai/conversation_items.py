"""What was said in a conversation, item by item: `/v1/conversations/{conversation_id}/items`."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Query

from quern.api.openai.conversation_request import MoreItems
from quern.api.openai.conversations import conversation_json
from quern.api.openai.item_ids import item_id_of
from quern.api.openai.item_input import references, steps
from quern.api.openai.item_json import item_cursor, item_json, item_list
from quern.api.openai.response_includes import included
from quern.api.shared.headers import Owner
from quern.api.shared.request_body import JsonRoute
from quern.api.shared.services import ServicesDep
from quern.errors import InvalidRequest
from quern.records import Page, unknown_cursor

router = APIRouter(
    route_class=JsonRoute,
    prefix="/v1/conversations/{conversation_id}/items",
    tags=["conversations"],
    dependencies=[Depends(included)],
)


@router.get("")
async def list_items(
    conversation_id: str,
    services: ServicesDep,
    owner: Owner,
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
    order: Literal["asc", "desc"] = "desc",
    after: Annotated[str | None, Query(description="The last id of the page before this one.")] = None,
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


@router.post("")
async def add_items(conversation_id: str, body: MoreItems, services: ServicesDep, owner: Owner) -> dict[str, Any]:
    """Put items at the end of a conversation in which nothing runs; the model sees them in the next turn."""
    referenced = await services.responses.referenced(references(body.items), owner)
    added = await services.conversations.append(conversation_id, owner, steps(body.items, referenced))
    return item_list(Page(tuple(added), has_more=False))


@router.get("/{item_id}")
async def get_item(conversation_id: str, item_id: str, services: ServicesDep, owner: Owner) -> dict[str, Any]:
    """One item."""
    stored = await services.conversations.item(conversation_id, owner, item_id_of(item_id))
    return item_json(stored.id, stored.item)


@router.delete("/{item_id}")
async def delete_item(conversation_id: str, item_id: str, services: ServicesDep, owner: Owner) -> dict[str, Any]:
    """Take an item out of a conversation in which nothing runs; the model never sees it again."""
    return conversation_json(await services.conversations.delete_item(conversation_id, owner, item_id_of(item_id)))
