"""The branches of conversations: paths from their beginning, and which one goes on. `schema.py` has the model."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from sqlalchemy import CTE, ColumnElement, and_, func, insert, literal, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from quern.errors import ConversationBusy
from quern.records import Branch, Fork, StoredItem, TurnRecord
from quern.store.database import Database
from quern.store.items import ITEM, stored_item
from quern.store.locking import lock_conversation
from quern.store.schema import active_turn, branches, conversations, items, turns
from quern.store.turn_rows import turn_record
from quern.store.uninterrupted import uninterrupted

TO_ITS_END = 2**31 - 1
BUSY = (
    "A turn of this conversation is still queued or running, so it stays on its branch. Wait until it has ended, or "
    "cancel it, then choose another."
)


class BranchStore:
    """Reads and chooses branches. Every method raises StoreError where the database can't be used."""

    def __init__(self, database: Database) -> None:
        self._database = database

    @uninterrupted
    async def of_conversation(self, conversation_id: str) -> tuple[list[Branch], list[StoredItem], list[TurnRecord]]:
        """All of a conversation's branches but the first, and all of its items and turns, in order."""
        wanted = ITEM.where(items.c.conversation_id == conversation_id).order_by(items.c.position)
        of_turns = select(*turns.c).where(turns.c.conversation_id == conversation_id)
        async with self._database.reading() as connection:
            forks = await branches_of(connection, conversation_id)
            stored = [stored_item(row) for row in await connection.execute(wanted)]
            rows = await connection.execute(of_turns.order_by(turns.c.created_at, turns.c.id))
            return forks, stored, [turn_record(row) for row in rows]

    @uninterrupted
    async def path(self, conversation_id: str, start: Fork | None = None) -> Sequence[StoredItem]:
        """All items from the conversation's beginning to the end of its head, or to where a branch begins."""
        path = path_to(conversation_id, start)
        wanted = ITEM.select_from(items.join(path, on_path(path))).where(items.c.conversation_id == conversation_id)
        async with self._database.reading() as connection:
            return [stored_item(row) for row in await connection.execute(wanted.order_by(items.c.position))]

    @uninterrupted
    async def choose(self, conversation_id: str, branch: int) -> None:
        """Make a branch the one that is shown and continued. Raises ConversationBusy while a turn is active."""
        active = select(turns.c.id).where(turns.c.conversation_id == conversation_id, active_turn)
        chosen = update(conversations).where(conversations.c.id == conversation_id).values(head=branch)
        async with self._database.transaction() as connection:
            await lock_conversation(connection, conversation_id)
            if (await connection.execute(active)).first() is not None:
                raise ConversationBusy(BUSY)
            await connection.execute(chosen)


async def branches_of(connection: AsyncConnection, conversation_id: str) -> list[Branch]:
    """All of a conversation's branches but the first, in order."""
    wanted = select(branches.c.number, branches.c.parent, branches.c.after, branches.c.created_at)
    here = wanted.where(branches.c.conversation_id == conversation_id).order_by(branches.c.number)
    rows = await connection.execute(here)
    return [Branch(number, Fork(parent, after), created_at) for number, parent, after, created_at in rows]


def path_to(conversation_id: str, start: Fork | None = None) -> CTE:
    """The branches of the path to the end of a conversation's head, or to where a branch begins: each `branch` with
    the position `up_to` which it is on it.
    """
    if start is None:
        first = select(conversations.c.head.label("branch"), literal(TO_ITS_END).label("up_to"))
        first = first.where(conversations.c.id == conversation_id)
    else:
        first = select(literal(start.parent).label("branch"), literal(start.after).label("up_to"))
    path = first.cte("path", recursive=True)
    before = select(branches.c.parent, branches.c.after).select_from(
        branches.join(path, and_(branches.c.conversation_id == conversation_id, branches.c.number == path.c.branch))
    )
    return path.union_all(before)


def on_path(path: CTE) -> ColumnElement[bool]:
    """Whether an item is on a path."""
    return and_(items.c.branch == path.c.branch, items.c.position <= path.c.up_to)


async def open_branch(connection: AsyncConnection, conversation_id: str, fork: Fork | None, now: datetime) -> int:
    """The branch in which a conversation, which is locked, goes on: its head, or a new one that becomes it."""
    here = conversations.c.id == conversation_id
    if fork is None:
        return (await connection.execute(select(conversations.c.head).where(here))).scalar_one()
    last = select(func.coalesce(func.max(branches.c.number), 0)).where(branches.c.conversation_id == conversation_id)
    number = (await connection.execute(last)).scalar_one() + 1
    await connection.execute(
        insert(branches).values(
            conversation_id=conversation_id, number=number, parent=fork.parent, after=fork.after, created_at=now
        )
    )
    await connection.execute(update(conversations).where(here).values(head=number))
    return number
