"""Keys over HTTP, for administrators: a key with the role admin, or whoever may use the control socket."""

from __future__ import annotations

from dataclasses import asdict
from datetime import datetime
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query, Response
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

from quern.access.key_changes import LONGEST_NAME, LONGEST_NOTE, KeyChanges
from quern.api.shared.headers import AdminDep, administrator
from quern.api.shared.request_body import JsonRoute
from quern.api.shared.services import ServicesDep
from quern.records import AuditEntry, KeyLimits, KeyRecord, KeyRole

MOST_ENTRIES = 1000
NOT_KEPT = {"cache-control": "no-store"}
"""No proxy and no browser keeps the answer that has a key's text."""

router = APIRouter(
    prefix="/v1/admin", tags=["administration"], dependencies=[Depends(administrator)], route_class=JsonRoute
)

Limit = Annotated[int | None, Field(default=None, ge=0, le=2**53)]


class LimitsBody(BaseModel):
    """The most that a key may do; 0 is no limit, what is left out is as before, and null is as the settings say."""

    model_config = ConfigDict(extra="forbid")

    turns_at_once: Limit
    turns_waiting: Limit
    requests_per_minute: Limit
    tokens_per_minute: Limit
    tokens_per_day: Limit
    storage_mib: Limit


class KeyChangesBody(BaseModel):
    """New values for a key; what is left out stays. Null takes an expiry, a note or a limit of the key's own away."""

    model_config = ConfigDict(extra="forbid")

    name: str | None = Field(default=None, max_length=LONGEST_NAME)
    note: str | None = Field(default=None, max_length=LONGEST_NOTE)
    role: KeyRole | None = None
    weight: float | None = Field(default=None, ge=0.01, le=100, description="Its part where the server is shared.")
    expires_at: AwareDatetime | None = None
    limits: LimitsBody | None = None

    def changes(self) -> KeyChanges:
        """The same as a value."""
        note = "" if self.note is None and "note" in self.model_fields_set else self.note
        limits = KeyLimits(**self.limits.model_dump()) if self.limits is not None else None
        return KeyChanges(self.name, note, self.role, self.weight, self.expires_at, limits, self._removed())

    def _removed(self) -> frozenset[str]:
        removed = {"expires_at"} & self.model_fields_set if self.expires_at is None else set[str]()
        if self.limits is not None:
            removed |= {name for name in self.limits.model_fields_set if getattr(self.limits, name) is None}
        elif "limits" in self.model_fields_set:
            removed |= set(LimitsBody.model_fields)
        return frozenset(removed)


class NewKeyBody(KeyChangesBody):
    """A key to be made."""

    name: str = Field(max_length=LONGEST_NAME)  # pyright: ignore[reportIncompatibleVariableOverride, reportGeneralTypeIssues]


@router.post("/keys")
async def create_key(body: NewKeyBody, services: ServicesDep, admin: AdminDep, answer: Response) -> dict[str, Any]:
    """Make a key. Its text is in this answer and nowhere else, ever."""
    answer.headers.update(NOT_KEPT)
    key, text = await services.keys.create(body.name, body.changes(), admin.name)
    return {**_shown(key), "key": text}


@router.get("/keys")
async def list_keys(services: ServicesDep) -> dict[str, Any]:
    """Every key, the oldest first, revoked ones too."""
    return {"object": "list", "data": [_shown(key) for key in services.keys.all()]}


@router.post("/keys/{key}")
async def change_key(key: str, body: KeyChangesBody, services: ServicesDep, admin: AdminDep) -> dict[str, Any]:
    """Change the values of a key, which is named by its id or its name."""
    return _shown(await services.keys.change(key, body.changes(), admin.name))


@router.delete("/keys/{key}")
async def revoke_key(key: str, services: ServicesDep, admin: AdminDep) -> dict[str, Any]:
    """Let a key open nothing from now on. Turns that run go on."""
    return _shown(await services.keys.revoke(key, admin.name))


@router.post("/keys/{key}/rotate")
async def rotate_key(key: str, services: ServicesDep, admin: AdminDep, answer: Response) -> dict[str, Any]:
    """Give a key another secret; the old one opens nothing from now on. Its text is in this answer only."""
    answer.headers.update(NOT_KEPT)
    changed, text = await services.keys.rotate(key, admin.name)
    return {**_shown(changed), "key": text}


@router.post("/keys/{key}/adopt")
async def adopt(key: str, services: ServicesDep, admin: AdminDep) -> dict[str, Any]:
    """Give a key the conversations that were made without any."""
    return {"conversations": await services.keys.adopt(key, admin.name)}


@router.get("/audit")
async def audit_log(services: ServicesDep, limit: Annotated[int, Query(ge=1, le=MOST_ENTRIES)] = 100) -> dict[str, Any]:
    """The latest administrative acts, the newest first."""
    return {"object": "list", "data": [_entry(entry) for entry in await services.keys.audit(limit)]}


def _shown(key: KeyRecord) -> dict[str, Any]:
    """All of a key but what opens something."""
    return {
        "object": "key",
        "id": key.id,
        "name": key.name,
        "role": key.role.value,
        "weight": key.weight,
        "note": key.note,
        "limits": {name: value for name, value in asdict(key.limits).items() if value is not None},
        "created_at": _time(key.created_at),
        "expires_at": _time(key.expires_at),
        "revoked_at": _time(key.revoked_at),
        "last_used_at": _time(key.last_used_at),
    }


def _entry(entry: AuditEntry) -> dict[str, Any]:
    return {**asdict(entry), "at": _time(entry.at)}


def _time(at: datetime | None) -> str | None:
    return at.isoformat(timespec="seconds") if at is not None else None
