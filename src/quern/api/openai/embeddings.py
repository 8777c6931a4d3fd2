"""`POST /v1/embeddings`: texts in, vectors out.

Source: "Create embeddings" in OpenAI's API reference; docs/api.md has the table of every field.
"""

from __future__ import annotations

import asyncio
import base64
import sys
from array import array
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Request, Response
from fastapi.responses import JSONResponse
from pydantic import Field

from quern.api.openai.completions_request import Prompts
from quern.api.shared.disconnects import result_unless_disconnected
from quern.api.shared.fields import NoOp, RequestObject
from quern.api.shared.headers import CallerDep, no_conversation_header
from quern.api.shared.request_body import JsonRoute
from quern.api.shared.services import ServicesDep
from quern.turns.embeddings import Embeddings

router = APIRouter(route_class=JsonRoute, prefix="/v1", tags=["openai"])


class EmbeddingRequest(RequestObject):
    """`POST /v1/embeddings`. OpenAI's own library asks for base64 unless it is told otherwise."""

    input: Prompts
    model: str | None = None
    dimensions: Annotated[int, Field(ge=1)] | None = None
    encoding_format: Literal["float", "base64"] | None = None
    user: NoOp = None


@router.post("/embeddings", response_model=None, dependencies=[Depends(no_conversation_header)])
async def create_embeddings(
    request: Request, body: EmbeddingRequest, services: ServicesDep, caller: CallerDep
) -> Response:
    """A vector for each input, its length 1. Where the served model writes text, a 400."""
    model = await services.models.named(body.model)
    work = services.embeddings.embed(model, body.input, caller, dimensions=body.dimensions)
    made = await result_unless_disconnected(request.receive, work)
    return await asyncio.to_thread(_whole, made, model.name, as_text=body.encoding_format == "base64")


def _whole(embeddings: Embeddings, model: str, *, as_text: bool) -> Response:
    """Call it in a thread: thousands of vectors are megabytes."""
    data: list[dict[str, Any]] = [
        {"object": "embedding", "index": index, "embedding": base64_of(vector) if as_text else vector.tolist()}
        for index, vector in enumerate(embeddings.vectors)
    ]
    usage = {"prompt_tokens": embeddings.prompt_tokens, "total_tokens": embeddings.prompt_tokens}
    return JSONResponse({"object": "list", "data": data, "model": model, "usage": usage})


def base64_of(vector: array[float]) -> str:
    """Its numbers as little-endian float32, in base64."""
    if sys.byteorder != "little":
        vector = vector[:]
        vector.byteswap()
    return base64.b64encode(vector.tobytes()).decode()
