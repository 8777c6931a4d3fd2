"""What was said: the items of conversations and of responses, in order, and what of it the model is shown."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from sqlalchemy import CTE, ColumnElement, and_, delete, func, literal, or_, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from quern.errors import ConversationBusy, ConversationNotFound, ResponseNotFound
from quern.records import Fork, Page, StorageQuota, StoredItem, page_of, unknown_cursor
from quern.store.branches import on_path, open_branch, path_to
from quern.store.database import Database
from quern.store.items import ITEM, NewItem, append_items, check_storable, stored_item
from quern.store.schema import active_turn, conversations, items, responses, turns
from quern.store.storage import check_storage
from quern.store.uninterrupted import uninterrupted
from quern.types import Item, TurnState

_BUSY = (
    "A turn of this conversation is still queued or running, and nothing may change under it. Wait until it has ended, "
    "or cancel it, then try again."
)
_NOT_WHOLE = (
    "The previous response, or something that it builds on, was deleted, so its context is not whole any more. Begin "
    "again without previous_response_id."
)
_visible = or_(items.c.turn_id.is_(None), turns.c.state == TurnState.COMPLETED)


class HistoryStore:
    """Reads and changes what was said. Every method raises StoreError where the database can't be used."""

    def __init__(self, database: Database) -> None:
        self._database = database

    @uninterrupted
    async def of_conversation(self, conversation_id: str, owner: str, start: Fork | None = None) -> list[Item] | None:
        """What the model is shown: the items of completed turns, and those without a turn, in order, from the
        beginning to the end of the head, or to the `start` of another branch.

        None where the owner has no such conversation.
        """
        wanted = select(conversations.c.id).where(conversations.c.id == conversation_id, conversations.c.owner == owner)
        async with self._database.transaction() as connection:
            if (await connection.execute(wanted)).first() is None:
                return None
            return await _visible_on_path(connection, conversation_id, path_to(conversation_id, start))

    @uninterrupted
    async def of_response(self, turn_id: str) -> list[Item]:
        """What the model is shown when a response is continued: all that led to it, and itself.

        Raises ResponseNotFound where it, or a response that it builds on, was deleted.
        """
        async with self._database.transaction() as connection:
            chain = await _chain(connection, turn_id)
            if not chain or not await _reaches_the_beginning(connection, chain[-1]):
                raise ResponseNotFound(_NOT_WHOLE)
            first = chain[-1]
            history: list[Item] = []
            if first.conversation_id is not None:
                end = await _end_of(connection, first.id)
                path = path_to(first.conversation_id, end)
                history += await _visible_on_path(connection, first.conversation_id, path)
                chain = chain[:-1]
            for turn in reversed(chain):
                history += await _visible_items(connection, items.c.turn_id == turn.id)
        return history

    @uninterrupted
    async def of_turn(self, turn_id: str) -> list[StoredItem]:
        """All items of a turn, what was said to the model and its answer, in order."""
        wanted = ITEM.where(items.c.turn_id == turn_id).order_by(items.c.position)
        async with self._database.transaction() as connection:
            return [stored_item(row) for row in await connection.execute(wanted)]

    @uninterrupted
    async def page(
        self, conversation_id: str, *, limit: int, after: str | None, newest_first: bool = False
    ) -> Page[StoredItem]:
        """At most `limit` items of any turns on the path to the head, in order.

        `after`: the id of the last one already seen; raises InvalidRequest if the path has none of that id.
        """
        here = items.c.conversation_id == conversation_id
        order = items.c.position.desc() if newest_first else items.c.position
        path = path_to(conversation_id)
        shown = items.join(path, on_path(path))
        wanted = ITEM.select_from(shown).where(here).order_by(order).limit(limit + 1)
        async with self._database.transaction() as connection:
            if after is not None:
                cursor = select(items.c.position).select_from(shown).where(here, items.c.id == after)
                position = (await connection.execute(cursor)).scalar_one_or_none()
                if position is None:
                    raise unknown_cursor("item", after)
                wanted = wanted.where(items.c.position < position if newest_first else items.c.position > position)
            rows = (await connection.execute(wanted)).all()
        return page_of([stored_item(row) for row in rows], limit)

    @uninterrupted
    async def item(self, conversation_id: str, item_id: str) -> StoredItem | None:
        """One item of a conversation."""
        wanted = ITEM.where(items.c.conversation_id == conversation_id, items.c.id == item_id)
        async with self._database.transaction() as connection:
            row = (await connection.execute(wanted)).one_or_none()
        return None if row is None else stored_item(row)

    @uninterrupted
    async def owned(self, item_ids: Sequence[str], owner: str) -> dict[str, Item]:
        """Those of the items, by id, that belong to the owner's conversations or turns."""
        of_turns = items.outerjoin(turns, turns.c.id == items.c.turn_id)
        joined = of_turns.outerjoin(conversations, conversations.c.id == items.c.conversation_id)
        mine = or_(turns.c.owner == owner, conversations.c.owner == owner)
        wanted = ITEM.select_from(joined).where(items.c.id.in_(item_ids), mine)
        async with self._database.transaction() as connection:
            return {row.id: stored_item(row).item for row in await connection.execute(wanted)}

    @uninterrupted
    async def append(
        self, conversation_id: str, new: Sequence[NewItem], now: datetime, quota: StorageQuota | None = None
    ) -> None:
        """Put items at the end of an idle conversation's head, without a turn.

        Raises ConversationBusy, ConversationNotFound, StorageExceeded, and InvalidRequest for items that can't be
        stored.
        """
        check_storable(item.item for item in new)
        async with self._database.growing() as connection:
            await _touch_idle(connection, conversation_id, now)
            branch = await open_branch(connection, conversation_id, None, now)
            await append_items(connection, conversation_id, None, new, now, branch=branch)
            await check_storage(connection, quota)

    @uninterrupted
    async def delete(self, conversation_id: str, item_id: str, now: datetime) -> bool:
        """Take an item out of an idle conversation; False if there is none of that id. Raises ConversationBusy."""
        which = items.c.conversation_id == conversation_id, items.c.id == item_id

        async def step(connection: AsyncConnection) -> bool:
            if (await connection.execute(select(items.c.id).where(*which))).first() is None:
                return False
            await _touch_idle(connection, conversation_id, now)
            return (await connection.execute(delete(items).where(*which))).rowcount > 0

        deleted = await self._database.urgent(step)
        self._database.freed.set()
        return deleted


