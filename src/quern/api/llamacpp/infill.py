"""`POST /infill`: what stands between a prefix and a suffix, for an editor while somebody types."""

from __future__ import annotations

from fastapi import APIRouter, Depends, Request, Response

from quern.api.llamacpp.answers import TurnAnswer, respond
from quern.api.llamacpp.infill_request import InfillRequest
from quern.api.shared.headers import CallerDep, no_conversation_header
from quern.api.shared.openapi import EVENTS
from quern.api.shared.request_body import JsonRoute
from quern.api.shared.request_turns import name_ignored
from quern.api.shared.services import ServicesDep

router = APIRouter(route_class=JsonRoute, tags=["llama.cpp"])


@router.post("/infill", response_model=None, responses=EVENTS, dependencies=[Depends(no_conversation_header)])
async def infill(request: Request, body: InfillRequest, services: ServicesDep, caller: CallerDep) -> Response:
    """Fill the gap between `input_prefix` and `input_suffix`, whole or streamed. It goes before everybody's chats."""
    model = await services.models.named(body.model)
    encoded = await services.bodies.encoded(request, lambda: body.encode(model.tokens))
    turn = await services.turns.start(body.turn(caller, encoded, services.generation))
    name_ignored(request, [turn])
    context_length = model.info.context_length
    answer = TurnAnswer(turn, body.filling(), body.response_fields, model.name, context_length)
    return await respond(request, [answer], stream=body.stream)
