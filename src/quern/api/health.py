"""Is the process alive, can it serve."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse, PlainTextResponse

from quern.api.shared.dialect import Dialect
from quern.api.shared.error_styles import DETAIL_ERRORS
from quern.api.shared.openapi import PLAIN_TEXT
from quern.api.shared.services import ServicesDep

OLLAMA_IS_RUNNING = "Ollama is running"
"""What Ollama answers at `/`, to the letter: its client wants the status, many others compare the text."""
FOR_BROWSERS = "Quern is running. It speaks the APIs of OpenAI, Anthropic, Ollama and llama.cpp: see /docs.\n"
ONLY_BROWSERS_ACCEPT = "application/xhtml+xml"

router = APIRouter(tags=["health"])

HEALTH = Dialect(
    (router,),
    errors=DETAIL_ERRORS,
    prefixes=("/", "/health", "/ready"),
    quiet_paths=frozenset({"/health", "/ready"}),
    open_paths=("/", "/health", "/ready", "/docs", "/openapi.json"),
)


@router.get("/", response_model=None, responses=PLAIN_TEXT)
async def running(request: Request) -> Response:
    """What Ollama's clients look for first; a browser is told the truth."""
    is_browser = ONLY_BROWSERS_ACCEPT in request.headers.get("accept", "")
    return PlainTextResponse(FOR_BROWSERS if is_browser else OLLAMA_IS_RUNNING, headers={"vary": "accept"})


@router.get("/health")
async def health() -> dict[str, str]:
    """Liveness: 200 as long as the process answers, also while the model loads."""
    return {"status": "ok"}


@router.get("/ready", response_model=None)
async def ready(services: ServicesDep) -> Response:
    """Readiness: 200 when turns are taken, 503 while the model loads or the server is about to stop."""
    readiness = services.models.readiness()
    return JSONResponse(
        {
            "status": readiness.status,
            "load_progress": round(readiness.load_progress, 3),
            "running": readiness.running,
            "waiting": readiness.waiting,
        },
        200 if readiness.ready else 503,
    )
