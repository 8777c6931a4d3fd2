"""What holds when several transactions change the same at the same time, here or in several servers.

**SQLite** has one connection and one writer: a transaction takes the whole database when it begins (BEGIN IMMEDIATE in
`sqlite.py`), so what it has read can't change under it, and everything here does nothing.

**PostgreSQL** runs many at once. Two kinds of transactions are enough:

- What only reads (`Database.reading`) sees one moment: REPEATABLE READ, READ ONLY. It locks nothing and never fails.
- What writes (`transaction`, `growing`, `urgent`) is READ COMMITTED: a statement sees what was committed when it
  began. So what is read to decide what is written is read after a lock on the row on which it depends, in this order,
  so that two never wait for each other:

  1. the conversation's row, several by their ids. All that changes what is said in a conversation, its branches or
     which of its turns is active, locks it first, by an UPDATE (`turn_ends.touch`) or by `lock_conversation`. Positions
     of items and numbers of branches, which are counted on from the last, are therefore nobody else's. A partial unique
     index has the last word on one active turn for each conversation.
  2. rows of turns, by their ids. Whoever ends, reopens or journals a turn has its row, so that one that was ended is
     not ended or added to again.
  3. all that belongs to turns; keys of requests and rows of usage, which many want, last (`ON CONFLICT`).
  4. at the very end `lock_owner`, before an owner's bytes are summed: so a quota holds to the byte.

  Where two wait in a circle all the same, the server ends one of them, and `Database.urgent` does it again.
  `transaction` and `growing` don't: then nothing is saved, and the caller gets a sentence.

Migrations run one after the other (`lock_schema`): of two servers that start on an empty database one makes it.
Ids are random (UUIDs), so no two servers ever give the same.
"""

from __future__ import annotations

from sqlalchemy import Column, ColumnElement, Table, func, select
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncConnection

from quern.store.ownership import APPLICATION_ID
from quern.store.schema import conversations


async def lock_conversation(connection: AsyncConnection, conversation_id: str) -> None:
    """Keep others from changing a conversation until the transaction is over; nothing where there is none."""
    wanted = select(conversations.c.id).where(conversations.c.id == conversation_id)
    await connection.execute(wanted.with_for_update(key_share=True))


async def lock_rows(connection: AsyncConnection, column: Column[str], *which: ColumnElement[bool]) -> None:
    """Keep others from many rows of a table until the transaction is over; `column` has the ids by which they go."""
    if connection.dialect.name == "postgresql":
        await connection.execute(select(column).where(*which).order_by(column).with_for_update())


async def lock_owner(connection: AsyncConnection, owner: str) -> None:
    """Wait until no other transaction has added up what this owner has, and keep others from it until this one is over.

    Nothing may be locked after it.
    """
    if connection.dialect.name == "postgresql":
        await connection.execute(select(func.pg_advisory_xact_lock(APPLICATION_ID, func.hashtext(owner))))


async def lock_schema(connection: AsyncConnection) -> None:
    """Wait until no other server looks at the schema or changes it; until the transaction is over none does."""
    if connection.dialect.name == "postgresql":
        await connection.execute(select(func.pg_advisory_xact_lock(APPLICATION_ID)))


def insert_into(connection: AsyncConnection, table: Table) -> postgresql.Insert | sqlite.Insert:
    """An INSERT that can say ON CONFLICT, which both databases know, but SQLAlchemy only by dialect."""
    return postgresql.insert(table) if connection.dialect.name == "postgresql" else sqlite.insert(table)
