"""An answer that goes on after an earlier life: the server gets a request for the rest, readers count the whole.

Prompt and limit of the rest add up to what they were. A server counts a prompt's tokens as it counts drawn ones for a
repetition penalty, so the likeliest tokens go on as before, with one reservation: its numbers depend a little on how
many tokens it computes at once, and it computes what there is of the answer as a prompt. Where two tokens were almost
as likely, the other one may come.
"""

from __future__ import annotations

from dataclasses import replace
from enum import StrEnum

from quern.engine.base import EngineEvent, Finished, GenerateRequest
from quern.errors import InvalidRequest


class Restarts(StrEnum):
    """What of a request a server can begin at its beginning only, so that an answer can't go on."""

    GRAMMAR = "has to keep to a grammar (a JSON schema, a grammar, or a call that is demanded)"
    SEED = "is drawn with a seed"
    PENALTIES = "is drawn under a presence or frequency penalty, which counts the tokens of an answer"


def refusal(restarts: Restarts, engine: str) -> InvalidRequest:
    """That an answer can't go on, as a sentence with what can be done."""
    what = {
        Restarts.GRAMMAR: "can only begin one at its beginning",
        Restarts.SEED: "can only begin a seed's draws at their beginning",
        Restarts.PENALTIES: "can only count from the beginning",
    }[restarts]
    return InvalidRequest(
        f"This answer {restarts.value}, and the engine {engine} {what}, so the answer can't go on where it stopped. "
        f"Ask for a new answer, or serve the model with the engine cpu (engine.name), which can go on with every "
        f"answer."
    )


def rest_of(request: GenerateRequest) -> GenerateRequest:
    """What is left of a request, as one that begins after what was generated before."""
    left = request.sampling.max_tokens - len(request.generated)
    return replace(request, prompt=request.known, generated=(), sampling=replace(request.sampling, max_tokens=left))


def of_whole(event: EngineEvent, request: GenerateRequest) -> EngineEvent:
    """An event of the rest, as one of the whole answer."""
    if not isinstance(event, Finished):
        return event
    prompt_tokens = len(request.prompt)
    usage = replace(
        event.usage,
        prompt_tokens=prompt_tokens,
        cached_tokens=min(event.usage.cached_tokens, prompt_tokens),
        completion_tokens=len(request.generated) + event.usage.completion_tokens,
    )
    return replace(event, usage=usage)
