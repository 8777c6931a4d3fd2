"""Keys that clients give their requests, and the turns that were started under them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from sqlalchemy import delete, func, or_, select
from sqlalchemy.ext.asyncio import AsyncConnection

from quern.errors import QuernError
from quern.store.database import Database
from quern.store.locking import insert_into
from quern.store.schema import idempotency_keys
from quern.store.uninterrupted import uninterrupted


@dataclass(frozen=True, slots=True)
class NewKey:
    """Under which key a turn is started, as which of its request's turns, counted from 0. `fingerprint`: what tells the
    same request from another one. `replaces`: the ids of turns that it may have named.
    """

    key: str
    position: int
    fingerprint: bytes
    expires_at: datetime
    replaces: tuple[str, ...] = ()


class KeyTaken(QuernError):
    """Another server has started a turn under the key, since it was looked up here."""


@dataclass(frozen=True, slots=True)
class KnownKey:
    """A key that is taken: by what request, and the ids of its turns by their positions."""

    fingerprint: bytes
    turn_ids: Mapping[int, str]


class IdempotencyStore:
    """Reads and forgets keys. Every method raises StoreError where the database can't be used."""

    def __init__(self, database: Database) -> None:
        self._database = database

    @uninterrupted
    async def get(self, owner: str, key: str, now: datetime) -> KnownKey | None:
        """An owner's key; None where it was never used, or not for so long."""
        table = idempotency_keys.c
        wanted = select(table.position, table.fingerprint, table.turn_id).where(
            table.owner == owner, table.key == key, table.expires_at > now
        )
        async with self._database.reading() as connection:
            rows = (await connection.execute(wanted.order_by(table.position))).all()
        return KnownKey(rows[0].fingerprint, {row.position: row.turn_id for row in rows}) if rows else None

    @uninterrupted
    async def release(self, owner: str, key: str, turn_ids: Sequence[str]) -> None:
        """Forget that these turns were started under a key."""
        table = idempotency_keys.c
        which = table.owner == owner, table.key == key, table.turn_id.in_(turn_ids)
        async with self._database.transaction() as connection:
            await connection.execute(delete(idempotency_keys).where(*which))

    @uninterrupted
    async def forget(self, now: datetime) -> int:
        """Delete those whose time is over; how many there were."""

        async def step(connection: AsyncConnection) -> int:
            expired = delete(idempotency_keys).where(idempotency_keys.c.expires_at <= now)
            return (await connection.execute(expired)).rowcount

        return await self._database.urgent(step)


async def claim_key(connection: AsyncConnection, owner: str, turn_id: str, new: NewKey) -> None:
    """Have a key name a turn in place of the one that it may. Raises KeyTaken where it names another by now."""
    which = {"owner": owner, "key": new.key, "position": new.position}
    named = {"fingerprint": new.fingerprint, "turn_id": turn_id, "expires_at": new.expires_at}
    table = idempotency_keys.c
    free = or_(table.turn_id.in_([turn_id, *new.replaces]), table.expires_at <= datetime.now(UTC))
    claimed = insert_into(connection, idempotency_keys).values({**which, **named})
    claimed = claimed.on_conflict_do_update(index_elements=list(which), set_=named, where=free)
    if (await connection.execute(claimed.returning(table.turn_id))).first() is None:
        raise KeyTaken("The key names another turn by now.")


async def keyed_until(connection: AsyncConnection, turn_id: str) -> datetime | None:
    """Until when a key names a turn; None where none does."""
    last = select(func.max(idempotency_keys.c.expires_at)).where(idempotency_keys.c.turn_id == turn_id)
    return (await connection.execute(last)).scalar_one()
