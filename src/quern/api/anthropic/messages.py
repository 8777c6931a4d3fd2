"""`POST /v1/messages` and `POST /v1/messages/count_tokens`."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse

from quern.api.anthropic.answer import PING, MessageEvents, message_heading, whole_message
from quern.api.anthropic.request import CountTokensRequest, MessagesRequest
from quern.api.shared.deps import Calling, ConversationHeader, Wired
from quern.api.shared.errors import CLIENT_CLOSED_REQUEST, INTERNAL, anthropic_error
from quern.api.shared.json_body import JsonRoute
from quern.api.shared.sse import EventStreamResponse, StreamEncoder, frame
from quern.api.shared.whole import wait_until_ended
from quern.events import TurnEnded, TurnEvent
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
        return EventStreamResponse(MessageEncoder(turn, heading), [turn.log], [turn])
    ends = await wait_until_ended([turn], request)
    if ends is None:
        return Response(status_code=CLIENT_CLOSED_REQUEST)
    return JSONResponse(whole_message(heading, turn.log.events, ends[0], fitted=turn.fitted))


@router.post("/count_tokens")
async def count_tokens(body: CountTokensRequest, wired: Wired) -> dict[str, int]:
    """How many tokens the prompt of such a message has, exactly."""
    wired.check_model(body.model)
    return {"input_tokens": await wired.turns.count_tokens(body.chat_input())}


class MessageEncoder(StreamEncoder):
    """A turn as a stream of a message's events, and an error after a turn that did not complete."""

    def __init__(self, turn: Turn, heading: dict[str, Any]) -> None:
        self._events = MessageEvents(heading, len(turn.request.prompt), fitted=turn.fitted)

    def encode(self, index: int, event: TurnEvent) -> bytes:  # noqa: ARG002 (there is one turn)
        """The message's events that an event of the turn adds."""
        frames = [_frame(data) for data in self._events.take(event)]
        if isinstance(event, TurnEnded) and event.state is not TurnState.COMPLETED:
            frames.append(_frame(anthropic_error(INTERNAL, event.error or event.state)))
        return b"".join(frames)

    def keep_alive(self) -> bytes:
        """An event that adds nothing."""
        return _frame(PING)


def _frame(data: dict[str, Any]) -> bytes:
    return frame(data, data["type"])
