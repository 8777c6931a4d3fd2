"""The models that this server serves: one, under its own name and its aliases.

Each entry has the members that clients of several servers read: OpenAI's and Anthropic's, `max_model_len` and `root` as
vLLM, `context_length` as OpenRouter, and `capabilities` as Mistral (booleans) and Anthropic (`supported`) tell them.
"""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter

from quern.api.shared.dialect import Dialect
from quern.api.shared.error_styles import OPENAI_ERRORS
from quern.api.shared.services import ServicesDep
from quern.turns.served_model import ModelService

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
    """The served model, with what a client needs to budget, and once more for each of its aliases."""
    names = services.model.names()
    return {
        "object": "list",
        "data": [_model(services.model, name) for name in names],
        "has_more": False,
        "first_id": names[0],
        "last_id": names[-1],
    }


@router.get("/v1/models/{model:path}")
async def get_model(model: str, services: ServicesDep) -> dict[str, Any]:
    """The served model, by its name or an alias."""
    services.model.check_name(model)
    return _model(services.model, model)


def _model(model: ModelService, name: str) -> dict[str, Any]:
    info = model.info
    return {
        "id": name,
        "root": info.model_id,
        "object": "model",
        "type": "model",
        "created": 0,
        "created_at": UNKNOWN_RELEASE,
        "owned_by": "quern",
        "display_name": name,
        "lifecycle": "active",
        "context_length": info.context_length,
        "max_model_len": info.context_length,
        "max_input_tokens": info.context_length,
        "max_tokens": info.context_length,
        "vocabulary_size": info.vocabulary_size,
        "quantisation": info.quantisation,
        "engine": info.engine,
        "device": info.device,
        "parallel": info.parallel,
        "capabilities": _capabilities(model),
    }


def _capabilities(model: ModelService) -> dict[str, Any]:
    return {
        "completion_chat": True,
        "completion_fim": model.fills_gaps,
        "function_calling": model.calls_tools,
        "vision": False,
        **{name: {"supported": name in SUPPORTED} for name in ANTHROPIC_CAPABILITIES},
    }
