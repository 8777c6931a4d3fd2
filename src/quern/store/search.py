"""Finding what was said in conversations. Only the index, and how it is asked, are SQLite's own.

A query is words, all of which a text has, in any order and case, each anywhere in it: Chinese has no blanks. Source of
the index: "The Trigram Tokenizer" in SQLite's documentation of FTS5. It knows words of three characters and more; for
shorter ones, and in other databases, texts are looked through.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import ColumnElement, column, func, insert, literal, select, table, tuple_
from sqlalchemy.ext.asyncio import AsyncConnection

from quern.records import Conversation, StoredItem, unknown_cursor
from quern.store.conversations import CONVERSATION
from quern.store.database import Database
from quern.store.items import ITEM, stored_item
from quern.store.schema import ItemKind, conversations, items
from quern.store.uninterrupted import uninterrupted

SHORTEST_INDEXED = 3
"""Characters."""

MERGE_PAGES = 500
"""Of the index, in one transaction: some tens of milliseconds, in which nothing else is saved."""

_index = table("item_search", column("item_search"), column("rowid"), column("rank"))
_numbers = table("item_numbers", column("number"), column("item_id"))


@dataclass(frozen=True, slots=True)
class Found:
    """An item that has all of the words, and its conversation."""

    conversation: Conversation
    item: StoredItem


class SearchStore:
    """Looks for text. Every method raises StoreError where the database can't be used."""

    def __init__(self, database: Database) -> None:
        self._database = database

    @uninterrupted
    async def find(self, owner: str, words: Sequence[str], *, limit: int, after: str | None) -> list[Found]:
        """At most `limit` messages of the owner's that have all of the words, the newest first, on any branch.

        `after`: the id of the last one already seen; raises InvalidRequest if the owner has no such item.
        """
        order = items.c.created_at, items.c.position, items.c.id
        mine = items.join(conversations, conversations.c.id == items.c.conversation_id)
        wanted = select(items.c.id).select_from(mine)
        wanted = wanted.where(conversations.c.owner == owner, items.c.kind == ItemKind.MESSAGE)
        async with self._database.transaction() as connection:
            if after is not None:
                seen = select(*order).select_from(mine).where(conversations.c.owner == owner, items.c.id == after)
                place = (await connection.execute(seen)).one_or_none()
                if place is None:
                    raise unknown_cursor("item", after)
                seen_last = tuple_(*map(literal, place, (one.type for one in order)))
                wanted = wanted.where(tuple_(*order) < seen_last)
            wanted = wanted.where(*_conditions(words, indexed=connection.dialect.name == "sqlite"))
            wanted = wanted.order_by(*(one.desc() for one in order)).limit(limit)
            found = (await connection.execute(wanted)).scalars().all()
            return [await _found(connection, item_id) for item_id in found]

    @uninterrupted
    async def forget_deleted(self, *, begin: bool) -> bool:
        """Rewrite a part of the index without what was deleted; whether there is more to do. `begin`: the first time.

        Until then it keeps the pieces of three characters that deleted texts had ("The 'merge' Command" in SQLite's
        documentation).
        """
        pages = -MERGE_PAGES if begin else MERGE_PAGES
        changes = select(func.total_changes())
        async with self._database.transaction() as connection:
            if connection.dialect.name != "sqlite":
                return False
            before = (await connection.execute(changes)).scalar_one()
            await connection.execute(insert(_index).values(item_search="merge", rank=pages))
            more = (await connection.execute(changes)).scalar_one() - before >= 2
        if not more:
            self._database.freed.set()
        return more


def _conditions(words: Sequence[str], *, indexed: bool) -> list[ColumnElement[bool]]:
    long = [word for word in words if indexed and len(word) >= SHORTEST_INDEXED]
    conditions = [items.c.content.icontains(word, autoescape=True) for word in words if word not in long]
    if long:
        # Quoted, nothing in a word is the query language's.
        query = " AND ".join('"' + word.replace('"', '""') + '"' for word in long)
        known = select(_numbers.c.item_id).join(_index, _index.c.rowid == _numbers.c.number)
        conditions.append(items.c.id.in_(known.where(_index.c.item_search.op("MATCH")(query))))
    return conditions


async def _found(connection: AsyncConnection, item_id: str) -> Found:
    item = stored_item((await connection.execute(ITEM.where(items.c.id == item_id))).one())
    wanted = CONVERSATION.where(conversations.c.id == item.conversation_id)
    return Found(Conversation(*(await connection.execute(wanted)).one()), item)
