"""Is the process alive, can it serve."""

from __future__ import annotations

from fastapi import APIRouter, Response
from fastapi.responses import JSONResponse

from quern.api.shared.deps import Wired
from quern.engine.base import EngineState

router = APIRouter(tags=["health"])


@router.get("/health")
async def health() -> dict[str, str]:
    """Liveness: 200 as long as the process answers, also while the model loads."""
    return {"status": "ok"}


@router.get("/ready", response_model=None)
async def ready(wired: Wired) -> Response:
    """Readiness: 200 when turns are taken, 503 while the model loads or the server is about to stop."""
    stats = wired.engine.stats()
    stopping = wired.turns.stopping
    is_ready = stats.state is EngineState.READY and not stopping
    return JSONResponse(
        {
            "status": "stopping" if stopping else stats.state,
            "load_progress": round(stats.load_progress, 3),
            "running": stats.running,
            "waiting": stats.waiting,
        },
        200 if is_ready else 503,
    )
