"""What servers that share a PostgreSQL database tell each other (NOTIFY), so that nobody has to look all the time.

Nothing depends on an announcement: who misses one finds what has changed by looking, a little later. One that is made
in a transaction is heard when that is committed, by the server that made it, too.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator, Sequence
from enum import StrEnum
from typing import Any, cast

import structlog
from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncConnection

from quern.errors import StoreError
from quern.store.database import Database
from quern.store.uninterrupted import uninterrupted

log = structlog.get_logger(__name__)

CHANNEL = "quern"
MOST_AT_ONCE = 60
"""So many values, none of them longer than three UUIDs, are less than the 8000 bytes that PostgreSQL takes at once."""
RETRY_SECONDS = 1.0


class Kind(StrEnum):
    """What an announcement is about, and what its values are."""

    TURNS = "turns"
    """These turns have written more, or have ended."""
    CANCEL = "cancel"
    """Whoever runs these turns is to cancel them."""
    USED = "used"
    """What owners used at a server in the last second, and run there, as `turns/shared_use.py` writes it."""
    KEYS = "keys"
    """Keys were changed. No values."""
    MISSED = "missed"
    """Nobody says this: there was no connection for a while, so anything may have been said. No values."""


Heard = Callable[[Kind, Sequence[str]], None]


async def announce(connection: AsyncConnection, kind: Kind, values: Sequence[str] = ()) -> None:
    """Tell every server, once the caller's transaction is committed. An SQLite database has no others."""
    if connection.dialect.name != "postgresql":
        return
    for said in _payloads(kind, values):
        await connection.execute(select(func.pg_notify(CHANNEL, said)))


class Announcements:
    """Makes and hears announcements, where the database is one that servers share."""

    def __init__(self, database: Database) -> None:
        self._database = database

    @uninterrupted
    async def announce(self, kind: Kind, values: Sequence[str] = ()) -> None:
        """Tell every server. Raises StoreError."""
        async with self._database.transaction() as connection:
            await announce(connection, kind, values)

    async def hear(self, heard: Heard) -> None:
        """Call `heard` with each announcement, over a connection of its own, until cancelled."""
        while True:
            try:
                async with self._database.listening(CHANNEL) as payloads:
                    heard(Kind.MISSED, ())
                    async for payload in payloads:
                        _tell(heard, payload)
            except StoreError as error:
                log.warning("announcements_not_heard", error=str(error))
            await asyncio.sleep(RETRY_SECONDS)


def _tell(heard: Heard, payload: str) -> None:
    kind, values = _read(payload)
    try:
        heard(kind, values)
    except Exception as error:  # noqa: BLE001 (a newer server may say it otherwise, and what comes next is to be heard)
        log.warning("announcement_not_understood", kind=kind, error=repr(error))


def _payloads(kind: Kind, values: Sequence[str]) -> Iterator[str]:
    """As few as there can be; one where there are no values and none are expected, none of an empty list of turns."""
    if kind is Kind.KEYS:
        yield json.dumps([kind.value, []])
    for start in range(0, len(values), MOST_AT_ONCE):
        yield json.dumps([kind.value, list(values[start : start + MOST_AT_ONCE])])


def _read(payload: str) -> tuple[Kind, list[str]]:
    """What was announced; by a newer server, of a kind that is not known here, anything."""
    try:
        kind, values = cast("list[Any]", json.loads(payload))
        return Kind(kind), [str(value) for value in values]
    except ValueError:
        return Kind.MISSED, []
