"""Looking for what was said."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Query

from quern.api.conversations.branches import stored_id
from quern.api.shared.conversation_json import conversation_json, seconds
from quern.api.shared.headers import Owner
from quern.api.shared.request_body import JsonRoute
from quern.api.shared.services import ServicesDep
from quern.turns.search import LONGEST_QUERY, Hit

router = APIRouter(route_class=JsonRoute, prefix="/v1/conversations", tags=["conversations"])


@router.get("/search")
async def search(
    services: ServicesDep,
    owner: Owner,
    q: Annotated[str, Query(max_length=LONGEST_QUERY, description="Words, all of which a message has.")],
    limit: Annotated[int, Query(ge=1, le=100, description="Most messages of a page.")] = 20,
    after: Annotated[str | None, Query(description="The last id of the page before this one.")] = None,
) -> dict[str, Any]:
    """Your messages that have all of these words, in any order and case, each anywhere in it; the newest first."""
    cursor = stored_id(after) if after is not None else None
    page = await services.search.search(owner, q, limit=limit, after=cursor)
    data = [_hit_json(hit) for hit in page.items]
    return {
        "object": "list",
        "data": data,
        "has_more": page.has_more,
        "last_id": data[-1]["item_id"] if data else None,
    }


def _hit_json(hit: Hit) -> dict[str, Any]:
    item, snippet = hit.found.item, hit.snippet
    return {
        "object": "conversation.match",
        "conversation": conversation_json(hit.found.conversation),
        "item_id": item.id,
        "turn_id": item.turn_id,
        "role": getattr(item.item, "role", None),
        "created_at": seconds(item.created_at),
        "snippet": snippet.text,
        "offset": snippet.offset,
        "matches": [{"start": start, "length": length} for start, length in snippet.matches],
    }
