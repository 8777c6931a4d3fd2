"""The settings of the running server, for administrators."""

from __future__ import annotations

from typing import Any

import structlog
from fastapi import APIRouter, Depends

from quern.api.shared.headers import AdminDep, administrator
from quern.api.shared.services import ServicesDep
from quern.config_sources import Reload, value_of
from quern.errors import ConfigError, InvalidRequest

log = structlog.get_logger(__name__)

router = APIRouter(prefix="/v1/admin", tags=["administration"], dependencies=[Depends(administrator)])


@router.post("/reload")
async def reload(services: ServicesDep, admin: AdminDep) -> dict[str, Any]:
    """Read settings and keys anew, and take over what a running server can. Running turns are not touched."""
    log.info("reload_asked_for", actor=admin.name)
    try:
        done = await services.reload()
    except ConfigError as error:
        raise InvalidRequest(f"{error} The server's settings are as they were.") from error
    return {
        "object": "reload",
        "changed": {name: _before_and_after(done, name) for name in done.changed},
        "need_restart": done.need_restart,
        "keys_kept": done.keys_kept,
    }


def _before_and_after(done: Reload, name: str) -> dict[str, Any]:
    """Only of settings that a running server takes over; a secret is none of them."""
    return {"before": value_of(done.before, name), "after": value_of(done.after, name)}
