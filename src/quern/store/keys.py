"""Keys and the log of administrative acts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from datetime import datetime
from typing import Any

from sqlalchemy import insert, or_, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from quern.records import AuditEntry, KeyLimits, KeyRecord
from quern.store.announcements import Kind, announce
from quern.store.database import Database
from quern.store.locking import insert_into, lock_rows
from quern.store.schema import api_keys, audit_log, conversations, key_hashing, turns
from quern.store.uninterrupted import uninterrupted

_COLUMNS = tuple(api_keys.c[field.name] for field in fields(KeyRecord))


class KeyStore:
    """Reads and writes keys. Every method raises StoreError where the database can't be used."""

    def __init__(self, database: Database) -> None:
        self._database = database

    @uninterrupted
    async def hash_key(self, new: bytes) -> bytes:
        """What this database's hashes are keyed with; `new` from now on where there was nothing yet."""
        async with self._database.transaction() as connection:
            await connection.execute(
                insert_into(connection, key_hashing).values(id=1, value=new).on_conflict_do_nothing()
            )
            return (await connection.execute(select(key_hashing.c.value))).scalar_one()

    @uninterrupted
    async def all(self) -> list[KeyRecord]:
        """Every key, the oldest first, revoked ones too."""
        wanted = select(*_COLUMNS).order_by(api_keys.c.created_at, api_keys.c.id)
        async with self._database.reading() as connection:
            rows: Sequence[Any] = (await connection.execute(wanted)).all()
        return [KeyRecord(*row[:-1], limits=KeyLimits(**row.limits)) for row in rows]

    @uninterrupted
    async def create(self, key: KeyRecord, audit: AuditEntry) -> None:
        """Keep a new key."""
        async with self._database.transaction() as connection:
            await connection.execute(insert(api_keys).values(asdict(key)))
            await connection.execute(insert(audit_log).values(asdict(audit)))
            await announce(connection, Kind.KEYS)

    @uninterrupted
    async def change(self, before: KeyRecord, after: KeyRecord, audit: AuditEntry) -> None:
        """Keep a key's new values: those that differ, so that what another server changes meanwhile stays changed."""
        old, new = asdict(before), asdict(after)
        values = {name: value for name, value in new.items() if value != old[name]}

        async def step(connection: AsyncConnection) -> None:
            if values:
                await connection.execute(update(api_keys).where(api_keys.c.id == after.id).values(values))
            await connection.execute(insert(audit_log).values(asdict(audit)))
            await announce(connection, Kind.KEYS)

        await self._database.urgent(step)  # it may be revoked

    @uninterrupted
    async def adopt(self, owner: str, key_id: str, audit: AuditEntry) -> int:
        """Give all that `owner` has to a key; how many conversations that were."""

        async def step(connection: AsyncConnection) -> int:
            await lock_rows(connection, conversations.c.id, conversations.c.owner == owner)
            await lock_rows(connection, turns.c.id, turns.c.owner == owner)
            moved = await connection.execute(
                update(conversations).where(conversations.c.owner == owner).values(owner=key_id)
            )
            await connection.execute(update(turns).where(turns.c.owner == owner).values(owner=key_id))
            await connection.execute(insert(audit_log).values(asdict(audit)))
            return moved.rowcount

        return await self._database.urgent(step)

    @uninterrupted
    async def note_uses(self, uses: Mapping[str, datetime]) -> None:
        """When keys were last used."""
        last = api_keys.c.last_used_at
        async with self._database.transaction() as connection:
            for key_id, at in sorted(uses.items()):
                earlier = or_(last.is_(None), last < at)  # another server may know of a later use
                noted = update(api_keys).where(api_keys.c.id == key_id, earlier).values(last_used_at=at)
                await connection.execute(noted)

    @uninterrupted
    async def audit(self, limit: int) -> list[AuditEntry]:
        """The latest acts, the newest first."""
        columns = audit_log.c.at, audit_log.c.actor, audit_log.c.action, audit_log.c.subject, audit_log.c.details
        wanted = select(*columns).order_by(audit_log.c.number.desc()).limit(limit)
        async with self._database.reading() as connection:
            return [AuditEntry(*row) for row in await connection.execute(wanted)]
