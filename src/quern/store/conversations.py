"""Conversations: beginning, finding, deleting them. What is said in them is in `history.py`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import datetime
from typing import Any

from sqlalchemy import insert, literal, select, tuple_, update

from quern.records import Conversation, Page, StorageQuota, page_of, unknown_cursor
from quern.store.database import Database
from quern.store.deletion import delete_conversations
from quern.store.items import NewItem, append_items, check_storable
from quern.store.schema import active_turn, conversations, turns
from quern.store.storage import check_storage
from quern.store.uninterrupted import uninterrupted

CONVERSATION = select(
    conversations.c.id,
    conversations.c.owner,
    conversations.c.created_at,
    conversations.c.updated_at,
    conversations.c.metadata,
    conversations.c.title,
    conversations.c.pinned,
    conversations.c.archived,
    conversations.c.head,
)
"""Selects what a `Conversation` is made of."""


class ConversationStore:
    """Reads and deletes conversations. Every method raises StoreError where the database can't be used."""

    def __init__(self, database: Database) -> None:
        self._database = database

    @uninterrupted
    async def get(self, conversation_id: str, owner: str) -> Conversation | None:
        """The conversation, or None if there is none of that id or it is another owner's."""
        wanted = CONVERSATION.where(conversations.c.id == conversation_id, conversations.c.owner == owner)
        async with self._database.transaction() as connection:
            row = (await connection.execute(wanted)).one_or_none()
        return None if row is None else Conversation(*row)

    @uninterrupted
    async def page(
        self, owner: str, *, limit: int, after: str | None, archived: bool | None = None, pinned: bool | None = None
    ) -> Page[Conversation]:
        """At most `limit` of the owner's conversations, pinned ones first, then newest activity first; those that are
        `archived` or `pinned`, or are not, where that is given.

        `after`: the id of the last one already seen; raises InvalidRequest if the owner has none of that id. A
        conversation that becomes active between two pages moves to the front.
        """
        mine = conversations.c.owner == owner
        order = conversations.c.pinned, conversations.c.updated_at, conversations.c.id
        wanted = CONVERSATION.where(mine).order_by(*(column.desc() for column in order)).limit(limit + 1)
        if archived is not None:
            wanted = wanted.where(conversations.c.archived.is_(archived))
        if pinned is not None:
            wanted = wanted.where(conversations.c.pinned.is_(pinned))
        async with self._database.transaction() as connection:
            if after is not None:
                seen = (await connection.execute(select(*order).where(mine, conversations.c.id == after))).one_or_none()
                if seen is None:
                    raise unknown_cursor("conversation", after)
                wanted = wanted.where(tuple_(*order) < tuple_(*map(literal, seen, (column.type for column in order))))
            rows = (await connection.execute(wanted)).all()
        return page_of([Conversation(*row) for row in rows], limit)

    @uninterrupted
    async def create(
        self, conversation: Conversation, new: Sequence[NewItem], quota: StorageQuota | None = None
    ) -> None:
        """Begin a conversation without a turn. Raises StorageExceeded, and InvalidRequest for items that can't be
        stored.
        """
        check_storable(item.item for item in new)
        async with self._database.growing() as connection:
            await connection.execute(insert(conversations).values(asdict(conversation)))
            await append_items(connection, conversation.id, None, new, conversation.created_at)
            await check_storage(connection, quota)

    @uninterrupted
    async def change(self, conversation_id: str, owner: str, values: Mapping[str, Any]) -> bool:
        """Replace what its owner decides (`metadata`, `title`, `pinned`, `archived`); False if there is no such
        conversation of the owner's.
        """
        changed = update(conversations).where(conversations.c.id == conversation_id, conversations.c.owner == owner)
        async with self._database.growing() as connection:
            return (await connection.execute(changed.values(**values))).rowcount > 0

    @uninterrupted
    async def retitle(self, conversation_id: str, before: str | None, title: str) -> None:
        """Give a conversation another title, unless it has got another one meanwhile."""
        unchanged = conversations.c.id == conversation_id, conversations.c.title.is_not_distinct_from(before)
        async with self._database.transaction() as connection:
            await connection.execute(update(conversations).where(*unchanged).values(title=title))

    @uninterrupted
    async def delete_older(self, before: datetime) -> Sequence[str]:
        """Delete everybody's conversations in which nothing has happened since, but pinned ones; their ids."""
        active = select(turns.c.id).where(turns.c.conversation_id == conversations.c.id, active_turn).exists()
        old = conversations.c.updated_at < before
        return await delete_conversations(self._database, old, conversations.c.pinned.is_(False), ~active)

    @uninterrupted
    async def delete(self, conversation_id: str, owner: str) -> bool:
        """Delete the conversation with its turns and messages; False if there is none, or it is another owner's."""
        mine = conversations.c.id == conversation_id, conversations.c.owner == owner
        return bool(await delete_conversations(self._database, *mine))

    @uninterrupted
    async def delete_all(self, owner: str) -> Sequence[str]:
        """Delete the owner's conversations with their turns and messages; their ids."""
        return await delete_conversations(self._database, conversations.c.owner == owner)
