"""Whole conversations, read to be taken elsewhere and written as they were elsewhere."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from itertools import islice
from typing import Any

from sqlalchemy import Table, insert, select
from sqlalchemy.ext.asyncio import AsyncConnection

from quern.records import ConversationCopy, StorageQuota, StoredItem, TurnCopy
from quern.store.branches import branches_of
from quern.store.conversations import CONVERSATION, Conversation
from quern.store.database import Database
from quern.store.deletion import delete_conversations
from quern.store.items import ITEM, columns_of, stored_item
from quern.store.schema import branches, conversations, items, turns
from quern.store.storage import check_storage
from quern.store.turn_rows import turn_record
from quern.store.uninterrupted import uninterrupted

BATCH = 500
"""Rows that are written at a time, between which the event loop does other things."""


class TransferStore:
    """Reads and writes whole conversations. Every method raises StoreError where the database can't be used."""

    def __init__(self, database: Database) -> None:
        self._database = database

    @uninterrupted
    async def ids(self, owner: str) -> Sequence[str]:
        """Those of all of the owner's conversations, the oldest first."""
        wanted = select(conversations.c.id).where(conversations.c.owner == owner)
        async with self._database.transaction() as connection:
            ordered = wanted.order_by(conversations.c.created_at, conversations.c.id)
            return (await connection.execute(ordered)).scalars().all()

    @uninterrupted
    async def read(self, conversation_id: str, owner: str) -> ConversationCopy | None:
        """All of a conversation as it is at one moment; None where the owner has none of that id."""
        here = conversations.c.id == conversation_id, conversations.c.owner == owner
        async with self._database.transaction() as connection:
            row = (await connection.execute(CONVERSATION.where(*here))).one_or_none()
            if row is None:
                return None
            of_turns = select(*turns.c).where(turns.c.conversation_id == conversation_id)
            of_items = ITEM.where(items.c.conversation_id == conversation_id)
            forks = await branches_of(connection, conversation_id)
            found = await connection.execute(of_turns.order_by(turns.c.created_at, turns.c.id))
            copies = [TurnCopy(turn_record(one), one.sampling, one.asked) for one in found]
            found = await connection.execute(of_items.order_by(items.c.position))
            said = [stored_item(one) for one in found]
        return ConversationCopy(Conversation(*row), tuple(forks), tuple(copies), tuple(said))

    @uninterrupted
    async def write(self, copies: Sequence[ConversationCopy], quota: StorageQuota | None = None) -> None:
        """Store conversations that are new, all or none. Raises StorageExceeded."""
        async with self._database.growing() as connection:
            await _insert(connection, conversations, (asdict(copy.conversation) for copy in copies))
            await _insert(connection, branches, (row for copy in copies for row in _branch_rows(copy)))
            await _insert(connection, turns, (_turn_row(turn) for copy in copies for turn in copy.turns))
            await _insert(connection, items, (_item_row(item) for copy in copies for item in copy.items))
            await check_storage(connection, quota)

    @uninterrupted
    async def remove(self, ids: Sequence[str]) -> None:
        """Take conversations out that were written, and others of which the rest could not be."""
        for start in range(0, len(ids), BATCH):
            await delete_conversations(self._database, conversations.c.id.in_(ids[start : start + BATCH]))


async def _insert(connection: AsyncConnection, into: Table, rows: Iterator[Mapping[str, Any]]) -> None:
    while batch := list(islice(rows, BATCH)):
        await connection.execute(insert(into), batch)


def _branch_rows(copy: ConversationCopy) -> Iterator[dict[str, Any]]:
    for branch in copy.branches:
        values = {"number": branch.number, "created_at": branch.created_at, **asdict(branch.fork)}
        yield {"conversation_id": copy.conversation.id, **values}


def _turn_row(copy: TurnCopy) -> dict[str, Any]:
    record = copy.record
    values = {name: value for name, value in asdict(record).items() if name not in {"usage", "timings"}}
    return {
        **values,
        **asdict(record.usage),
        **asdict(record.timings),
        "sampling": copy.sampling,
        "asked": copy.asked,
    }


def _item_row(stored: StoredItem) -> dict[str, Any]:
    values = {
        "id": stored.id,
        "conversation_id": stored.conversation_id,
        "turn_id": stored.turn_id,
        "position": stored.position,
        "created_at": stored.created_at,
        "branch": stored.branch,
    }
    return {**values, **columns_of(stored.item)}
