"""Conversations and their messages: reading and deleting. `turns.py` writes them."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Generic, TypeVar

from sqlalchemy import and_, delete, or_, select

from quern.errors import InvalidRequest
from quern.store.database import Database
from quern.store.schema import conversations, messages, turns
from quern.store.uninterrupted import uninterrupted
from quern.types import Message, Role, TurnState

T = TypeVar("T")

_CONVERSATION = select(
    conversations.c.id, conversations.c.owner, conversations.c.created_at, conversations.c.updated_at
)
_MESSAGE = select(
    messages.c.id,
    messages.c.conversation_id,
    messages.c.turn_id,
    messages.c.position,
    messages.c.role,
    messages.c.content,
    messages.c.created_at,
)


@dataclass(frozen=True, slots=True)
class Conversation:
    """A conversation. `updated_at` is when its last turn began or ended; times are in UTC."""

    id: str
    owner: str
    created_at: datetime
    updated_at: datetime


@dataclass(frozen=True, slots=True)
class StoredMessage:
    """A message with its identity; `position` counts from 0 within the conversation."""

    id: str
    conversation_id: str
    turn_id: str
    position: int
    role: Role
    content: str
    created_at: datetime


@dataclass(frozen=True, slots=True)
class Page(Generic[T]):
    """A part of a longer list; `has_more` says whether anything comes after its last item."""

    items: tuple[T, ...]
    has_more: bool


class ConversationStore:
    """Reads and deletes conversations. Every method raises StoreError where the database can't be used."""

    def __init__(self, database: Database) -> None:
        self._database = database

    @uninterrupted
    async def get(self, conversation_id: str, owner: str) -> Conversation | None:
        """The conversation, or None if there is none of that id or it is another owner's."""
        wanted = _CONVERSATION.where(conversations.c.id == conversation_id, conversations.c.owner == owner)
        async with self._database.transaction() as connection:
            row = (await connection.execute(wanted)).one_or_none()
        return None if row is None else Conversation(*row)

    @uninterrupted
    async def page(self, owner: str, *, limit: int, after: str | None) -> Page[Conversation]:
        """At most `limit` of the owner's conversations, newest activity first.

        `after`: the id of the last one already seen; raises InvalidRequest if the owner has none of that id. A
        conversation that becomes active between two pages moves to the front.
        """
        mine = conversations.c.owner == owner
        order = conversations.c.updated_at, conversations.c.id
        wanted = _CONVERSATION.where(mine).order_by(*(column.desc() for column in order)).limit(limit + 1)
        async with self._database.transaction() as connection:
            if after is not None:
                seen = (await connection.execute(select(*order).where(mine, conversations.c.id == after))).one_or_none()
                if seen is None:
                    raise _unknown_cursor("conversation", after)
                updated_at, conversation_id = seen
                wanted = wanted.where(
                    or_(
                        conversations.c.updated_at < updated_at,
                        and_(conversations.c.updated_at == updated_at, conversations.c.id < conversation_id),
                    )
                )
            rows = (await connection.execute(wanted)).all()
        return _page([Conversation(*row) for row in rows], limit)

    @uninterrupted
    async def messages(self, conversation_id: str, *, limit: int, after: str | None) -> Page[StoredMessage]:
        """At most `limit` messages of any turns, in order.

        `after`: the id of the last one already seen; raises InvalidRequest if the conversation has none of that id.
        """
        here = messages.c.conversation_id == conversation_id
        wanted = _MESSAGE.where(here).order_by(messages.c.position).limit(limit + 1)
        async with self._database.transaction() as connection:
            if after is not None:
                cursor = select(messages.c.position).where(here, messages.c.id == after)
                position = (await connection.execute(cursor)).scalar_one_or_none()
                if position is None:
                    raise _unknown_cursor("message", after)
                wanted = wanted.where(messages.c.position > position)
            rows = (await connection.execute(wanted)).all()
        return _page([StoredMessage(*row) for row in rows], limit)

    @uninterrupted
    async def history(self, conversation_id: str) -> list[Message]:
        """What the model is shown: the messages of completed turns, in order."""
        wanted = (
            select(messages.c.role, messages.c.content)
            .join(turns, turns.c.id == messages.c.turn_id)
            .where(messages.c.conversation_id == conversation_id, turns.c.state == TurnState.COMPLETED)
            .order_by(messages.c.position)
        )
        async with self._database.transaction() as connection:
            rows = (await connection.execute(wanted)).all()
        return [Message(role=role, content=content) for role, content in rows]

    @uninterrupted
    async def delete(self, conversation_id: str, owner: str) -> bool:
        """Delete the conversation with its turns and messages; False if there is none, or it is another owner's."""
        unwanted = delete(conversations).where(conversations.c.id == conversation_id, conversations.c.owner == owner)
        async with self._database.transaction() as connection:
            return (await connection.execute(unwanted)).rowcount > 0

    @uninterrupted
    async def delete_all(self, owner: str) -> int:
        """Delete the owner's conversations with their turns and messages; how many there were.

        One-shot turns stay: they hold counts and timings, no prompt.
        """
        unwanted = delete(conversations).where(conversations.c.owner == owner)
        async with self._database.transaction() as connection:
            return (await connection.execute(unwanted)).rowcount


def _page(rows: list[T], limit: int) -> Page[T]:
    return Page(items=tuple(rows[:limit]), has_more=len(rows) > limit)


def _unknown_cursor(kind: str, after: str) -> InvalidRequest:
    return InvalidRequest(
        f"There is no {kind} {after!r} to go on after: it was deleted, or the value is not from this list. Start "
        f"again without `after`.",
        field="after",
    )
