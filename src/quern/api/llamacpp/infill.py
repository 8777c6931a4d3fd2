"""`POST /infill`: what stands between a prefix and a suffix, for an editor while somebody types."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass
from typing import Any

from fastapi import APIRouter, Depends, Request, Response
from fastapi.responses import JSONResponse

from quern.api.llamacpp.filling import Filling
from quern.api.llamacpp.infill_answer import final_answer, partial_answer, selected
from quern.api.llamacpp.infill_request import InfillRequest
from quern.api.shared.disconnects import ClientGone, unless_gone
from quern.api.shared.error_styles import OPENAI_ERRORS
from quern.api.shared.headers import CallerDep, no_conversation_header
from quern.api.shared.request_body import JsonRoute
from quern.api.shared.request_turns import wait_until_ended
from quern.api.shared.services import ServicesDep
from quern.api.shared.sse import EventStreamResponse, frame
from quern.turns.events import TurnEnded
from quern.turns.turn import Turn
from quern.types import TurnState

router = APIRouter(route_class=JsonRoute, tags=["llama.cpp"])


@router.post("/infill", response_model=None, dependencies=[Depends(no_conversation_header)])
async def infill(request: Request, body: InfillRequest, services: ServicesDep, caller: CallerDep) -> Response:
    """Fill the gap between `input_prefix` and `input_suffix`, whole or streamed. It goes before everybody's chats."""
    model = services.model.check_name(body.model)
    encoded = await asyncio.to_thread(body.encode, services.tokens)
    turn = await services.turns.start(body.turn(caller, encoded, services.generation))
    answer = _Answer(turn, body.filling(), body.response_fields, model, services.model.info.context_length)
    if body.stream:
        return EventStreamResponse(answer.frames(), [turn])
    with turn.reading():
        if not await unless_gone(request.receive, answer.read()):
            raise ClientGone
        ends = await wait_until_ended([turn], request)
    return JSONResponse(answer.final(answer.filling.text, ends[0]))


@dataclass(frozen=True, slots=True)
class _Answer:
    """A turn that fills a gap, and all that its answer is made of. `fields`: the members of it that are wanted."""

    turn: Turn
    filling: Filling
    fields: Sequence[str] | None
    model: str
    context_length: int

    async def pieces(self) -> AsyncGenerator[str]:
        """The filling as it comes. What is enough ends the turn."""
        async for batch in self.turn.log.read():
            for item in batch:
                piece = self.filling.take(item.event, time.monotonic())
                if self.filling.over:
                    self.turn.conclude()
                if piece:
                    yield piece

    async def read(self) -> None:
        """Wait until the filling is whole."""
        async for _ in self.pieces():
            pass

    async def frames(self) -> AsyncGenerator[bytes]:
        """The answer as a stream."""
        async for piece in self.pieces():
            yield frame(partial_answer(piece))
        end = await self.turn.log.ended()
        if end.state is TurnState.COMPLETED:
            yield frame(self.final("", end))
        else:
            yield frame(OPENAI_ERRORS.stream_error(end.error or end.state))

    def final(self, content: str, end: TurnEnded) -> dict[str, Any]:
        """The answer, or a stream's last event."""
        sampling = self.turn.request.sampling
        whole = final_answer(content, self.filling, end, sampling, model=self.model, context_length=self.context_length)
        return selected(whole, self.fields)
