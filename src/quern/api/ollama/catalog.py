"""What is served, as Ollama lists its models. What manages models is refused.

Source of the shapes: Ollama's API documentation. Clients want more of a model than this server knows of it; what they
must have is there.
"""

from __future__ import annotations

import hashlib
from typing import Any

from fastapi import APIRouter, Response
from fastapi.responses import JSONResponse
from pydantic import Field

from quern.api.ollama.errors import OLLAMA_ERRORS
from quern.api.shared.errors import ErrorKind, Failure
from quern.api.shared.fields import NoOp, RequestObject
from quern.api.shared.openapi import JSON_LINES
from quern.api.shared.request_body import JsonRoute
from quern.api.shared.services import Services, ServicesDep
from quern.turns.models import ServedModel

router = APIRouter(route_class=JsonRoute, prefix="/api", tags=["ollama"])

SPOKEN_VERSION = "0.13.0"
"""The version of Ollama whose API this is: editors ask for at least some version."""
LATEST = ":latest"
MANAGED = {
    ("POST", "/create"): "Models are not made over HTTP here. Serve a file or folder: `quern serve --model PATH`.",
    ("POST", "/copy"): "Models get no other names over HTTP here. Let the server take one for the served model too "
    "(setting model.aliases), and start `quern serve` again.",
    ("DELETE", "/delete"): "Models are not deleted over HTTP here. `quern models` lists them; delete the file.",
    ("POST", "/push"): "Models are not uploaded over HTTP here. `quern models` lists those that there are.",
    ("POST", "/blobs/{digest}"): "Files of models are not taken over HTTP here. Put the file on the server's disk: "
    "`quern serve --model PATH`.",
}
"""What manages models there, and how it is done here."""
LOADED_FOR_EVER = "9999-12-31T23:59:59Z"
NO_DATE = "1970-01-01T00:00:00Z"


class ModelName(RequestObject):
    """A model, under either of two names of the field."""

    model: str | None = None
    name: str | None = Field(default=None, description="The older name of model.")
    verbose: NoOp = None
    insecure: NoOp = None
    stream: bool = True
    username: NoOp = None
    password: NoOp = None
    system: NoOp = None
    template: NoOp = None
    options: NoOp = None


async def named(services: Services, name: str | None) -> ServedModel:
    """The model that a request asks for. Raises ModelNotServed and EngineUnavailable.

    Names end in a tag there; `:latest` is the one that is meant where there is none.
    """
    return await services.models.named((name or "").removesuffix(LATEST))


@router.get("/version")
async def version() -> dict[str, str]:
    """The version of Ollama that clients find here."""
    return {"version": SPOKEN_VERSION}


@router.get("/tags")
async def tags(services: ServicesDep) -> dict[str, Any]:
    """The served models, and once more for each of their aliases."""
    return {"models": [_listed(model, name) for name, model in services.models.listed()]}


@router.get("/ps")
async def loaded(services: ServicesDep) -> dict[str, Any]:
    """Those that are loaded, by their ids."""
    more = {"expires_at": LOADED_FOR_EVER, "size_vram": 0}
    return {
        "models": [
            {**_listed(model, name), **more, "context_length": model.info.context_length}
            for name, model in services.models.listed()
            if name == model.name and model.loaded
        ]
    }


@router.post("/show")
async def show(body: ModelName, services: ServicesDep) -> dict[str, Any]:
    """What the served model is and can do."""
    asked = body.model or body.name
    model = await named(services, asked)
    info, family, name = model.info, model.architecture, asked or model.name
    embeds = model.embedding_length is not None
    abilities = {
        "completion": not embeds,
        "tools": model.calls_tools,
        "insert": model.fills_gaps and not embeds,
        "embedding": embeds,
    }
    return {
        "modelfile": f"FROM {info.model_id}\n",
        "parameters": "",
        "template": model.chat_template,
        "license": "",
        "modified_at": NO_DATE,
        "details": _details(model),
        "model_info": {
            "general.architecture": family,
            "general.basename": name.removesuffix(LATEST),
            "general.name": info.model_id,
            f"{family}.context_length": info.context_length,
            f"{family}.vocab_size": info.vocabulary_size,
            **({f"{family}.embedding_length": model.embedding_length} if embeds else {}),
        },
        "capabilities": [ability for ability, there in abilities.items() if there],
    }


@router.post("/pull", response_model=None, responses=JSON_LINES)
async def pull(body: ModelName, services: ServicesDep) -> Response:
    """The served model is there already; no other can be fetched while the server runs."""
    await named(services, body.model or body.name)
    return JSONResponse({"status": "success"}, media_type="application/x-ndjson" if body.stream else None)


def _refuse(method: str, path: str, sentence: str) -> None:
    async def refuse() -> Response:
        return OLLAMA_ERRORS.response(Failure(ErrorKind.INVALID, sentence))

    router.add_api_route(path, refuse, methods=[method], include_in_schema=False)


for (_method, _path), _sentence in MANAGED.items():
    _refuse(_method, _path, _sentence)


@router.get("/blobs/{digest}", include_in_schema=False)
async def blob(digest: str) -> Response:
    """Whether a model's file was sent: none ever was."""
    return OLLAMA_ERRORS.response(Failure(ErrorKind.NOT_FOUND, f"There is no file {digest[:80]!r} here."))


def _listed(model: ServedModel, name: str) -> dict[str, Any]:
    tagged = name if ":" in name else name + LATEST
    return {
        "name": tagged,
        "model": tagged,
        "modified_at": NO_DATE,
        "size": model.size_bytes,
        "digest": hashlib.sha256(f"{model.name} {model.quantisation}".encode()).hexdigest(),
        "details": _details(model),
    }


def _details(model: ServedModel) -> dict[str, Any]:
    family = model.architecture
    return {
        "parent_model": "",
        "format": "gguf",
        "family": family,
        "families": [family],
        "parameter_size": model.parameter_size,
        "quantization_level": model.quantisation,
    }
