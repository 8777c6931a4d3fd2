"""Is the process alive, can it serve."""

from __future__ import annotations

from fastapi import APIRouter, Response
from fastapi.responses import JSONResponse

from quern.api.shared.dialect import Dialect
from quern.api.shared.error_styles import DETAIL_ERRORS
from quern.api.shared.services import ServicesDep

router = APIRouter(tags=["health"])

HEALTH = Dialect(
    (router,),
    errors=DETAIL_ERRORS,
    prefixes=("/health", "/ready"),
    quiet_paths=frozenset({"/health", "/ready"}),
    open_paths=("/health", "/ready", "/docs", "/openapi.json"),
)


@router.get("/health")
async def health() -> dict[str, str]:
    """Liveness: 200 as long as the process answers, also while the model loads."""
    return {"status": "ok"}


@router.get("/ready", response_model=None)
async def ready(services: ServicesDep) -> Response:
    """Readiness: 200 when turns are taken, 503 while the model loads or the server is about to stop."""
    readiness = services.model.readiness()
    return JSONResponse(
        {
            "status": readiness.status,
            "load_progress": round(readiness.load_progress, 3),
            "running": readiness.running,
            "waiting": readiness.waiting,
        },
        200 if readiness.ready else 503,
    )
