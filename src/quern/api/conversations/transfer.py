"""Conversations taken elsewhere, and brought from elsewhere."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from datetime import UTC, datetime
from functools import partial
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import StreamingResponse

from quern.api.conversations.jsonl import encoded, first_line, last_line
from quern.api.conversations.jsonl_reader import decoded
from quern.api.conversations.markdown import markdown
from quern.api.shared.conversation_json import conversation_json
from quern.api.shared.headers import Owner
from quern.api.shared.openapi import also
from quern.api.shared.services import Services, ServicesDep

router = APIRouter(prefix="/v1/conversations", tags=["conversations"])

JSONL, MARKDOWN = "application/jsonl", "text/markdown"
FILES: dict[int | str, dict[str, Any]] = {
    200: {"content": {media_type: {"schema": {"type": "string"}} for media_type in (JSONL, MARKDOWN)}}
}
BODY: dict[str, Any] = {"requestBody": {"required": True, "content": {JSONL: {"schema": {"type": "string"}}}}}


@router.get("/export", response_model=None, responses=also(JSONL))
async def export_all(services: ServicesDep, owner: Owner) -> Response:
    """All of your conversations as JSON Lines, the oldest first."""
    return StreamingResponse(_all_lines(services, owner), media_type=JSONL, headers=_file("quern-conversations.jsonl"))


@router.post("/import", openapi_extra=BODY)
async def import_conversations(request: Request, services: ServicesDep, owner: Owner) -> dict[str, Any]:
    """Bring the conversations of an export, all or none. They get ids of their own, so nothing is replaced."""
    announced = request.headers.get("content-length", "")
    if announced.isdecimal():
        services.transfer.check_size(int(announced))
    read = partial(decoded, longest_line=services.max_request_bytes)
    brought = await services.transfer.bring(request.stream(), read, owner)
    data = [{**conversation_json(new), "imported_from": old} for old, new in brought]
    return {"object": "list", "data": data, "has_more": False, "last_id": data[-1]["id"] if data else None}


@router.get("/{conversation_id}/export", response_model=None, responses=FILES)
async def export(
    conversation_id: str,
    services: ServicesDep,
    owner: Owner,
    format_: Annotated[
        Literal["jsonl", "markdown"],
        Query(alias="format", description="`jsonl` has everything, `markdown` what is shown."),
    ] = "jsonl",
) -> Response:
    """One conversation: with all of its branches as JSON Lines, or the path that is shown as Markdown."""
    if format_ == "markdown":
        conversation = await services.conversations.get(conversation_id, owner)
        path = await services.branches.shown(conversation_id, owner)
        text = await asyncio.to_thread(markdown, conversation, [stored.item for stored in path])
        return Response(text, media_type=MARKDOWN, headers=_file(f"{conversation.id}.md"))
    copy = await services.transfer.export(conversation_id, owner)
    lines = await asyncio.to_thread(encoded, copy)
    body = first_line(datetime.now(UTC)) + lines + last_line(1)
    return Response(body, media_type=JSONL, headers=_file(f"{copy.conversation.id}.jsonl"))


async def _all_lines(services: Services, owner: str) -> AsyncGenerator[bytes]:
    count = 0
    yield first_line(datetime.now(UTC))
    async with aclosing(services.transfer.export_all(owner)) as copies:
        async for copy in copies:
            count += 1
            yield await asyncio.to_thread(encoded, copy)
    yield last_line(count)


def _file(name: str) -> dict[str, str]:
    return {"content-disposition": f'attachment; filename="{name}"', "cache-control": "no-store"}
