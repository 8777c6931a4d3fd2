"""The models that this server serves, under their own names and their aliases.

Each entry has the members that clients of several servers read: OpenAI's and Anthropic's, `max_model_len` and `root` as
vLLM, `context_length` as OpenRouter, and `capabilities` as Mistral (booleans) and Anthropic (`supported`) tell them.
"""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter

from quern.api.shared.dialect import Dialect
from quern.api.shared.error_styles import OPENAI_ERRORS
from quern.api.shared.services import ServicesDep
from quern.turns.models import ServedModel

router = APIRouter(tags=["models"])

MODELS = Dialect((router,), errors=OPENAI_ERRORS, prefixes=("/v1/models", "/models"))

UNKNOWN_RELEASE = "1970-01-01T00:00:00Z"
ANTHROPIC_CAPABILITIES = (
    "batch",
    "citations",
    "code_execution",
    "context_management",
    "effort",
    "image_input",
    "pdf_input",
    "server_tools",
    "structured_outputs",
    "thinking",
)
SUPPORTED = frozenset({"structured_outputs"})


@router.get("/v1/models")
@router.get("/models", summary="The same, where llama.cpp's and LM Studio's clients look")
async def list_models(services: ServicesDep) -> dict[str, Any]:
    """The served models, with what a client needs to budget, and once more for each of their aliases."""
    listed = services.models.listed()
    return {
        "object": "list",
        "data": [_model(model, name) for name, model in listed],
        "has_more": False,
        "first_id": listed[0][0],
        "last_id": listed[-1][0],
    }


@router.get("/v1/models/{model:path}")
async def get_model(model: str, services: ServicesDep) -> dict[str, Any]:
    """A served model, by its name or an alias."""
    return _model(await services.models.named(model), model)


def _model(model: ServedModel, name: str) -> dict[str, Any]:
    info, stats = model.info_so_far, model.engine.stats()
    context_length = info.context_length if info is not None else None
    return {
        "id": name,
        "root": model.name,
        "object": "model",
        "type": "model",
        "created": 0,
        "created_at": UNKNOWN_RELEASE,
        "owned_by": "quern",
        "display_name": name,
        "lifecycle": "active",
        "state": stats.state.value,
        "load_progress": round(stats.load_progress, 3),
        "context_length": context_length,
        "max_model_len": context_length,
        "max_input_tokens": context_length,
        "max_tokens": context_length,
        "vocabulary_size": model.codec.vocabulary_size,
        "embedding_length": model.embedding_length,
        "quantisation": model.quantisation,
        "engine": info.engine if info is not None else None,
        "device": info.device if info is not None else None,
        "parallel": info.parallel if info is not None else None,
        "capabilities": _capabilities(model),
    }


def _capabilities(model: ServedModel) -> dict[str, Any]:
    writes = model.embedding_length is None
    return {
        "completion_chat": writes,
        "completion_fim": model.fills_gaps,
        "function_calling": model.calls_tools,
        "vision": False,
        "embeddings": not writes,
        **{name: {"supported": name in SUPPORTED and writes} for name in ANTHROPIC_CAPABILITIES},
    }
