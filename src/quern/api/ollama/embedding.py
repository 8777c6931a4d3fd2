"""`POST /api/embed`, and `POST /api/embeddings`, its older form for one text.

A request without a text, with which clients load a model, gets no vector.

Source: "Generate embeddings" in Ollama's API documentation.
"""

from __future__ import annotations

import asyncio
import time
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request, Response
from fastapi.responses import JSONResponse
from pydantic import BeforeValidator, Field

from quern.api.ollama.catalog import named
from quern.api.shared.disconnects import result_unless_disconnected
from quern.api.shared.fields import NoOp, RequestObject
from quern.api.shared.headers import CallerDep, no_conversation_header
from quern.api.shared.request_body import JsonRoute
from quern.api.shared.services import Services, ServicesDep
from quern.turns.embeddings import Embeddings
from quern.turns.models import ServedModel
from quern.turns.request import Caller

router = APIRouter(
    route_class=JsonRoute, prefix="/api", tags=["ollama"], dependencies=[Depends(no_conversation_header)]
)


def _listed(value: Any) -> Any:
    if isinstance(value, str):
        return [value] if value else []
    return value


class EmbedRequest(RequestObject):
    """`POST /api/embed`. What is too long is refused, as everywhere, whatever `truncate` says."""

    input: Annotated[list[str], BeforeValidator(_listed, json_schema_input_type=str | list[str])] = Field(
        default_factory=list[str]
    )
    model: str | None = None
    dimensions: Annotated[int, Field(ge=1)] | None = None
    keep_alive: NoOp = None
    options: NoOp = None
    truncate: NoOp = None


class EmbeddingsRequest(RequestObject):
    """`POST /api/embeddings`."""

    prompt: str = ""
    model: str | None = None
    keep_alive: NoOp = None
    options: NoOp = None


@router.post("/embed", response_model=None)
async def embed(request: Request, body: EmbedRequest, services: ServicesDep, caller: CallerDep) -> Response:
    """A vector for each input, its length 1. Where the served model writes text, a 400."""
    model = await named(services, body.model)
    began = time.monotonic()
    made = await _embedded(request, services, model, caller, body.input, body.dimensions)
    answer = {
        "model": body.model or model.name,
        "embeddings": [vector.tolist() for vector in made.vectors],
        "total_duration": round((time.monotonic() - began) * 1e9),
        "load_duration": 0,
        "prompt_eval_count": made.prompt_tokens,
    }
    return await asyncio.to_thread(JSONResponse, answer)


@router.post("/embeddings")
async def embed_one(
    request: Request, body: EmbeddingsRequest, services: ServicesDep, caller: CallerDep
) -> dict[str, Any]:
    """The vector of one text, empty where there is none."""
    model = await named(services, body.model)
    inputs = [body.prompt] if body.prompt else []
    made = await _embedded(request, services, model, caller, inputs, None, field="prompt")
    return {"embedding": [number for vector in made.vectors for number in vector]}


async def _embedded(
    request: Request,
    services: Services,
    model: ServedModel,
    caller: Caller,
    inputs: list[str],
    dimensions: int | None,
    field: str = "input",
) -> Embeddings:
    work = services.embeddings.embed(model, inputs, caller, dimensions=dimensions, field=field)
    return await result_unless_disconnected(request.receive, work)
