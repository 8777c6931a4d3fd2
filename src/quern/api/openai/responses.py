"""`/v1/responses`: answers that can be fetched, followed, continued, cancelled and deleted."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query, Request, Response
from fastapi.responses import JSONResponse

from quern.api.openai.items import (
    PageCursor,
    PageLimit,
    PageOrder,
    item_list,
    page_in_order,
    public_response_id,
    turn_id_of,
)
from quern.api.openai.response_events import ResponseEvents, whole_response
from quern.api.openai.response_includes import included
from quern.api.openai.response_object import ResponseHead, compacted_json, listed_json
from quern.api.openai.response_output import Event
from quern.api.openai.response_request import CompactRequest, InputTokensRequest, ResponseRequest
from quern.api.openai.response_tools import read_tool_use
from quern.api.shared.headers import CallerDep, Owner, no_conversation_header
from quern.api.shared.openapi import EVENTS
from quern.api.shared.request_body import JsonRoute
from quern.api.shared.request_turns import name_ignored, wait_until_ended
from quern.api.shared.services import ServicesDep
from quern.api.shared.sse import EventStreamResponse, StreamEncoder, frame
from quern.errors import InvalidRequest, ResponseNotFound, TurnNotCompleted
from quern.events import TurnEnded, TurnEvent
from quern.records import unknown_cursor
from quern.turns.event_log import TurnLog
from quern.turns.turn import Turn
from quern.types import Message, Role, TurnState

router = APIRouter(route_class=JsonRoute, prefix="/v1/responses", tags=["openai"])

NOT_KEPT = (
    "Only responses that were created with background=true keep their events; this one has ended, and its answer is "
    "there without stream=true."
)


@router.post("", response_model=None, responses=EVENTS, dependencies=[Depends(no_conversation_header)])
async def create_response(
    request: Request, body: ResponseRequest, services: ServicesDep, caller: CallerDep
) -> Response:
    """An answer to a text or items, whole, streamed or in the background; continues a response or a conversation."""
    model = await services.models.named(body.model)
    settings = body.settings(services.generation)
    referenced = await services.responses.referenced(body.references(), caller.owner)
    turn = await services.turns.start(body.turn(caller, services.generation, referenced, settings))
    name_ignored(request, [turn])
    background = body.background is True
    head = ResponseHead(
        turn.id, turn.created_at, model.name, turn.conversation_id, body.previous_turn(), background, settings
    )
    if body.stream:
        return _stream(head, turn.log, [turn])
    if background:
        return JSONResponse(whole_response(head, ()))
    try:
        await wait_until_ended([turn], request)
    except TurnNotCompleted as error:
        if error.state is not TurnState.CANCELLED:
            raise _with_id(error, head) from error
    return JSONResponse(await _so_far(head, turn.log))


@router.get("")
async def list_responses(
    services: ServicesDep, owner: Owner, limit: PageLimit = 20, order: PageOrder = "desc", after: PageCursor = None
) -> dict[str, Any]:
    """Your stored responses, those of conversations too, the newest first unless `order=asc`: what each one is, without
    its text.
    """
    try:
        cursor = turn_id_of(after) if after is not None else None
        page = await services.responses.page(owner, limit=limit, after=cursor, newest_first=order == "desc")
    except (ResponseNotFound, InvalidRequest):  # whose sentences have another id, or are about one response
        raise unknown_cursor("response", after or "") from None
    data = [listed_json(record) for record in page.items]
    return {
        "object": "list",
        "data": data,
        "first_id": data[0]["id"] if data else None,
        "last_id": data[-1]["id"] if data else None,
        "has_more": page.has_more,
    }


@router.post("/input_tokens")
async def count_input_tokens(body: InputTokensRequest, services: ServicesDep, caller: CallerDep) -> dict[str, Any]:
    """How many tokens the prompt of a response would have, with all that it continues."""
    await services.models.named(body.model)
    referenced = await services.responses.referenced(body.references(), caller.owner)
    count = await services.turns.count_prompt(body.turn(caller, referenced))
    return {"object": "response.input_tokens", "input_tokens": count}


@router.post("/compact")
async def compact(request: Request, body: CompactRequest, services: ServicesDep, caller: CallerDep) -> dict[str, Any]:
    """What was said, made short by the model: its summary as an item that stands for all but what the user said."""
    await services.models.named(body.model)
    referenced = await services.responses.referenced(body.references(), caller.owner)
    items = body.said(referenced)
    asked = body.turn(caller, services.generation, items)
    before = await services.responses.history(asked.previous_id, caller.owner)
    turn = await services.turns.start(asked)
    (end,) = await wait_until_ended([turn], request)
    users = [item for item in (*before, *items) if isinstance(item, Message) and item.role is Role.USER]
    return compacted_json(turn, end, users)


@router.get("/{response_id}", response_model=None, responses=EVENTS, dependencies=[Depends(included)])
async def get_response(
    response_id: str,
    services: ServicesDep,
    owner: Owner,
    stream: bool = False,
    starting_after: Annotated[int | None, Query(ge=0, description="Number of the last event seen.")] = None,
) -> Response:
    """A response as it is now; with `stream=true` its events, from the first one or after the last one seen."""
    found = await services.responses.open(turn_id_of(response_id), owner, read_tool_use)
    head = ResponseHead.of(found.record)
    if not stream:
        if starting_after is not None:
            raise InvalidRequest("starting_after is for streams. Send stream=true with it.", field="starting_after")
        return JSONResponse(await _so_far(head, found.log))
    if found.turn is None and not head.background:
        raise InvalidRequest(NOT_KEPT, field="stream")
    return _stream(head, found.log, [found.turn] if found.turn else [], starting_after)


@router.delete("/{response_id}")
async def delete_response(response_id: str, services: ServicesDep, owner: Owner) -> dict[str, Any]:
    """Delete a response, cancelling it first where it runs. What was said in a conversation stays there."""
    await services.responses.delete(turn_id_of(response_id), owner)
    return {"id": response_id, "object": "response", "deleted": True}


@router.post("/{response_id}/cancel")
async def cancel_response(response_id: str, services: ServicesDep, owner: Owner) -> dict[str, Any]:
    """End a response that runs, in the background or not; one that has ended stays as it is."""
    turn_id = turn_id_of(response_id)
    await services.responses.cancel(turn_id, owner)
    found = await services.responses.open(turn_id, owner, read_tool_use)
    return await _so_far(ResponseHead.of(found.record), found.log)


@router.get("/{response_id}/input_items", dependencies=[Depends(included)])
async def list_input_items(
    response_id: str,
    services: ServicesDep,
    owner: Owner,
    limit: PageLimit = 20,
    order: PageOrder = "desc",
    after: PageCursor = None,
) -> dict[str, Any]:
    """What was said to the model in this response, without what it continues."""
    items = await services.responses.input_items(turn_id_of(response_id), owner)
    return item_list(page_in_order(items, limit=limit, after=after, newest_first=order == "desc"))


async def _so_far(head: ResponseHead, log: TurnLog) -> dict[str, Any]:
    return await asyncio.to_thread(whole_response, head, list(log.events))


def _with_id(error: TurnNotCompleted, head: ResponseHead) -> TurnNotCompleted:
    if not head.settings["store"]:
        return error
    path = f"/v1/responses/{public_response_id(head.turn_id)}"
    return TurnNotCompleted(error.state, f"{error} What there is of the answer is kept: GET {path}.")


def _stream(head: ResponseHead, log: TurnLog, turns: Sequence[Turn], after: int | None = None) -> EventStreamResponse:
    return EventStreamResponse(ResponseEncoder(head, -1 if after is None else after), [log], turns)


class ResponseEncoder(StreamEncoder):
    """A turn as a stream of a response's events after number `last_seen`, the last one in any case.

    A server that died may have lost events that a reader had seen. The last event tells that reader too how it ended.
    """

    def __init__(self, head: ResponseHead, last_seen: int) -> None:
        self._events = ResponseEvents(head)
        self._last_seen = last_seen

    def begin(self) -> bytes:
        """The first events."""
        return self._unseen(self._events.begin())

    def encode(self, index: int, event: TurnEvent) -> bytes:  # noqa: ARG002 (there is one turn)
        """The response's events that an event of the turn adds."""
        events = self._events.take(event)
        if isinstance(event, TurnEnded):
            return self._unseen(events[:-1]) + _frame(events[-1])
        return self._unseen(events)

    def keep_alive(self) -> bytes:
        """An event that adds nothing."""
        return _frame(self._events.keep_alive())

    def _unseen(self, events: Iterable[Event]) -> bytes:
        return b"".join([_frame(event) for event in events if event["sequence_number"] > self._last_seen])


def _frame(event: Event) -> bytes:
    return frame(event, event["type"])
