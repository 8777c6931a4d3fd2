"""How much owners have stored, in bytes of text (UTF-8): what was said, answers, and what responses were asked for.

`turns.bytes` and `conversations.bytes` are kept by triggers (`schema.py`), in the very transactions that write and
delete, so no path can forget them; an owner's sum is that of its rows, so a row that goes takes its part along, and
with another owner it counts there. Two covering indexes have the sums.
"""

from __future__ import annotations

from collections.abc import Mapping

from sqlalchemy import Select, func, literal_column, select
from sqlalchemy.ext.asyncio import AsyncConnection

from quern.errors import StorageExceeded
from quern.records import StorageQuota
from quern.store.database import Database
from quern.store.schema import conversations, turns
from quern.store.uninterrupted import uninterrupted

_of_turns = select(turns.c.owner, func.sum(turns.c.bytes)).where(turns.c.bytes > literal_column("0"))
_of_conversations = select(conversations.c.owner, func.sum(conversations.c.bytes))


class StorageStore:
    """Reads how much is stored. Every method raises StoreError where the database can't be used."""

    def __init__(self, database: Database) -> None:
        self._database = database

    @uninterrupted
    async def by_owner(self, owner: str | None = None) -> Mapping[str, int]:
        """Bytes that owners have stored; of one, or of all that have stored anything."""
        async with self._database.transaction() as connection:
            return await _sums(connection, owner)


async def check_storage(connection: AsyncConnection, quota: StorageQuota | None) -> None:
    """Raise StorageExceeded where an owner has more than it may, with what the caller's transaction has written."""
    if quota is None:
        return
    stored = (await _sums(connection, quota.owner)).get(quota.owner, 0)
    if stored > quota.most_bytes:
        raise StorageExceeded(
            f"With this you would have {_mib(stored)} MiB of text stored here, and {_mib(quota.most_bytes)} MiB is "
            f"what you may (limit storage_mib), so it was not begun and nothing of it was saved. Delete conversations "
            f"or responses that you don't need, or ask whoever runs this server for more."
        )


async def _sums(connection: AsyncConnection, owner: str | None) -> dict[str, int]:
    sums: dict[str, int] = {}
    for wanted, table in ((_of_turns, turns), (_of_conversations, conversations)):
        mine: Select[str, int] = wanted if owner is None else wanted.where(table.c.owner == owner)
        for of_owner, size in await connection.execute(mine.group_by(table.c.owner)):
            sums[of_owner] = sums.get(of_owner, 0) + int(size)
    return sums


def _mib(size: int) -> str:
    return f"{size / 2**20:.6g}"
