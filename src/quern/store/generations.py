"""What it takes to tell a turn's answer again, and to go on with it: its plan, its prompt's ids and its answer's.

It is there while a turn is active and for a while after its end, not shorter than a key names the turn; a prompt only
as long as its answer may go on.
"""

from __future__ import annotations

import json
import sys
import zlib
from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from sqlalchemy import delete, insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from quern.store.database import Database
from quern.store.idempotency import keyed_until
from quern.store.schema import generations, turn_events
from quern.store.uninterrupted import uninterrupted


@dataclass(frozen=True, slots=True)
class GenerationRecord:
    """`plan`: all else that the turn was made of, as JSON. `prompt`: None where the answer can't go on any more.
    `generated`: the ids of the answer so far, those that ended earlier lives of the turn left out. `logprobs`: what is
    known of the probabilities of the last of them, as JSON.
    """

    plan: dict[str, Any]
    prompt: tuple[int, ...] | None
    generated: tuple[int, ...]
    logprobs: list[Any] = field(default_factory=list[Any])


@dataclass(frozen=True, slots=True)
class GenerationEnd:
    """What is kept of a generation that has ended, until when; None is as long as its turn. `goes_on`: whether it can
    go on later. `logprobs`: of the last of its tokens, as JSON.
    """

    generated: Sequence[int]
    goes_on: bool
    expires_at: datetime | None
    logprobs: Sequence[Any] = ()


class GenerationStore:
    """Reads and forgets generations. Every method raises StoreError where the database can't be used."""

    def __init__(self, database: Database) -> None:
        self._database = database

    @uninterrupted
    async def get(self, turn_id: str) -> GenerationRecord | None:
        """A turn's generation; None where it was not kept, or not for so long."""
        table = generations.c
        wanted = select(table.plan, table.prompt, table.generated, table.logprobs)
        async with self._database.transaction() as connection:
            row = (await connection.execute(wanted.where(table.turn_id == turn_id))).one_or_none()
        if row is None:
            return None
        prompt = unpacked(row.prompt) if row.prompt is not None else None
        logprobs: list[Any] = json.loads(zlib.decompress(row.logprobs)) if row.logprobs is not None else []
        return GenerationRecord(row.plan, prompt, unpacked(row.generated), logprobs)

    @uninterrupted
    async def forget(self, now: datetime) -> int:
        """Delete those whose time is over; how many there were."""

        async def step(connection: AsyncConnection) -> int:
            return (await connection.execute(delete(generations).where(generations.c.expires_at <= now))).rowcount

        forgotten = await self._database.urgent(step)
        if forgotten:
            self._database.freed.set()
        return forgotten


async def add_generation(connection: AsyncConnection, turn_id: str, plan: dict[str, Any], prompt: bytes) -> None:
    """Keep what a new turn is made of. `prompt`: packed."""
    row = {"turn_id": turn_id, "plan": plan, "prompt": prompt, "generated": packed(())}
    await connection.execute(insert(generations).values(row))


async def end_generation(connection: AsyncConnection, turn_id: str, end: GenerationEnd | None) -> None:
    """Keep the whole answer; without an `end` nothing is kept."""
    which = generations.c.turn_id == turn_id
    if end is None:
        await connection.execute(delete(generations).where(which))
        return
    expires_at = await _not_before_its_key(connection, turn_id, end.expires_at)
    kept: dict[str, Any] = {"generated": packed(end.generated), "expires_at": expires_at}
    if end.logprobs:
        kept["logprobs"] = zlib.compress(json.dumps(end.logprobs).encode(), 1)
    if not end.goes_on:
        kept["prompt"] = None
    await connection.execute(update(generations).where(which).values(kept))


async def end_lost_generation(
    connection: AsyncConnection, turn_id: str, expires_at: datetime | None, *, goes_on: bool
) -> None:
    """Keep what the journal has of an answer that was lost, until when; None is as long as its turn."""
    which = generations.c.turn_id == turn_id
    kept = (await connection.execute(select(generations.c.generated).where(which))).scalar_one_or_none()
    if kept is None:
        return
    journal = select(turn_events.c.token_ids).where(turn_events.c.turn_id == turn_id).order_by(turn_events.c.number)
    rows = (await connection.execute(journal)).scalars()
    generated = (*unpacked(kept), *(token for row in rows if row is not None for token in from_bytes(row)))
    until = await _not_before_its_key(connection, turn_id, expires_at)
    values: dict[str, Any] = {"generated": packed(generated), "expires_at": until}
    if not goes_on:
        values["prompt"] = None
    await connection.execute(update(generations).where(which).values(values))


async def reopen_generation(connection: AsyncConnection, turn_id: str, plan: dict[str, Any]) -> None:
    """Keep it for as long as its turn runs, under another plan."""
    await connection.execute(
        update(generations).where(generations.c.turn_id == turn_id).values(plan=plan, expires_at=None)
    )


async def _not_before_its_key(
    connection: AsyncConnection, turn_id: str, expires_at: datetime | None
) -> datetime | None:
    known = await keyed_until(connection, turn_id)
    return max(expires_at, known) if expires_at is not None and known is not None else expires_at


def packed(ids: Iterable[int]) -> bytes:
    """Token ids, many of them, deflated (RFC 1950)."""
    return zlib.compress(as_bytes(ids), 1)


def unpacked(kept: bytes) -> tuple[int, ...]:
    """The ids again."""
    return from_bytes(zlib.decompress(kept))


def as_bytes(ids: Iterable[int]) -> bytes:
    """Token ids as little-endian 32-bit numbers."""
    numbers = array("I", ids)
    if sys.byteorder == "big":
        numbers.byteswap()
    return numbers.tobytes()


def from_bytes(kept: bytes) -> tuple[int, ...]:
    """The ids again."""
    numbers = array("I")
    numbers.frombytes(kept)
    if sys.byteorder == "big":
        numbers.byteswap()
    return tuple(numbers)
