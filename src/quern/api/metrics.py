"""What is measured, for Prometheus and what else reads its format."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Header, Response

from quern.api.shared.dialect import Dialect
from quern.api.shared.error_styles import OPENAI_ERRORS
from quern.api.shared.headers import PrincipalDep
from quern.api.shared.openapi import PLAIN_TEXT
from quern.api.shared.services import ServicesDep
from quern.errors import NotAllowed

PATH = "/metrics"

router = APIRouter(tags=["administration"])

METRICS = Dialect((router,), errors=OPENAI_ERRORS, prefixes=(PATH,), quiet_paths=frozenset({PATH}))


@router.get(PATH, response_model=None, responses=PLAIN_TEXT)
async def metrics(
    services: ServicesDep,
    caller: PrincipalDep,
    accept: Annotated[str, Header()] = "",
) -> Response:
    """All metrics, as Prometheus's text or, where `Accept` asks for it, as OpenMetrics."""
    if not services.public_metrics and not caller.is_admin and services.keys.all():
        raise NotAllowed(
            "Metrics have the names of all keys, so they are for administrators. Let Prometheus send a key with the "
            "role admin (`authorization.credentials_file`), or open them to everybody (setting metrics.public)."
        )
    body, content_type = await services.activity.metrics(accept)
    return Response(body, headers={"content-type": content_type, "vary": "accept", "cache-control": "no-store"})
