"""`POST /completion`: what comes after a prompt, as llama.cpp's own clients ask for it."""

from __future__ import annotations

from fastapi import APIRouter, Depends, Request, Response

from quern.api.llamacpp.answers import TurnAnswer, respond
from quern.api.llamacpp.completion_request import CompletionRequest
from quern.api.shared.headers import CallerDep, no_conversation_header
from quern.api.shared.openapi import EVENTS
from quern.api.shared.request_body import JsonRoute
from quern.api.shared.request_turns import name_ignored
from quern.api.shared.services import ServicesDep

router = APIRouter(route_class=JsonRoute, tags=["llama.cpp"], dependencies=[Depends(no_conversation_header)])


@router.post("/completion", response_model=None, responses=EVENTS)
async def complete(request: Request, body: CompletionRequest, services: ServicesDep, caller: CallerDep) -> Response:
    """What comes after each prompt, without a chat template, whole or streamed. Nothing is remembered."""
    model = await services.models.named(body.model)
    prompts = await services.bodies.encoded(request, lambda: body.encode(model.tokens))
    turns = await services.turns.start_all([body.turn(caller, prompt, services.generation) for prompt in prompts])
    name_ignored(request, turns)
    answers = [
        TurnAnswer(
            turn,
            body.filling(),
            body.response_fields,
            model.name,
            model.info.context_length,
            in_pieces={"index": index, "tokens": []},
            in_whole={"index": index, "tokens": [], "prompt": prompt.text},
        )
        for index, (turn, prompt) in enumerate(zip(turns, prompts, strict=True))
    ]
    return await respond(request, answers, stream=body.stream)


router.add_api_route(
    "/completions", complete, methods=["POST"], response_model=None, responses=EVENTS, summary="The same"
)
