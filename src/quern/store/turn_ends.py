"""How turns end: each in one transaction, with its answer, or what its journal has where the server was lost."""

from __future__ import annotations

from datetime import UTC, datetime

from sqlalchemy import ColumnElement, delete, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from quern.errors import StoreError
from quern.records import UsageRecord
from quern.store.generations import end_generation, end_lost_generation
from quern.store.items import append_items
from quern.store.schema import active_turn, conversations, responses, turn_events, turns
from quern.store.turn_rows import TurnEnd, ended_columns
from quern.store.usage import add_usage
from quern.types import TurnState


class TurnAlreadyEnded(StoreError):
    """The turn has a terminal state already, and keeps it."""


async def finish_turn(end: TurnEnd, connection: AsyncConnection) -> bool:
    """As `TurnStore.finish`, in the caller's transaction."""
    if end.used is not None:
        await add_usage(connection, end.used)
    wanted = select(turns.c.conversation_id, turns.c.branch).where(turns.c.id == end.turn_id)
    conversation_id, branch = (await connection.execute(wanted)).one_or_none() or (None, 0)
    if conversation_id is not None:
        # Before the turn, as in `create`: one order of locks, so that two transactions can't wait in a circle.
        await touch(connection, conversation_id, end.finished_at)
    ended = update(turns).where(turns.c.id == end.turn_id, active_turn).values(ended_columns(end))
    if (await connection.execute(ended)).rowcount == 0:
        await _refuse_unless_deleted(connection, end.turn_id, end.state)
        return False
    if end.state is TurnState.COMPLETED:
        await append_items(connection, conversation_id, end.turn_id, end.items, end.finished_at, branch=branch)
    await end_generation(connection, end.turn_id, end.generation)
    await connection.execute(delete(turn_events).where(turn_events.c.turn_id == end.turn_id))
    return True


async def recover_turns(now: datetime, error: str, expires_at: datetime | None, connection: AsyncConnection) -> int:
    """As `TurnStore.recover_interrupted`, in the caller's transaction."""
    columns = turns.c.id, turns.c.conversation_id, turns.c.owner, turns.c.model_id, turns.c.text
    lost = (await connection.execute(select(*columns).where(active_turn))).all()
    for turn_id, conversation_id, owner, model_id, text in lost:
        await add_usage(connection, UsageRecord(now.astimezone(UTC).date(), owner, model_id, 1, 0, 0, 0, 0.0))
        journal = select(turn_events.c.text).where(turn_events.c.turn_id == turn_id)
        pieces = (await connection.execute(journal.order_by(turn_events.c.number))).scalars()
        kept = select(responses.c.background).where(responses.c.turn_id == turn_id)
        background = (await connection.execute(kept)).scalar_one_or_none()
        remembered = conversation_id is not None or background is not None
        interrupted = {
            "state": TurnState.INTERRUPTED,
            "error": error,
            "text": "".join([text or "", *pieces]) if remembered else None,
            "finished_at": now,
        }
        await connection.execute(update(turns).where(turns.c.id == turn_id).values(interrupted))
        until = None if background else expires_at or now
        goes_on = expires_at is not None and expires_at > now
        await end_lost_generation(connection, turn_id, until, goes_on=goes_on)
        await connection.execute(delete(turn_events).where(turn_events.c.turn_id == turn_id))
    return len(lost)


async def touch(
    connection: AsyncConnection, conversation_id: str, now: datetime, *conditions: ColumnElement[bool]
) -> bool:
    """Note that something happened in a conversation that meets the conditions; False where there is none."""
    touched = update(conversations).where(conversations.c.id == conversation_id, *conditions).values(updated_at=now)
    return (await connection.execute(touched)).rowcount > 0


async def _refuse_unless_deleted(connection: AsyncConnection, turn_id: str, wanted: TurnState) -> None:
    state = (await connection.execute(select(turns.c.state).where(turns.c.id == turn_id))).scalar_one_or_none()
    if state is not None:
        raise TurnAlreadyEnded(
            f"Turn {turn_id} can't become {wanted}: it is {state} already, and stays that. This is a fault in Quern; "
            f"report it with the server's log."
        )