async def _visible_items(connection: AsyncConnection, which: ColumnElement[bool]) -> list[Item]:
    joined = ITEM.select_from(items.outerjoin(turns, turns.c.id == items.c.turn_id))
    rows = await connection.execute(joined.where(which, _visible).order_by(items.c.position))
    return [stored_item(row).item for row in rows]


async def _visible_on_path(connection: AsyncConnection, conversation_id: str, path: CTE) -> list[Item]:
    of_turns = items.outerjoin(turns, turns.c.id == items.c.turn_id)
    wanted = ITEM.select_from(of_turns.join(path, on_path(path)))
    here = items.c.conversation_id == conversation_id
    rows = await connection.execute(wanted.where(here, _visible).order_by(items.c.position))
    return [stored_item(row).item for row in rows]


async def _end_of(connection: AsyncConnection, turn_id: str) -> Fork:
    """Where what follows a turn begins: after its last item."""
    last = select(items.c.branch, func.max(items.c.position)).where(items.c.turn_id == turn_id).group_by(items.c.branch)
    return Fork(*(await connection.execute(last)).one())


class _Link:
    """One response of a chain."""

    def __init__(self, turn_id: str, conversation_id: str | None, previous_id: str | None) -> None:
        self.id = turn_id
        self.conversation_id = conversation_id
        self.previous_id = previous_id


async def _chain(connection: AsyncConnection, turn_id: str) -> list[_Link]:
    """A response and those that it builds on, back to the first one or to one of a conversation."""
    columns = turns.c.id, turns.c.conversation_id, responses.c.previous_id
    joined = turns.join(responses, responses.c.turn_id == turns.c.id)
    start = select(*columns, literal(0).label("depth")).select_from(joined).where(turns.c.id == turn_id)
    chain = start.cte("chain", recursive=True)
    earlier = select(*columns, (chain.c.depth + 1).label("depth")).select_from(
        joined.join(chain, and_(turns.c.id == chain.c.previous_id, chain.c.conversation_id.is_(None)))
    )
    whole = chain.union_all(earlier)
    rows = await connection.execute(
        select(whole.c.id, whole.c.conversation_id, whole.c.previous_id).order_by(whole.c.depth)
    )
    return [_Link(*row) for row in rows]


async def _reaches_the_beginning(connection: AsyncConnection, earliest: _Link) -> bool:
    """Whether all that came before a chain is there: nothing, or a conversation in which it still has a place."""
    if earliest.conversation_id is None:
        return earliest.previous_id is None
    left = select(items.c.id).where(items.c.turn_id == earliest.id).limit(1)
    return (await connection.execute(left)).first() is not None


async def _touch_idle(connection: AsyncConnection, conversation_id: str, now: datetime) -> None:
    touched = update(conversations).where(conversations.c.id == conversation_id).values(updated_at=now)
    if (await connection.execute(touched)).rowcount == 0:
        raise ConversationNotFound("There is no such conversation any more: it was deleted. Begin a new one.")
    active = select(turns.c.id).where(turns.c.conversation_id == conversation_id, active_turn)
    if (await connection.execute(active)).first() is not None:
        raise ConversationBusy(_BUSY)
