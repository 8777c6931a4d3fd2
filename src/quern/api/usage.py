"""What has been used: one's own, and everybody's for an administrator."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from datetime import UTC, date, datetime, timedelta
from typing import Annotated, Any

from fastapi import APIRouter, Query

from quern.api.shared.dialect import Dialect
from quern.api.shared.error_styles import OPENAI_ERRORS
from quern.api.shared.headers import PrincipalDep
from quern.api.shared.services import Services, ServicesDep
from quern.errors import InvalidRequest
from quern.records import UsageRecord

DAYS = 30
MOST_DAYS = 3660

router = APIRouter(tags=["usage"])

USAGE = Dialect((router,), errors=OPENAI_ERRORS, prefixes=("/v1/usage",))


@router.get("/v1/usage")
async def usage(
    services: ServicesDep,
    caller: PrincipalDep,
    first: Annotated[
        date | None, Query(alias="from", description="The first day, UTC; 30 days ago if not given.")
    ] = None,
    last: Annotated[date | None, Query(alias="to", description="The last day, UTC; today if not given.")] = None,
) -> dict[str, Any]:
    """Requests, tokens and seconds by day, key and model, the oldest first; and what is stored now, by key."""
    last = last or datetime.now(UTC).date()
    first = first or last - timedelta(days=min(DAYS - 1, (last - date.min).days))
    if not timedelta() <= last - first <= timedelta(days=MOST_DAYS):
        raise InvalidRequest(
            f"The days from {first} to {last} are none, or more than ten years. Ask for fewer.", "from"
        )
    whose = None if caller.is_admin else caller.owner
    rows = await services.usage.between(first, last, whose)
    stored = {**({} if caller.is_admin else {caller.owner: 0}), **await services.usage.stored(whose)}
    names = names_of(services)
    return {
        "object": "list",
        "data": [{**shown(row), "key": names.get(row.owner, row.owner)} for row in rows],
        "storage": [_storage(services, owner, size, names) for owner, size in stored.items()],
    }


def names_of(services: Services) -> dict[str, str]:
    """The names of keys, by their ids."""
    return {key.id: key.name for key in services.keys.all()}


def shown(row: UsageRecord) -> dict[str, Any]:
    """A row as JSON."""
    values = asdict(row)
    return {
        "day": values.pop("day").isoformat(),
        "key_id": values.pop("owner"),
        "model": values.pop("model_id"),
        "compute_seconds": round(values.pop("compute_ms") / 1000, 3),
        **values,
    }


def _storage(services: Services, owner: str, size: int, names: Mapping[str, str]) -> dict[str, Any]:
    quota = services.usage.storage_quota(owner)
    return {
        "key_id": owner,
        "key": names.get(owner, owner),
        "bytes": size,
        "limit_bytes": quota.most_bytes if quota is not None else None,
    }
