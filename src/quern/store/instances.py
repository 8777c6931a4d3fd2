"""The servers that share a PostgreSQL database. Each has a lease, which it renews; who has none is taken for dead, and
its turns are anybody's to interrupt. An SQLite database has one server, which needs no lease.

Leases go by the database's clock, so that those of the servers need not agree.
"""

from __future__ import annotations

from datetime import timedelta

from sqlalchemy import ColumnElement, delete, func, insert, select, true, update
from sqlalchemy.ext.asyncio import AsyncConnection

from quern.store.database import Database
from quern.store.schema import instances, turns
from quern.store.uninterrupted import uninterrupted


class InstanceStore:
    """Leases of servers, for one of them. Every method raises StoreError where the database can't be used."""

    def __init__(self, database: Database, instance_id: str) -> None:
        self._database = database
        self._id = instance_id

    @uninterrupted
    async def register(self, address: str, lease: timedelta) -> None:
        """Take a lease. `address`: where people find this server."""
        row = {"id": self._id, "address": address, "started_at": func.now(), "lease_until": func.now() + lease}
        async with self._database.transaction() as connection:
            await connection.execute(delete(instances).where(instances.c.id == self._id))
            await connection.execute(insert(instances).values(row))

    @uninterrupted
    async def renew(self, lease: timedelta) -> bool:
        """Keep the lease; False where it has run out and another server has noticed: what this one ran is not its own
        any more.
        """
        renewed = update(instances).where(instances.c.id == self._id).values(lease_until=func.now() + lease)
        async with self._database.transaction() as connection:
            return (await connection.execute(renewed)).rowcount > 0

    @uninterrupted
    async def leave(self) -> None:
        """Give the lease back; to be called once no turn runs."""
        async with self._database.transaction() as connection:
            await connection.execute(delete(instances).where(instances.c.id == self._id))


def runs_here(instance_id: str | None) -> ColumnElement[bool]:
    """Of turns: whether a server has them; where there is one server only, it has all."""
    return true() if instance_id is None else turns.c.instance == instance_id


def without_server() -> ColumnElement[bool]:
    """Of turns: whether no server that has a lease runs them."""
    return turns.c.instance.is_(None) | turns.c.instance.not_in(select(instances.c.id))


async def bury(connection: AsyncConnection) -> None:
    """Forget the servers whose leases have run out, in the caller's transaction."""
    await connection.execute(delete(instances).where(instances.c.lease_until < func.now()))
