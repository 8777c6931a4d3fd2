"""`POST /v1/messages` and `POST /v1/messages/count_tokens`."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from functools import partial
from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse

from quern.api.anthropic.answer import PING, MessageEvents, message_heading, whole_message
from quern.api.anthropic.request import CountTokensRequest, MessagesRequest
from quern.api.shared.deps import Calling, ConversationHeader, Wired
from quern.api.shared.errors import CLIENT_CLOSED_REQUEST, INTERNAL, anthropic_error
from quern.api.shared.json_body import JsonRoute
from quern.api.shared.sse import EventStreamResponse, frame
from quern.api.shared.whole import wait_until_ended
from quern.turns.events import TurnEnded
from quern.turns.turn import Turn
from quern.types import TurnState

router = APIRouter(route_class=JsonRoute, prefix="/v1/messages", tags=["anthropic"])


@router.post("", response_model=None)
async def create_message(
    request: Request, body: MessagesRequest, wired: Wired, caller: Calling, conversation: ConversationHeader
) -> Response:
    """An answer to messages, whole or streamed. With the header `X-Quern-Conversation` they continue a conversation."""
    model = wired.check_model(body.model)
    turn = await wired.turns.start(body.turn(caller, conversation, wired.generation))
    heading = message_heading(turn.id, model)
    if body.stream:
        return EventStreamResponse(_frames(turn, heading), [turn], keep_alive=partial(_frame, PING))
    ends = await wait_until_ended([turn], request)
    if ends is None:
        return Response(status_code=CLIENT_CLOSED_REQUEST)
    events = [item.event for item in turn.log.snapshot()]
    return JSONResponse(whole_message(heading, events, ends[0], fitted=turn.fitted))


@router.post("/count_tokens")
async def count_tokens(body: CountTokensRequest, wired: Wired) -> dict[str, int]:
    """How many tokens the prompt of such a message has, exactly."""
    wired.check_model(body.model)
    return {"input_tokens": await wired.turns.count_tokens(body.chat_input())}


async def _frames(turn: Turn, heading: dict[str, Any]) -> AsyncGenerator[bytes]:
    message = MessageEvents(heading, len(turn.request.prompt), fitted=turn.fitted)
    async with aclosing(turn.log.read()) as batches:
        async for batch in batches:
            for item in batch:
                for data in message.take(item.event):
                    yield _frame(data)
                if isinstance(item.event, TurnEnded) and item.event.state is not TurnState.COMPLETED:
                    yield _frame(anthropic_error(INTERNAL, item.event.error or item.event.state))


def _frame(data: dict[str, Any]) -> bytes:
    return frame(data, data["type"])
