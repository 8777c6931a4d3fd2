"""What servers on one PostgreSQL tell each other."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager, suppress

from tests.postgresql import PostgreSQL

from quern.store.announcements import Announcements, Kind, announce
from quern.store.database import Database


class Listener:
    """Hears, and fails at what it is told to fail at."""

    def __init__(self, *, fails_at: str = "") -> None:
        self.heard: list[tuple[Kind, list[str]]] = []
        self._fails_at = fails_at

    def __call__(self, kind: Kind, values: Sequence[str]) -> None:
        self.heard.append((kind, list(values)))
        if self._fails_at in values:
            msg = "not understood"
            raise ValueError(msg)

    async def until(self, count: int) -> None:
        async with asyncio.timeout(20):
            while len(self.heard) < count:
                await asyncio.sleep(0.01)


@asynccontextmanager
async def hearing(postgresql: PostgreSQL, listener: Listener) -> AsyncGenerator[Database]:
    database = Database(postgresql.url(await asyncio.to_thread(postgresql.migrated_database)))
    await database.open()
    task = asyncio.ensure_future(Announcements(database).hear(listener))
    try:
        await listener.until(1)
        yield database
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
        await database.close()


async def test_what_is_announced_in_a_transaction_is_heard_once_that_is_committed(postgresql: PostgreSQL) -> None:
    listener = Listener()
    async with hearing(postgresql, listener) as database:
        async with database.transaction() as connection:
            await announce(connection, Kind.TURNS, ["a", "b"])
            await asyncio.sleep(0.1)
            assert listener.heard == [(Kind.MISSED, [])]
        await listener.until(2)
        assert listener.heard[1] == (Kind.TURNS, ["a", "b"])


async def test_more_than_fits_at_once_is_announced_in_parts_and_keys_without_any(postgresql: PostgreSQL) -> None:
    listener, many = Listener(), [f"{number:0108}" for number in range(200)]
    async with hearing(postgresql, listener) as database:
        announcements = Announcements(database)
        await announcements.announce(Kind.USED, many)
        await announcements.announce(Kind.TURNS)
        await announcements.announce(Kind.KEYS)
        await listener.until(6)
        assert [value for kind, values in listener.heard if kind is Kind.USED for value in values] == many
        assert [kind for kind, _ in listener.heard] == [Kind.MISSED, *[Kind.USED] * 4, Kind.KEYS]


async def test_what_a_server_does_not_understand_keeps_it_from_hearing_nothing_else(postgresql: PostgreSQL) -> None:
    listener = Listener(fails_at="strange")
    async with hearing(postgresql, listener) as database:
        await Announcements(database).announce(Kind.USED, ["strange"])
        postgresql.execute("NOTIFY quern, 'of a kind that nobody knows'", database=str(database.where.split()[0]))
        await Announcements(database).announce(Kind.TURNS, ["a"])
        await listener.until(4)
        assert listener.heard[2:] == [(Kind.MISSED, []), (Kind.TURNS, ["a"])]


async def test_after_a_lost_connection_anything_may_have_been_said(postgresql: PostgreSQL) -> None:
    listener = Listener()
    async with hearing(postgresql, listener) as database:
        postgresql.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid()")
        await listener.until(2)
        await Announcements(database).announce(Kind.TURNS, ["a"])
        await listener.until(3)
        assert listener.heard[1:] == [(Kind.MISSED, []), (Kind.TURNS, ["a"])]
