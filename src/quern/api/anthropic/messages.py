"""`POST /v1/messages` and `POST /v1/messages/count_tokens`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse

from quern.api.anthropic.answer import MessageEvents, message_heading, unanswered, whole_message
from quern.api.anthropic.errors import ANTHROPIC_ERRORS
from quern.api.anthropic.request import CountTokensRequest, MessagesRequest
from quern.api.shared.headers import CallerDep, ConversationHeader
from quern.api.shared.openapi import EVENTS
from quern.api.shared.request_body import JsonRoute
from quern.api.shared.request_turns import name_ignored, wait_until_ended
from quern.api.shared.services import ServicesDep
from quern.api.shared.sse import EventStreamResponse, StreamEncoder, frame
from quern.events import TurnEnded, TurnEvent
from quern.turns.turn import Turn
from quern.types import TurnState

router = APIRouter(route_class=JsonRoute, prefix="/v1/messages", tags=["anthropic"])


@router.post("", response_model=None, responses=EVENTS)
async def create_message(
    request: Request, body: MessagesRequest, services: ServicesDep, caller: CallerDep, conversation: ConversationHeader
) -> Response:
    """An answer to messages, whole or streamed. With the header `X-Quern-Conversation` they continue a conversation."""
    model = await services.models.named(body.model)
    turn = await services.turns.start(body.turn(caller, conversation, services.generation))
    name_ignored(request, [turn])
    heading = message_heading(turn.id, model.name)
    told = unanswered if body.max_tokens == 0 else _all
    if body.stream:
        return EventStreamResponse(MessageEncoder(turn, heading, told), [turn.log], [turn])
    await wait_until_ended([turn], request)
    events = [it for event in turn.log.events if (it := told(event)) is not None]
    return JSONResponse(whole_message(heading, events, fitted=turn.plan.fitted))


@router.post("/count_tokens")
async def count_tokens(body: CountTokensRequest, services: ServicesDep) -> dict[str, int]:
    """How many tokens the prompt of such a message has, exactly."""
    model = await services.models.named(body.model)
    return {"input_tokens": await services.turns.count_tokens(model, body.chat_input())}


class MessageEncoder(StreamEncoder):
    """A turn as a stream of a message's events, and an error after a turn that did not complete. `told`: what is told
    of an event of the turn.
    """

    def __init__(self, turn: Turn, heading: dict[str, Any], told: Callable[[TurnEvent], TurnEvent | None]) -> None:
        self._told = told
        self._events = MessageEvents(heading, turn.prompt_tokens, fitted=turn.plan.fitted)

    def encode(self, index: int, event: TurnEvent) -> bytes:  # noqa: ARG002 (there is one turn)
        """The message's events that an event of the turn adds."""
        told = self._told(event)
        frames = [_frame(data) for data in self._events.take(told)] if told is not None else []
        if isinstance(event, TurnEnded) and event.state is not TurnState.COMPLETED:
            frames.append(_frame(ANTHROPIC_ERRORS.stream_error(event.error or event.state)))
        return b"".join(frames)

    def keep_alive(self) -> bytes:
        """Events that add nothing."""
        return b"".join(map(_frame, self._events.in_silence()))


def _all(event: TurnEvent) -> TurnEvent:
    return event


def _frame(data: dict[str, Any]) -> bytes:
    return frame(data, data["type"])
