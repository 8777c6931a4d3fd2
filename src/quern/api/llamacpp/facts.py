"""`GET /props` and `GET /slots`: what the server is and what it does, as llama.cpp's clients look for it.

Source of the shapes: llama.cpp's tools/server/README.md. Prompts and answers are in neither, nor paths of the machine.
"""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Query, Response
from fastapi.responses import JSONResponse

from quern import __version__
from quern.api.llamacpp.infill_answer import settings_json
from quern.api.shared.headers import Owner
from quern.api.shared.services import Services, ServicesDep
from quern.errors import QueueFull
from quern.sampling import SamplingParams
from quern.turns.models import ServedModel
from quern.turns.turn import Turn

router = APIRouter(tags=["llama.cpp"])
ModelName = Annotated[str | None, Query(alias="model", description="Which model, where several are served.")]
NO_TASK = -1
WAIT_SECONDS = 1


@router.get("/props")
async def props(services: ServicesDep, name: ModelName = None) -> dict[str, Any]:
    """What is served: the defaults of a request, the context, the chat template."""
    model = await services.models.named(name)
    return {
        "default_generation_settings": _slot(services, model, 0, None),
        "total_slots": model.info.parallel,
        "model_alias": model.name,
        "model_path": model.name,
        "chat_template": model.chat_template,
        "chat_template_caps": {"supports_tools": model.calls_tools},
        "modalities": {"vision": False, "audio": False},
        "build_info": f"quern-{__version__}",
        "is_sleeping": False,
    }


@router.get("/slots", response_model=None)
async def slots(
    services: ServicesDep,
    owner: Owner,
    name: ModelName = None,
    fail_on_no_slot: Annotated[
        str | None, Query(description="If sent, the answer is a 503 where every slot is taken.")
    ] = None,
) -> Response:
    """A slot for each sequence at once. Those with the caller's own turns tell what these do, the others nothing."""
    model = await services.models.named(name)
    readiness, parallel = services.models.readiness(model), model.info.parallel
    if fail_on_no_slot is not None and readiness.running >= parallel:
        raise QueueFull(f"All {parallel} slots are taken. A request would wait.", WAIT_SECONDS)
    own = [turn for turn in services.turns.turns_of(owner) if turn.model is model]
    running = [turn for turn in own if turn.started_at is not None][:parallel]
    taken: list[Turn | None] = [*running, *[None] * (parallel - len(running))]
    return JSONResponse([_slot(services, model, index, turn) for index, turn in enumerate(taken)])


def _slot(services: Services, model: ServedModel, index: int, turn: Turn | None) -> dict[str, Any]:
    sampling = turn.request.sampling if turn is not None else services.generation.sampling()
    return {
        "id": index,
        "id_task": NO_TASK if turn is None else index,
        "n_ctx": model.info.context_length,
        "speculative": False,
        "is_processing": turn is not None,
        "params": _parameters(sampling),
        "next_token": {
            "has_next_token": turn is not None,
            "has_new_line": turn is not None and any("\n" in piece for piece in turn.pieces),
            "n_remain": NO_TASK if turn is None else sampling.max_tokens - turn.generated_tokens,
            "n_decoded": 0 if turn is None else turn.generated_tokens,
        },
    }


def _parameters(sampling: SamplingParams) -> dict[str, Any]:
    return {**settings_json(sampling), "max_tokens": sampling.max_tokens, "stream": True, "n_probs": 0, "grammar": ""}
