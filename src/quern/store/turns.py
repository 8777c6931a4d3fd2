"""Turns: their life from queued to exactly one terminal state, and the journal of the text so far."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from functools import partial

from sqlalchemy import ColumnElement, and_, bindparam, delete, func, insert, or_, select, true, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection

from quern.errors import ConversationBusy, ConversationNotFound, TurnNotContinuable
from quern.records import Page, TurnRecord, page_of, unknown_cursor
from quern.store.announcements import Kind, announce
from quern.store.branches import open_branch
from quern.store.database import Database
from quern.store.generations import (
    add_generation,
    as_bytes,
    reopen_generation,
)
from quern.store.idempotency import claim_key
from quern.store.instances import bury, runs_here, without_server
from quern.store.items import append_items, check_storable
from quern.store.locking import lock_conversation
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
    """Writes turns, each step in one transaction. Every method raises StoreError where the database can't be used.

    `instance_id`: the server's that runs them, where there may be others on the same database (`instances.py`).
    """

    def __init__(self, database: Database, instance_id: str | None = None) -> None:
        self._database = database
        self._instance_id = instance_id

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
                await connection.execute(insert(turns).values(queued_columns(turn, branch, self._instance_id)))
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
            await _append_unsaved(entries, runs_here(self._instance_id), connection, started)

    @uninterrupted
    async def append_left(self, entries: Sequence[JournalEntry]) -> None:
        """The same of what a killed server left in its file, also where the disk is full."""
        await self._database.urgent(partial(_append_unsaved, entries, runs_here(self._instance_id)))

    @uninterrupted
    async def finish(self, end: TurnEnd) -> bool:
        """Store how the turn ended, and its answer if it is complete. Its journal goes.

        False, and only the usage counts, if the conversation or response was deleted. Raises TurnAlreadyEnded if it has
        ended before, or another server runs it by now: it keeps that.
        """
        return await self._database.urgent(partial(finish_turn, end, runs_here(self._instance_id)))

    @uninterrupted
    async def recover_interrupted(self, now: datetime, error: str, expires_at: datetime | None = None) -> int:
        """Mark every turn that a stopped server left queued or running as interrupted, with this sentence; how many
        there were.

        Each keeps the text that its journal holds, and counts as a request in what its owner has used; what it has cost
        nobody knows any more. Until `expires_at` it can go on, a response in the background always; without that
        nothing can. Where there is one server only, to be called at start, before any turn: it takes every active turn
        for a lost one. Where there are others, those whose lease has run out have stopped.
        """
        lost = true()
        if self._instance_id is not None:
            await self._database.urgent(bury)
            lost = without_server()
        return await self._database.urgent(partial(recover_turns, now, error, expires_at, lost))

    @uninterrupted
    async def reopen(self, turn: ReopenedTurn) -> None:
        """Make a turn that has ended a queued one again; an answer that it has is taken out of its conversation.

        Raises ConversationBusy while another turn of the conversation is active, TurnNotContinuable where it has ended
        otherwise by now, or where the conversation went on after it.
        """
        async with self._database.growing() as connection:
            await _lock_conversation_of(connection, turn.id)
            await _check_last(connection, turn.id)
            reopened = {"state": TurnState.QUEUED, "finish_reason": None, "error": None, "finished_at": None}
            values = {
                **reopened,
                "text": turn.text,
                "sampling": asdict(turn.sampling),
                "instance": self._instance_id,
            }
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
            await announce(connection, Kind.TURNS, [turn.id])

    @uninterrupted
    async def interrupted(self, error: str, *, conversations_only: bool) -> list[TurnRecord]:
        """Everybody's turns that were interrupted with this sentence and can go on, the oldest first."""
        kept = select(generations.c.turn_id).where(generations.c.prompt.is_not(None))
        wanted = select(*turns.c).where(
            turns.c.state == TurnState.INTERRUPTED, turns.c.error == error, turns.c.id.in_(kept)
        )
        if conversations_only:
            wanted = wanted.where(turns.c.conversation_id.is_not(None))
        async with self._database.reading() as connection:
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
        async with self._database.reading() as connection:
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
        async with self._database.reading() as connection:
            row = (await connection.execute(wanted)).one_or_none()
        return None if row is None else AskedTurn(row.sampling, row.asked, row.model_id)

    @uninterrupted
    async def by_ids(self, turn_ids: Sequence[str]) -> list[TurnRecord]:
        """Those of the turns that exist, oldest first."""
        wanted = select(*turns.c).where(turns.c.id.in_(turn_ids)).order_by(turns.c.created_at, turns.c.id)
        async with self._database.reading() as connection:
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


async def _lock_conversation_of(connection: AsyncConnection, turn_id: str) -> None:
    wanted = select(turns.c.conversation_id).where(turns.c.id == turn_id)
    conversation_id = (await connection.execute(wanted)).scalar_one_or_none()
    if conversation_id is not None:
        await lock_conversation(connection, conversation_id)


async def _append_unsaved(
    entries: Sequence[JournalEntry],
    ours: ColumnElement[bool],
    connection: AsyncConnection,
    started: Mapping[str, datetime] = NOTHING_STARTED,
) -> None:
    """Add what is not saved of those turns that are active and `ours`, and note which of them have started."""
    written = {entry.turn_id for entry in entries}
    wanted = (
        select(turns.c.id).where(turns.c.id.in_(sorted({*written, *started})), active_turn, ours).order_by(turns.c.id)
    )
    active = (await connection.execute(wanted.with_for_update(key_share=True))).scalars().all()
    begun = [{"begun": turn_id, "at": started[turn_id]} for turn_id in active if turn_id in started]
    if begun:
        await connection.execute(_begin, begun)
    last = select(turn_events.c.turn_id, func.max(turn_events.c.number)).group_by(turn_events.c.turn_id)
    saved = dict((await connection.execute(last.where(turn_events.c.turn_id.in_(active)))).all())
    known = {turn_id: saved.get(turn_id, 0) for turn_id in active if turn_id in written}
    await _append_events(connection, entries, known, datetime.now(UTC))
    await announce(connection, Kind.TURNS, sorted(known))


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
