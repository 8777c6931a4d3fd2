"""Turns: their life from queued to exactly one terminal state, and the journal of the text so far."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from functools import partial

from sqlalchemy import and_, bindparam, delete, func, insert, or_, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection

from quern.errors import ConversationBusy, ConversationNotFound, TurnNotContinuable
from quern.records import Page, TurnRecord, page_of, unknown_cursor
from quern.store.branches import open_branch
from quern.store.database import Database
from quern.store.generations import (
    add_generation,
    as_bytes,
    reopen_generation,
)
from quern.store.idempotency import claim_key
from quern.store.items import append_items, check_storable
from quern.store.schema import (
    ACTIVE_TURN_INDEX,
    active_turn,
    branches,
    conversations,
    generations,
    items,
    responses,
    turn_events,
    turns,
)
from quern.store.storage import check_storage
from quern.store.turn_ends import finish_turn, recover_turns, touch
from quern.store.turn_rows import (
    AskedTurn,
    JournalEntry,
    NewTurn,
    ReopenedTurn,
    TurnEnd,
    queued_columns,
    turn_record,
)
from quern.store.uninterrupted import uninterrupted
from quern.types import TurnState

SECOND_TURN = (
    "Another turn of this conversation is still queued or running, so this one was not started. Wait until it has "
    "ended, or cancel it, then try again."
)
NOT_AS_IT_WAS = "The turn was deleted, or it goes on already. Look at it again: GET /v1/turns/{id}."
NOT_THE_LAST = (
    "The conversation has gone on after this turn, so its answer can't become longer. Ask in the conversation for what "
    "is missing."
)
NOTHING_STARTED: Mapping[str, datetime] = {}


_begin = (
    update(turns)
    .where(turns.c.id == bindparam("begun"), turns.c.state == TurnState.QUEUED)
    .values(state=TurnState.RUNNING, started_at=bindparam("at"))
)


class TurnStore:
    """Writes turns, each step in one transaction. Every method raises StoreError where the database can't be used."""

    def __init__(self, database: Database) -> None:
        self._database = database

    @uninterrupted
    async def create(self, turn: NewTurn) -> None:
        """Store the turn as queued, with its conversation where that is new, what was said, and its response.

        What was said in a one-shot turn is not stored. Raises ConversationNotFound when the owner has no such
        conversation, ConversationBusy while another turn of it is active, StorageExceeded, and InvalidRequest for a
        prompt with characters that no database can hold (NUL, lone surrogates).
        """
        if turn.kept:
            check_storable(item.item for item in turn.items)
        async with self._database.growing() as connection:
            branch = 0
            if turn.conversation_id is not None:
                await _open_conversation(connection, turn, turn.conversation_id)
                branch = await open_branch(connection, turn.conversation_id, turn.fork, turn.created_at)
            try:
                await connection.execute(insert(turns).values(queued_columns(turn, branch)))
            except IntegrityError as error:
                if _is_second_active_turn(error):
                    raise ConversationBusy(SECOND_TURN) from error
                raise
            if turn.plan is not None:
                await add_generation(connection, turn.id, turn.plan, turn.prompt)
            if turn.key is not None:
                await claim_key(connection, turn.owner, turn.id, turn.key)
            if turn.response is not None:
                response = {"turn_id": turn.id, **asdict(turn.response)}
                await connection.execute(insert(responses).values(response))
            if turn.kept:
                await append_items(
                    connection, turn.conversation_id, turn.id, turn.items, turn.created_at, branch=branch
                )
                await check_storage(connection, turn.quota)

    @uninterrupted
    async def append(self, entries: Sequence[JournalEntry], started: Mapping[str, datetime] = NOTHING_STARTED) -> None:
        """Save what any number of unfinished turns wrote, and when turns began to run, by id.

        Turns that ended or were deleted are left out, and so are tokens already saved: after an error or a
        cancellation the same may be given again.
        """
        async with self._database.growing() as connection:
            if started:
                await connection.execute(_begin, [{"begun": turn_id, "at": at} for turn_id, at in started.items()])
            await _append_unsaved(entries, connection)

    @uninterrupted
    async def append_left(self, entries: Sequence[JournalEntry]) -> None:
        """The same of what a killed server left in its file, also where the disk is full."""
        await self._database.urgent(partial(_append_unsaved, entries))

    @uninterrupted
    async def finish(self, end: TurnEnd) -> bool:
        """Store how the turn ended, and its answer if it is complete. Its journal goes.

        False, and only the usage counts, if the conversation or response was deleted. Raises TurnAlreadyEnded if it has
        ended before: it keeps that end.
        """
        return await self._database.urgent(partial(finish_turn, end))

    @uninterrupted
    async def recover_interrupted(self, now: datetime, error: str, expires_at: datetime | None = None) -> int:
        """Mark every turn that a stopped server left queued or running as interrupted, with this sentence; how many
        there were.

        Each keeps the text that its journal holds, and counts as a request in what its owner has used; what it has cost
        nobody knows any more. Until `expires_at` it can go on, a response in the background always; without that
        nothing can. To be called at start, before any turn: it takes every active turn in the database for a lost one.
        """
        return await self._database.urgent(partial(recover_turns, now, error, expires_at))

    @uninterrupted
    async def reopen(self, turn: ReopenedTurn) -> None:
        """Make a turn that has ended a queued one again; an answer that it has is taken out of its conversation.

        Raises ConversationBusy while another turn of the conversation is active, TurnNotContinuable where it has ended
        otherwise by now, or where the conversation went on after it.
        """
        async with self._database.growing() as connection:
            await _check_last(connection, turn.id)
            reopened = {"state": TurnState.QUEUED, "finish_reason": None, "error": None, "finished_at": None}
            values = {**reopened, "text": turn.text, "sampling": asdict(turn.sampling)}
            wanted = update(turns).where(turns.c.id == turn.id, turns.c.state == turn.ended_as).values(values)
            try:
                if (await connection.execute(wanted)).rowcount == 0:
                    raise TurnNotContinuable(NOT_AS_IT_WAS)
            except IntegrityError as error:
                if _is_second_active_turn(error):
                    raise ConversationBusy(SECOND_TURN) from error
                raise
            await connection.execute(delete(items).where(items.c.id.in_(turn.answer_ids)))
            await reopen_generation(connection, turn.id, turn.plan)
            if turn.key is not None:
                await claim_key(connection, turn.owner, turn.id, turn.key)

    @uninterrupted
    async def interrupted(self, error: str, *, conversations_only: bool) -> list[TurnRecord]:
        """Everybody's turns that were interrupted with this sentence and can go on, the oldest first."""
        kept = select(generations.c.turn_id).where(generations.c.prompt.is_not(None))
        wanted = select(*turns.c).where(
            turns.c.state == TurnState.INTERRUPTED, turns.c.error == error, turns.c.id.in_(kept)
        )
        if conversations_only:
            wanted = wanted.where(turns.c.conversation_id.is_not(None))
        async with self._database.transaction() as connection:
            rows = (await connection.execute(wanted.order_by(turns.c.created_at, turns.c.id))).all()
        return [turn_record(row) for row in rows]

    @uninterrupted
    async def page(
        self, owner: str, *, limit: int, after: str | None, state: TurnState | None, conversation_id: str | None
    ) -> Page[TurnRecord]:
        """At most `limit` of the owner's turns, the newest first, of one state or conversation where that is given.

        `after`: the id of the last one already seen; raises InvalidRequest if the owner has none of that id.
        """
        wanted = select(*turns.c).where(turns.c.owner == owner)
        if state is not None:
            wanted = wanted.where(turns.c.state == state)
        if conversation_id is not None:
            wanted = wanted.where(turns.c.conversation_id == conversation_id)
        async with self._database.transaction() as connection:
            if after is not None:
                seen = select(turns.c.created_at).where(turns.c.owner == owner, turns.c.id == after)
                at = (await connection.execute(seen)).scalar_one_or_none()
                if at is None:
                    raise unknown_cursor("turn", after)
                older = and_(turns.c.created_at == at, turns.c.id < after)
                wanted = wanted.where(or_(turns.c.created_at < at, older))
            wanted = wanted.order_by(turns.c.created_at.desc(), turns.c.id.desc()).limit(limit + 1)
            rows = (await connection.execute(wanted)).all()
        return page_of([turn_record(row) for row in rows], limit)

    @uninterrupted
    async def asked(self, turn_id: str) -> AskedTurn | None:
        """How a turn was asked for; None where there is no such turn."""
        wanted = select(turns.c.sampling, turns.c.asked, turns.c.model_id).where(turns.c.id == turn_id)
        async with self._database.transaction() as connection:
            row = (await connection.execute(wanted)).one_or_none()
        return None if row is None else AskedTurn(row.sampling, row.asked, row.model_id)

    @uninterrupted
    async def by_ids(self, turn_ids: Sequence[str]) -> list[TurnRecord]:
        """Those of the turns that exist, oldest first."""
        wanted = select(*turns.c).where(turns.c.id.in_(turn_ids)).order_by(turns.c.created_at, turns.c.id)
        async with self._database.transaction() as connection:
            return [turn_record(row) for row in await connection.execute(wanted)]


