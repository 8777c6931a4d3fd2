"""The models that this server serves: one."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter

from quern.api.deps import Wired

router = APIRouter(prefix="/v1/models", tags=["models"])


@router.get("")
async def list_models(wired: Wired) -> dict[str, Any]:
    """The served model, with what a client needs to budget."""
    wired.turns.check_serving()
    info = wired.engine.info
    model = {
        "id": info.model_id,
        "object": "model",
        "created": 0,
        "owned_by": "quern",
        "context_length": info.context_length,
        "vocabulary_size": info.vocabulary_size,
        "quantisation": info.quantisation,
        "engine": info.engine,
        "device": info.device,
        "parallel": info.parallel,
        "max_tokens": wired.generation.max_tokens,
    }
    return {"object": "list", "data": [model]}
