"""Deleting conversations and turns for good, however many, while everybody else goes on saving.

What is to go is deleted in groups, each in a transaction of its own that holds the database for some tens of
milliseconds: to be overwritten (`secure_delete`), all of it has to be written once. Where the disk is full and even the
reserve too small for a group, each of its conversations goes in parts, from its end, with as much journal as a part
takes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from sqlalchemy import Column, ColumnElement, Select, delete, func, select
from sqlalchemy.ext.asyncio import AsyncConnection

from quern.errors import DiskFull
from quern.store.database import Database
from quern.store.locking import lock_rows
from quern.store.schema import conversations, items, turns

GROUP_BYTES = 4 * 2**20
GROUP_ROWS = 100
PART_BYTES = 2**20
PART_ROWS = 500

NOT_ALL = (
    "The disk is so full that not even the journal of a deletion fits, so not all was deleted. What was deleted until "
    "then is gone; free some MiB on the disk that holds the database, and delete again."
)


async def delete_conversations(database: Database, *which: ColumnElement[bool]) -> list[str]:
    """Delete the conversations that are so now; their ids. Raises StoreError; then some of them may be gone."""
    of_turns = select(func.coalesce(func.sum(turns.c.bytes), 0)).where(turns.c.conversation_id == conversations.c.id)
    wanted = select(conversations.c.id, conversations.c.bytes + of_turns.scalar_subquery()).where(*which)
    deleted: list[str] = []
    for ids in _groups(await _read(database, wanted), GROUP_BYTES, GROUP_ROWS):
        unwanted = _Rows(conversations.c.id, ids, which)
        deleted += await _delete(database, unwanted, items.c.conversation_id.in_(ids), turns.c.conversation_id.in_(ids))
    return deleted


async def delete_turns(database: Database, *which: ColumnElement[bool]) -> list[str]:
    """The same for turns outside of conversations, with their responses."""
    which = turns.c.conversation_id.is_(None), *which
    deleted: list[str] = []
    for ids in _groups(await _read(database, select(turns.c.id, turns.c.bytes).where(*which)), GROUP_BYTES, GROUP_ROWS):
        unwanted = _Rows(turns.c.id, ids, which)
        deleted += await _delete(database, unwanted, items.c.turn_id.in_(ids), turns.c.id.in_(ids))
    return deleted


@dataclass(frozen=True, slots=True)
class _Rows:
    """Of a table, those that have these ids and are so."""

    column: Column[str]
    ids: Sequence[str]
    which: Sequence[ColumnElement[bool]] = ()

    async def delete(self, connection: AsyncConnection) -> list[str]:
        """Delete them; their ids."""
        await lock_rows(connection, self.column, self.column.in_(self.ids))
        unwanted = delete(self.column.table).where(self.column.in_(self.ids), *self.which).returning(self.column)
        return [*(await connection.execute(unwanted)).scalars()]


async def _delete(
    database: Database,
    unwanted: _Rows,
    their_items: ColumnElement[bool],
    their_turns: ColumnElement[bool],
) -> list[str]:
    """The ids of what was unwanted."""
    try:
        try:
            return await database.urgent(unwanted.delete)
        except DiskFull:
            sizes = select(items.c.id, func.length(items.c.content)).where(their_items)
            for ids in _groups(await _read(database, sizes.order_by(items.c.position.desc())), PART_BYTES, PART_ROWS):
                await database.urgent(_Rows(items.c.id, ids).delete)
            sizes = select(turns.c.id, func.length(func.coalesce(turns.c.text, ""))).where(their_turns)
            gone: list[str] = []
            for ids in _groups(await _read(database, sizes.order_by(turns.c.created_at.desc())), PART_BYTES, PART_ROWS):
                gone += await database.urgent(_Rows(turns.c.id, ids).delete)
            return await database.urgent(unwanted.delete) or gone
    except DiskFull as error:
        raise DiskFull(NOT_ALL) from error
    finally:
        database.freed.set()


async def _read(database: Database, wanted: Select[str, int]) -> Sequence[tuple[str, int]]:
    async with database.reading() as connection:
        return [(one, int(size)) for one, size in await connection.execute(wanted)]


def _groups(sized: Sequence[tuple[str, int]], most_bytes: int, most_rows: int) -> Iterator[list[str]]:
    """Ids one after the other, each group with so many bytes at most, or a single id."""
    group: list[str] = []
    left = most_bytes
    for one, size in sized:
        if group and (size > left or len(group) == most_rows):
            yield group
            group, left = [], most_bytes
        group.append(one)
        left -= size
    if group:
        yield group
