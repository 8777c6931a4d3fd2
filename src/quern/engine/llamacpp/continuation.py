"""An answer that goes on after an earlier life: llama-server gets a request for the rest, readers count the whole.

Prompt and limit of the rest add up to what they were, and so does the window of the penalties: llama-server counts a
prompt's tokens as it counts drawn ones. So the likeliest tokens go on as before, with one reservation: llama.cpp's
numbers depend a little on how many tokens it computes at once, and it computes what there is of the answer as a prompt.
Where two tokens were almost as likely, the other one may come.
"""

from __future__ import annotations

from dataclasses import replace

from quern.engine.base import EngineEvent, Finished, GenerateRequest
from quern.engine.llamacpp.request import resumable
from quern.errors import InvalidRequest

ANEW = "Ask for a new answer, or serve the model with the engine cpu (engine.name), which can go on with every answer."
GRAMMAR_BEGINS_ANEW = (
    "This answer has to keep to a grammar (a JSON schema, a grammar, or a call that is demanded), and the engine "
    f"llamacpp can only begin one at its beginning, so the answer can't go on where it stopped. {ANEW}"
)
SEED_BEGINS_ANEW = (
    "This answer is drawn with a seed, and the engine llamacpp can only begin a seed's draws at their beginning, so "
    f"the answer can't go on where it stopped. {ANEW}"
)


def require_continuable(request: GenerateRequest) -> None:
    """Raises InvalidRequest where the rest of an answer would not be what it had been."""
    if not resumable(request):
        raise InvalidRequest(SEED_BEGINS_ANEW if request.grammar is None else GRAMMAR_BEGINS_ANEW)


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
