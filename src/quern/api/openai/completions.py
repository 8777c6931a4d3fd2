"""`POST /v1/completions`: a text is continued, or a gap in it filled."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from functools import partial
from typing import Any

from fastapi import APIRouter, Depends, Request, Response
from fastapi.responses import JSONResponse

from quern.api.openai.chunk_stream import chunk_stream, usage_in_stream
from quern.api.openai.completions_answer import Heading, TextChunks, completions_usage, whole_choice
from quern.api.openai.completions_request import CompletionRequest
from quern.api.shared.headers import CallerDep, no_conversation_header
from quern.api.shared.openapi import EVENTS
from quern.api.shared.request_body import JsonRoute
from quern.api.shared.request_turns import choices_of, name_ignored, wait_until_ended
from quern.api.shared.services import ServicesDep
from quern.events import TurnEnded
from quern.turns.turn import Turn

router = APIRouter(route_class=JsonRoute, prefix="/v1", tags=["openai"])


@router.post("/completions", response_model=None, responses=EVENTS, dependencies=[Depends(no_conversation_header)])
async def create_completion(
    request: Request, body: CompletionRequest, services: ServicesDep, caller: CallerDep
) -> Response:
    """What comes after each prompt, whole or streamed; with `suffix` what stands between the two. Nothing is
    remembered.
    """
    model = await services.models.named(body.model)
    body.check()
    prompts = await services.bodies.encoded(request, lambda: body.encode(model.tokens))
    requests = [body.turn(caller, prompt, services.generation) for prompt in prompts]
    turns = await services.turns.start_all([choice for one in requests for choice in choices_of(one, body.choices)])
    name_ignored(request, turns)
    texts = [prompt.text for prompt in prompts for _ in range(body.choices)]
    headings = [Heading(index, text, body.echo is True, body.logprobs) for index, text in enumerate(texts)]
    created = int(turns[0].created_at.timestamp())
    shared = {"id": f"cmpl-{turns[0].id}", "object": "text_completion", "created": created, "model": model.name}
    count = partial(completions_usage, choices=body.choices)
    if body.stream:
        chunks = [TextChunks(heading) for heading in headings]
        return chunk_stream(turns, chunks, shared, usage_in_stream(body.stream_options, count))
    ends = await wait_until_ended(turns, request)
    usage = count([end.usage for end in ends])
    return await asyncio.to_thread(_whole, headings, turns, ends, {**shared, "usage": usage})


@router.post(
    "/engines/{engine}/completions",
    response_model=None,
    responses=EVENTS,
    dependencies=[Depends(no_conversation_header)],
)
async def create_engine_completion(
    engine: str,  # noqa: ARG001 (its clients, Copilot's among them, can't choose it)
    request: Request,
    body: CompletionRequest,
    services: ServicesDep,
    caller: CallerDep,
) -> Response:
    """The same under its first name. The engine's name is not looked at; the answer tells the model that wrote it."""
    return await create_completion(request, body, services, caller)


def _whole(
    headings: Sequence[Heading], turns: Sequence[Turn], ends: Sequence[TurnEnded], shared: dict[str, Any]
) -> Response:
    choices = [
        whole_choice(heading, turn.log.events, end) for heading, turn, end in zip(headings, turns, ends, strict=True)
    ]
    return JSONResponse({**shared, "choices": choices})
