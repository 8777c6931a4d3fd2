"""`POST /v1/fim/completions`: Mistral's request for what stands between a prompt and a suffix.

Source of names and shapes: "Fim Completion" in Mistral's API reference; docs/api.md has the table of every field. The
answer is a chat completion. In a stream every chunk has one choice, the last one with the usage: clients read
`choices[0].delta.content` of each.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from fastapi import APIRouter, Depends, Request, Response
from fastapi.responses import JSONResponse
from pydantic import Field

from quern.api.openai.chat_answer import completion_usage
from quern.api.shared.error_styles import OPENAI_ERRORS
from quern.api.shared.fields import NoOp
from quern.api.shared.headers import CallerDep, no_conversation_header
from quern.api.shared.openapi import EVENTS
from quern.api.shared.request_body import JsonRoute
from quern.api.shared.request_turns import wait_until_ended
from quern.api.shared.sampling_fields import SamplingFields
from quern.api.shared.services import ServicesDep
from quern.api.shared.sse import DONE, EventStreamResponse, StreamEncoder, frame
from quern.config import GenerationSettings
from quern.events import TextDelta, TurnEnded, TurnEvent
from quern.sampling import PARAMETERS
from quern.turns.request import Caller, TurnRequest
from quern.turns.tokens import EncodedPrompt, TokenService
from quern.types import TurnState

router = APIRouter(route_class=JsonRoute, prefix="/v1", tags=["mistral"])


class FimRequest(SamplingFields):
    """`POST /v1/fim/completions`."""

    prompt: str
    suffix: str | None = Field(default=None, description="What comes after the gap; without it the prompt goes on.")
    model: str | None = None
    max_tokens: int | None = PARAMETERS["max_tokens"].field(default=None)
    stream: bool | None = None
    random_seed: int | None = PARAMETERS["seed"].field(description="Mistral's name of seed.")
    metadata: NoOp = None

    def encode(self, tokens: TokenService) -> EncodedPrompt:
        """The prompt's ids; call it in a thread. Raises InvalidRequest where the model can't fill gaps."""
        if self.suffix is None:
            return tokens.encode_prompt(self.prompt)
        return tokens.encode_gap(self.prompt, self.suffix)

    def turn(self, caller: Caller, encoded: EncodedPrompt, defaults: GenerationSettings) -> TurnRequest:
        """The turn that fills the gap."""
        sampling = self.sampling(defaults, max_tokens=self.max_tokens, logprobs=None)
        if sampling.seed is None:
            sampling = replace(sampling, seed=self.random_seed)
        return TurnRequest(
            caller,
            input=encoded.input,
            sampling=sampling,
            stops=self.stops(),
            priority=encoded.priority,
            fit_answer=True,
            model=self.model,
        )


@router.post("/fim/completions", response_model=None, responses=EVENTS, dependencies=[Depends(no_conversation_header)])
async def fill(request: Request, body: FimRequest, services: ServicesDep, caller: CallerDep) -> Response:
    """Fill the gap between `prompt` and `suffix`, whole or streamed. It goes before everybody's chats."""
    model = await services.models.named(body.model)
    encoded = await services.bodies.encoded(request, lambda: body.encode(model.tokens))
    turn = await services.turns.start(body.turn(caller, encoded, services.generation))
    heading = {"id": f"chatcmpl-{turn.id}", "created": int(turn.created_at.timestamp()), "model": model.name}
    if body.stream:
        encoder = FimChunks({**heading, "object": "chat.completion.chunk"})
        return EventStreamResponse(encoder, [turn.log], [turn])
    (end,) = await wait_until_ended([turn], request)
    message = {"role": "assistant", "content": turn.answer().text, "tool_calls": None, "prefix": False}
    choice = {"index": 0, "message": message, "finish_reason": end.finish_reason}
    usage = completion_usage([end.usage])
    return JSONResponse({**heading, "object": "chat.completion", "choices": [choice], "usage": usage})


class FimChunks(StreamEncoder):
    """A filling in chunks. An error is the last frame, without the end."""

    def __init__(self, heading: Mapping[str, Any]) -> None:
        self._heading = heading

    def begin(self) -> bytes:
        """The first chunk."""
        return self._chunk({"role": "assistant", "content": ""})

    def encode(self, index: int, event: TurnEvent) -> bytes:  # noqa: ARG002 (there is one turn)
        """A piece of the text, or the last chunk."""
        match event:
            case TextDelta(text):
                return self._chunk({"content": text})
            case TurnEnded(state=TurnState.COMPLETED):
                usage = completion_usage([event.usage])
                return self._chunk({"content": ""}, finish_reason=event.finish_reason, usage=usage)
            case TurnEnded():
                self.broken_off = True
                return frame(OPENAI_ERRORS.stream_error(event.error or event.state))
            case _:
                return b""

    def keep_alive(self) -> bytes:
        """A chunk that adds nothing."""
        return self._chunk({"content": ""})

    def end(self) -> bytes:
        """The end."""
        return DONE

    def _chunk(self, delta: dict[str, Any], *, finish_reason: str | None = None, **members: Any) -> bytes:
        choice = {"index": 0, "delta": delta, "finish_reason": finish_reason}
        return frame({**self._heading, "choices": [choice], **members})
