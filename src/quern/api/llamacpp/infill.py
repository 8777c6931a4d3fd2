"""`POST /infill`: what stands between a prefix and a suffix, for an editor while somebody types."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

from fastapi import APIRouter, Depends, Request, Response
from fastapi.responses import JSONResponse

from quern.api.llamacpp.filling import Filling
from quern.api.llamacpp.infill_answer import final_answer, partial_answer, selected
from quern.api.llamacpp.infill_request import InfillRequest
from quern.api.shared.body_budget import release_body
from quern.api.shared.disconnects import ClientDisconnected, unless_disconnected
from quern.api.shared.error_styles import OPENAI_ERRORS
from quern.api.shared.headers import CallerDep, no_conversation_header
from quern.api.shared.request_body import JsonRoute
from quern.api.shared.request_turns import wait_until_ended
from quern.api.shared.services import ServicesDep
from quern.api.shared.sse import EventStreamResponse, StreamEncoder, frame
from quern.events import TurnEnded, TurnEvent
from quern.turns.turn import Turn
from quern.types import TurnState

router = APIRouter(route_class=JsonRoute, tags=["llama.cpp"])


@router.post("/infill", response_model=None, dependencies=[Depends(no_conversation_header)])
async def infill(request: Request, body: InfillRequest, services: ServicesDep, caller: CallerDep) -> Response:
    """Fill the gap between `input_prefix` and `input_suffix`, whole or streamed. It goes before everybody's chats."""
    model = services.model.check_name(body.model)
    encoded = await services.bodies.encoded(request, lambda: body.encode(services.tokens))
    turn = await services.turns.start(body.turn(caller, encoded, services.generation))
    answer = _Answer(turn, body.filling(), body.response_fields, model, services.model.info.context_length)
    if body.stream:
        return EventStreamResponse(answer, [turn.log], [turn])
    release_body(request)
    with turn.attach():
        if not await unless_disconnected(request.receive, answer.read()):
            raise ClientDisconnected
        ends = await wait_until_ended([turn], request)
    return JSONResponse(answer.final(answer.filling.text, ends[0]))


@dataclass(frozen=True)
class _Answer(StreamEncoder):
    """A turn that fills a gap, and all that its answer is made of. `fields`: the members of it that are wanted."""

    turn: Turn
    filling: Filling
    fields: Sequence[str] | None
    model: str
    context_length: int

    async def read(self) -> None:
        """Wait until the filling is whole."""
        async with aclosing(self.turn.log.read()) as batches:
            async for batch in batches:
                for event in batch:
                    self._take(event)

    def encode(self, index: int, event: TurnEvent) -> bytes:  # noqa: ARG002 (there is one turn)
        """A piece of the filling, or the last frame."""
        piece = self._take(event)
        frames = [frame(partial_answer(piece))] if piece else []
        if isinstance(event, TurnEnded):
            completed = event.state is TurnState.COMPLETED
            last = self.final("", event) if completed else OPENAI_ERRORS.stream_error(event.error or event.state)
            frames.append(frame(last))
        return b"".join(frames)

    def _take(self, event: TurnEvent) -> str:
        """What an event adds to the filling. What is enough ends the turn."""
        piece = self.filling.take(event, time.monotonic())
        if self.filling.over:
            self.turn.conclude()
        return piece

    def final(self, content: str, end: TurnEnded) -> dict[str, Any]:
        """The answer, or a stream's last event."""
        sampling = self.turn.request.sampling
        whole = final_answer(content, self.filling, end, sampling, model=self.model, context_length=self.context_length)
        return selected(whole, self.fields)
