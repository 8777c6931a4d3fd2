"""`POST /v1/messages` and `POST /v1/messages/count_tokens`."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from functools import partial
from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse

from quern.api.anthropic.answer import PING, MessageEvents, message_heading, whole_message
from quern.api.anthropic.errors import ANTHROPIC_ERRORS
from quern.api.anthropic.request import CountTokensRequest, MessagesRequest
from quern.api.shared.headers import CallerDep, ConversationHeader
from quern.api.shared.request_body import JsonRoute
from quern.api.shared.request_turns import wait_until_ended
from quern.api.shared.services import ServicesDep
from quern.api.shared.sse import EventStreamResponse, frame
from quern.turns.events import TurnEnded
from quern.turns.turn import Turn
from quern.types import TurnState

router = APIRouter(route_class=JsonRoute, prefix="/v1/messages", tags=["anthropic"])


@router.post("", response_model=None)
async def create_message(
    request: Request, body: MessagesRequest, services: ServicesDep, caller: CallerDep, conversation: ConversationHeader
) -> Response:
    """An answer to messages, whole or streamed. With the header `X-Quern-Conversation` they continue a conversation."""
    model = services.model.check_name(body.model)
    turn = await services.turns.start(body.turn(caller, conversation, services.generation))
    heading = message_heading(turn.id, model)
    if body.stream:
        return EventStreamResponse(_frames(turn, heading), [turn], keep_alive=partial(_frame, PING))
    ends = await wait_until_ended([turn], request)
    events = [item.event for item in turn.log.snapshot()]
    return JSONResponse(whole_message(heading, events, ends[0], fitted=turn.fitted))


@router.post("/count_tokens")
async def count_tokens(body: CountTokensRequest, services: ServicesDep) -> dict[str, int]:
    """How many tokens the prompt of such a message has, exactly."""
    services.model.check_name(body.model)
    return {"input_tokens": await services.turns.count_tokens(body.chat_input())}


async def _frames(turn: Turn, heading: dict[str, Any]) -> AsyncGenerator[bytes]:
    message = MessageEvents(heading, len(turn.request.prompt), fitted=turn.fitted)
    async with aclosing(turn.log.read()) as batches:
        async for batch in batches:
            for item in batch:
                for data in message.take(item.event):
                    yield _frame(data)
                if isinstance(item.event, TurnEnded) and item.event.state is not TurnState.COMPLETED:
                    yield _frame(ANTHROPIC_ERRORS.stream_error(item.event.error or item.event.state))


def _frame(data: dict[str, Any]) -> bytes:
    return frame(data, data["type"])
