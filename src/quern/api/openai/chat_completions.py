"""`POST /v1/chat/completions`."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse

from quern.api.openai.chat_answer import ChoiceChunks, completion_usage, whole_choice
from quern.api.openai.chat_request import ChatCompletionRequest
from quern.api.openai.chunk_stream import chunk_stream, usage_in_stream
from quern.api.shared.headers import CallerDep, ConversationHeader
from quern.api.shared.openapi import EVENTS
from quern.api.shared.request_body import JsonRoute
from quern.api.shared.request_turns import name_ignored, start_choices, wait_until_ended
from quern.api.shared.services import ServicesDep
from quern.events import TurnEnded
from quern.turns.turn import Turn

router = APIRouter(route_class=JsonRoute, prefix="/v1/chat", tags=["openai"])


@router.post("/completions", response_model=None, responses=EVENTS)
async def create_chat_completion(
    request: Request,
    body: ChatCompletionRequest,
    services: ServicesDep,
    caller: CallerDep,
    conversation: ConversationHeader,
) -> Response:
    """An answer to messages, whole or streamed. With the header `X-Quern-Conversation` they continue a conversation."""
    model = await services.models.named(body.model)
    turns = await start_choices(services.turns, body.turn(caller, conversation, services.generation), body.n or 1)
    name_ignored(request, turns)
    heading = {"id": f"chatcmpl-{turns[0].id}", "created": int(turns[0].created_at.timestamp()), "model": model.name}
    if body.stream:
        chunks = [ChoiceChunks(index, legacy=body.legacy) for index in range(len(turns))]
        shared = {**heading, "object": "chat.completion.chunk"}
        return chunk_stream(turns, chunks, shared, usage_in_stream(body.stream_options, completion_usage))
    ends = await wait_until_ended(turns, request)
    return await asyncio.to_thread(_whole, turns, ends, heading, body)


def _whole(
    turns: Sequence[Turn], ends: Sequence[TurnEnded], heading: dict[str, Any], body: ChatCompletionRequest
) -> Response:
    choices = [
        whole_choice(index, turn.log.events, end, with_logprobs=body.logprobs is True, legacy=body.legacy)
        for index, (turn, end) in enumerate(zip(turns, ends, strict=True))
    ]
    usage = completion_usage(end.usage for end in ends)
    return JSONResponse({**heading, "object": "chat.completion", "choices": choices, "usage": usage})
