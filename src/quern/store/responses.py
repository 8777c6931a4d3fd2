"""Responses: turns that their callers come back to. `turns.py` writes them."""

from __future__ import annotations

from sqlalchemy import delete, select

from quern.records import ResponseRecord
from quern.store.database import Database
from quern.store.schema import generations, responses, turns
from quern.store.turn_rows import turn_record
from quern.store.uninterrupted import uninterrupted


class ResponseStore:
    """Reads and deletes responses. Every method raises StoreError where the database can't be used."""

    def __init__(self, database: Database) -> None:
        self._database = database

    @uninterrupted
    async def get(self, turn_id: str, owner: str) -> ResponseRecord | None:
        """The response, or None if there is none of that id or it is another owner's."""
        joined = turns.join(responses, responses.c.turn_id == turns.c.id)
        wanted = (
            select(*turns.c, responses.c.previous_id, responses.c.background, responses.c.body)
            .select_from(joined)
            .where(turns.c.id == turn_id, turns.c.owner == owner)
        )
        async with self._database.transaction() as connection:
            row = (await connection.execute(wanted)).one_or_none()
        return None if row is None else ResponseRecord(turn_record(row), row.previous_id, row.background, row.body)

    @uninterrupted
    async def delete(self, record: ResponseRecord) -> None:
        """Delete a response that has ended. Where it belongs to a conversation its turn stays there, with what was
        said.
        """
        turn_id = record.turn.id
        unwanted = [delete(turns).where(turns.c.id == turn_id)]
        if record.turn.conversation_id is not None:
            unwanted = [
                delete(responses).where(responses.c.turn_id == turn_id),
                delete(generations).where(generations.c.turn_id == turn_id),
            ]
        async with self._database.transaction() as connection:
            for rows in unwanted:
                await connection.execute(rows)