async def _check_last(connection: AsyncConnection, turn_id: str) -> None:
    """Raises TurnNotContinuable where anything was said after a turn, in its branch or in one that begins there."""
    of_turn = select(items.c.conversation_id, items.c.branch, func.max(items.c.position)).where(
        items.c.turn_id == turn_id, items.c.conversation_id.is_not(None)
    )
    found = (await connection.execute(of_turn.group_by(items.c.conversation_id, items.c.branch))).first()
    if found is None:
        return
    conversation_id, branch, last = found
    later = select(items.c.id).where(
        items.c.conversation_id == conversation_id, items.c.branch == branch, items.c.position > last
    )
    forked = select(branches.c.number).where(
        branches.c.conversation_id == conversation_id, branches.c.parent == branch, branches.c.after >= last
    )
    for wanted in (later, forked):
        if (await connection.execute(wanted.limit(1))).first() is not None:
            raise TurnNotContinuable(NOT_THE_LAST)


async def _open_conversation(connection: AsyncConnection, turn: NewTurn, conversation_id: str) -> None:
    if turn.new_conversation:
        new = {
            "id": conversation_id,
            "owner": turn.owner,
            "created_at": turn.created_at,
            "updated_at": turn.created_at,
            "title": turn.title,
        }
        await connection.execute(insert(conversations).values(new))
        return
    if not await touch(connection, conversation_id, turn.created_at, conversations.c.owner == turn.owner):
        raise ConversationNotFound(
            f"There is no conversation {conversation_id!r}: it was deleted, or the id is wrong. Leave the id out to "
            f"start a new conversation."
        )
    if turn.title is not None:
        untitled = conversations.c.id == conversation_id, conversations.c.title.is_(None)
        await connection.execute(update(conversations).where(*untitled).values(title=turn.title))


