"""What owners have used, by day and model."""

from __future__ import annotations

from dataclasses import asdict, fields
from datetime import date

from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncConnection

from quern.records import UsageRecord
from quern.store.database import Database
from quern.store.locking import insert_into
from quern.store.schema import usage
from quern.store.uninterrupted import uninterrupted

_KEY = (usage.c.day, usage.c.owner, usage.c.model_id)
_COLUMNS = tuple(usage.c[field.name] for field in fields(UsageRecord))


class UsageStore:
    """Adds and reads usage. Every method raises StoreError where the database can't be used."""

    def __init__(self, database: Database) -> None:
        self._database = database

    @uninterrupted
    async def add(self, used: UsageRecord) -> None:
        """Count what was used besides turns, which `TurnStore.finish` counts."""
        async with self._database.transaction() as connection:
            await add_usage(connection, used)

    @uninterrupted
    async def between(self, first: date, last: date, owner: str | None = None) -> list[UsageRecord]:
        """Usage of the days from `first` to `last`, the oldest first; of one owner, or of all."""
        wanted = select(*_COLUMNS).where(usage.c.day.between(first, last)).order_by(*_KEY)
        if owner is not None:
            wanted = wanted.where(usage.c.owner == owner)
        async with self._database.reading() as connection:
            return [UsageRecord(*row) for row in await connection.execute(wanted)]

    @uninterrupted
    async def computed_tokens(self, day: date) -> dict[str, int]:
        """How many tokens each owner's requests of a day have cost."""
        cost = func.sum(usage.c.prompt_tokens - usage.c.cached_tokens + usage.c.completion_tokens)
        wanted = select(usage.c.owner, cost).where(usage.c.day == day).group_by(usage.c.owner)
        async with self._database.reading() as connection:
            return {owner: int(tokens) for owner, tokens in await connection.execute(wanted)}


async def add_usage(connection: AsyncConnection, used: UsageRecord) -> None:
    """Add to the row of the day, the owner and the model, in the caller's transaction."""
    values = asdict(used)
    more = {name: usage.c[name] + value for name, value in values.items() if usage.c[name] not in _KEY}
    added = insert_into(connection, usage).values(values).on_conflict_do_update(index_elements=_KEY, set_=more)
    await connection.execute(added)
