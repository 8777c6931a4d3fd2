"""`POST /v1/chat/completions`."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse

from quern.api.choices import start_choices
from quern.api.deps import Calling, ConversationHeader, Wired
from quern.api.errors import CLIENT_CLOSED_REQUEST, INTERNAL, openai_error
from quern.api.merging import merged
from quern.api.openai.chat_answer import ChoiceChunks, whole_choice
from quern.api.openai.chat_request import ChatCompletionRequest
from quern.api.openai.usage import completion_usage
from quern.api.sse import DONE, EventStreamResponse, frame
from quern.api.whole import wait_until_ended
from quern.turns.events import TurnEnded
from quern.turns.turn import Turn
from quern.types import TurnState

router = APIRouter(prefix="/v1/chat", tags=["openai"])


@router.post("/completions", response_model=None)
async def create_chat_completion(
    request: Request, body: ChatCompletionRequest, wired: Wired, caller: Calling, conversation: ConversationHeader
) -> Response:
    """An answer to messages, whole or streamed. With the header `X-Quern-Conversation` they continue a conversation."""
    model = wired.check_model(body.model)
    turns = await start_choices(wired.turns, body.turn(caller, conversation, wired.generation), body.n or 1)
    heading = {"id": f"chatcmpl-{turns[0].id}", "created": int(time.time()), "model": model}
    if body.stream:
        usage = body.stream_options is not None and body.stream_options.include_usage
        return EventStreamResponse(_chunks(turns, heading, usage=usage), turns)
    ends = await wait_until_ended(turns, request)
    if ends is None:
        return Response(status_code=CLIENT_CLOSED_REQUEST)
    choices = [
        whole_choice(index, turn.log.snapshot(), end, told=body.logprobs is True)
        for index, (turn, end) in enumerate(zip(turns, ends, strict=True))
    ]
    usage = completion_usage(end.usage for end in ends)
    return JSONResponse({**heading, "object": "chat.completion", "choices": choices, "usage": usage})


async def _chunks(turns: Sequence[Turn], heading: dict[str, Any], *, usage: bool) -> AsyncGenerator[bytes]:
    shared = {**heading, "object": "chat.completion.chunk", **({"usage": None} if usage else {})}
    choices = [ChoiceChunks(index) for index in range(len(turns))]
    for choice in choices:
        yield frame({**shared, "choices": [choice.begin()]})
    ends: dict[int, TurnEnded] = {}
    async with aclosing(merged([turn.log for turn in turns])) as events:
        async for index, event in events:
            for chunk in choices[index].take(event):
                yield frame({**shared, "choices": [chunk]})
            if isinstance(event, TurnEnded):
                ends[index] = event
                if event.state is not TurnState.COMPLETED:
                    yield frame(openai_error(INTERNAL, event.error or event.state))
                    return
    if usage:
        counted = completion_usage(ends[index].usage for index in sorted(ends))
        yield frame({**shared, "choices": [], "usage": counted})
    yield DONE