async def _append_unsaved(entries: Sequence[JournalEntry], connection: AsyncConnection) -> None:
    """Add what is not saved of those turns that are active."""
    last_saved = select(func.coalesce(func.max(turn_events.c.number), 0)).where(turn_events.c.turn_id == turns.c.id)
    wanted = (
        select(turns.c.id, last_saved.scalar_subquery())
        .where(turns.c.id.in_({entry.turn_id for entry in entries}), active_turn)
        .with_for_update(read=True)
    )
    saved = dict((await connection.execute(wanted)).all())
    await _append_events(connection, entries, saved, datetime.now(UTC))


async def _append_events(
    connection: AsyncConnection, entries: Sequence[JournalEntry], saved: Mapping[str, int], now: datetime
) -> None:
    """Add what the turns in `saved` wrote after the number there."""
    unsaved = [entry.after(saved[entry.turn_id]) for entry in entries if entry.turn_id in saved]
    rows = [
        {
            "turn_id": entry.turn_id,
            "number": entry.last,
            "text": "".join(entry.pieces or ()),
            "token_ids": as_bytes(entry.ids) if entry.ids is not None else None,
            "created_at": now,
        }
        for entry in unsaved
        if entry.first <= entry.last
    ]
    if rows:
        await connection.execute(insert(turn_events), rows)


def _is_second_active_turn(error: IntegrityError) -> bool:
    """PostgreSQL names the index, SQLite its column."""
    message = str(error.orig)
    return ACTIVE_TURN_INDEX in message or "turns.conversation_id" in message
