"""Turns as they are stored, for tests to look at."""

from __future__ import annotations

from sqlalchemy import select

from quern.records import TurnRecord
from quern.store.database import Database
from quern.store.schema import active_turn
from quern.store.schema import turns as turn_rows
from quern.store.turns import TurnStore

STOPPED = "The server stopped."
"""A sentence for turns that a stopped server left."""


async def stored_turn(turns: TurnStore, turn_id: str) -> TurnRecord | None:
    """The turn of this id."""
    return next(iter(await turns.by_ids([turn_id])), None)


async def active_turn_of(database: Database, conversation_id: str) -> str | None:
    """The id of the conversation's queued or running turn; there is never more than one."""
    wanted = select(turn_rows.c.id).where(turn_rows.c.conversation_id == conversation_id, active_turn)
    async with database.transaction() as connection:
        return (await connection.execute(wanted)).scalar_one_or_none()
