"""Responses: turns that their callers come back to. `turns.py` writes them."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import Row, and_, delete, or_, select
from sqlalchemy.ext.asyncio import AsyncConnection

from quern.records import Page, ResponseRecord, page_of, unknown_cursor
from quern.store.database import Database
from quern.store.deletion import delete_turns
from quern.store.schema import active_turn, generations, idempotency_keys, responses, turns
from quern.store.turn_rows import turn_record
from quern.store.uninterrupted import uninterrupted

_joined = turns.join(responses, responses.c.turn_id == turns.c.id)
_RESPONSE = select(*turns.c, responses.c.previous_id, responses.c.background, responses.c.body).select_from(_joined)
_is_response = turns.c.id.in_(select(responses.c.turn_id))


class ResponseStore:
    """Reads and deletes responses. Every method raises StoreError where the database can't be used."""

    def __init__(self, database: Database) -> None:
        self._database = database

    @uninterrupted
    async def get(self, turn_id: str, owner: str) -> ResponseRecord | None:
        """The response, or None if there is none of that id or it is another owner's."""
        wanted = _RESPONSE.where(turns.c.id == turn_id, turns.c.owner == owner)
        async with self._database.transaction() as connection:
            row = (await connection.execute(wanted)).one_or_none()
        return None if row is None else _record(row)

    @uninterrupted
    async def page(self, owner: str, *, limit: int, after: str | None, newest_first: bool) -> Page[ResponseRecord]:
        """At most `limit` of the owner's responses, in the order in which they were created, or from the newest on.

        `after`: the id of the last one already seen; raises InvalidRequest if the owner has none of that id.
        """
        mine = _RESPONSE.where(turns.c.owner == owner)
        order = turns.c.created_at, turns.c.id
        wanted = mine.order_by(*(column.desc() if newest_first else column for column in order)).limit(limit + 1)
        async with self._database.transaction() as connection:
            if after is not None:
                row = (await connection.execute(mine.where(turns.c.id == after))).one_or_none()
                if row is None:
                    raise unknown_cursor("response", after)
                at = turns.c.created_at < row.created_at if newest_first else turns.c.created_at > row.created_at
                beside = turns.c.id < after if newest_first else turns.c.id > after
                wanted = wanted.where(or_(at, and_(turns.c.created_at == row.created_at, beside)))
            rows = (await connection.execute(wanted)).all()
        return page_of([_record(row) for row in rows], limit)

    @uninterrupted
    async def delete(self, record: ResponseRecord) -> None:
        """Delete a response that has ended. Where it belongs to a conversation its turn stays there, with what was
        said.
        """
        turn_id = record.turn.id
        if record.turn.conversation_id is None:
            await delete_turns(self._database, turns.c.id == turn_id)
            return

        async def step(connection: AsyncConnection) -> None:
            await connection.execute(delete(responses).where(responses.c.turn_id == turn_id))
            await connection.execute(delete(generations).where(generations.c.turn_id == turn_id))

        await self._database.urgent(step)
        self._database.freed.set()

    @uninterrupted
    async def delete_all(self, owner: str) -> list[str]:
        """Delete the owner's responses outside of conversations; their turns' ids. Of turns that have ended and are
        nothing but counts and timings otherwise, what could tell their answers again goes too.
        """
        deleted = await delete_turns(self._database, turns.c.owner == owner, _is_response)
        ended = select(turns.c.id).where(turns.c.owner == owner, turns.c.conversation_id.is_(None), ~active_turn)

        async def step(connection: AsyncConnection) -> None:
            for table in (generations, idempotency_keys):
                await connection.execute(delete(table).where(table.c.turn_id.in_(ended)))

        await self._database.urgent(step)
        return deleted

    @uninterrupted
    async def delete_older(self, before: datetime) -> list[str]:
        """Delete everybody's responses outside of conversations that were created before, but those on which a later
        one builds; their turns' ids.
        """
        later = turns.c.created_at >= before
        first = select(responses.c.turn_id).select_from(_joined).where(or_(later, active_turn))
        kept = first.cte("kept", recursive=True)
        previous = select(responses.c.previous_id).join(kept, responses.c.turn_id == kept.c.turn_id)
        kept = kept.union(previous.where(responses.c.previous_id.is_not(None)))
        old = turns.c.created_at < before, turns.c.id.not_in(select(kept.c.turn_id)), ~active_turn
        return await delete_turns(self._database, _is_response, *old)


def _record(row: Row[Any]) -> ResponseRecord:
    return ResponseRecord(turn_record(row), row.previous_id, row.background, row.body)
