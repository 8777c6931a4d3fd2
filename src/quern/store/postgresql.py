"""A database on a PostgreSQL server: its connections.

What they get where the URL says nothing else: they give up a server that does not answer, notice one that has gone, and
hold nobody up. Source of the parameters: "Parameter Key Words" and "Client Connection Defaults" in PostgreSQL's
documentation. `locking.py` says what transactions need there.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing, asynccontextmanager
from typing import Any

from sqlalchemy import URL, Connection, event, text
from sqlalchemy.engine.interfaces import ExceptionContext
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.pool import NullPool

from quern.errors import StoreError

POOL_SIZE = 8
"""Connections at most, which are made when they are needed and kept."""

WAIT_SECONDS = 60
"""For a lock that somebody else's transaction has, for a free connection, and for a transaction of ours that stands."""

_DEFAULTS = {
    "application_name": "quern",
    "client_encoding": "utf8",
    "connect_timeout": "10",
    "keepalives_idle": "30",
    "keepalives_interval": "10",
    "keepalives_count": "3",
    "tcp_user_timeout": "30000",
    "options": (
        "-c timezone=UTC "  # which the driver knows without a look into files
        f"-c lock_timeout={WAIT_SECONDS}s -c idle_in_transaction_session_timeout={WAIT_SECONDS}s"
    ),
}

_RELATIONS = """
SELECT relname FROM pg_class
WHERE relnamespace = to_regnamespace(quote_ident(current_schema())) AND relkind IN ('r', 'p', 'v', 'm', 'f')
AND NOT EXISTS (
    SELECT 1 FROM pg_depend WHERE classid = 'pg_class'::regclass AND objid = pg_class.oid AND deptype = 'e'
)
"""

_TRIGGERS = """
SELECT tgname, relname FROM pg_trigger JOIN pg_class ON pg_class.oid = tgrelid
WHERE NOT tgisinternal AND tgenabled <> 'D' AND relnamespace = to_regnamespace(quote_ident(current_schema()))
"""


def create_engine(url: URL, pool_size: int = POOL_SIZE) -> AsyncEngine:
    """An engine for `url`, which connects when it is first used. Blocks: it loads the driver.

    A connection that the server has closed meanwhile is replaced before anything is asked over it.
    """
    missing = {name: value for name, value in _DEFAULTS.items() if name not in url.query}
    engine = create_async_engine(
        url.update_query_dict(missing),
        isolation_level="READ COMMITTED",
        pool_size=pool_size,
        max_overflow=0,
        pool_timeout=WAIT_SECONDS,
        pool_pre_ping=True,
        hide_parameters=True,
    )
    event.listen(engine.sync_engine, "handle_error", _drop_details)
    return engine


def reader(engine: AsyncEngine) -> AsyncEngine:
    """The same connections for transactions that only read, all in one snapshot."""
    return engine.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)


@asynccontextmanager
async def listening(engine: AsyncEngine, channel: str) -> AsyncGenerator[AsyncIterator[str]]:
    """What is said on a channel (NOTIFY), over a connection beside those of the pool, which is closed afterwards.

    Raises SQLAlchemyError.
    """
    listener = create_async_engine(engine.url, isolation_level="AUTOCOMMIT", poolclass=NullPool, hide_parameters=True)
    event.listen(listener.sync_engine, "handle_error", _drop_details)
    async with listener.connect() as connection:
        driver: Any = (await connection.get_raw_connection()).driver_connection
        await connection.exec_driver_sql(f'LISTEN "{channel}"')
        async with aclosing(_payloads(driver)) as payloads:
            yield payloads


async def _payloads(driver: Any) -> AsyncGenerator[str]:
    import psycopg  # noqa: PLC0415 (the driver, which only this database needs)

    try:
        async for said in driver.notifies():
            yield said.payload
    except psycopg.Error as error:
        raise DBAPIError("LISTEN", None, error, connection_invalidated=True) from error


def described(url: URL) -> str:
    """The database that a URL names, for people, without user and password."""
    hosts = url.query.get("host", url.host)
    where = hosts if isinstance(hosts, str | None) else ", ".join(hosts)
    return f"{url.database or url.username} on {where or 'this machine'}"


def relations(connection: Connection) -> Sequence[str]:
    """Tables and views in the schema of the connection, but those of extensions."""
    return connection.execute(text(_RELATIONS)).scalars().all()


def triggers(connection: Connection) -> Sequence[tuple[str, str]]:
    """The names of triggers that are not switched off, each with its table's."""
    return [(name, table) for name, table in connection.execute(text(_TRIGGERS))]


def check_encoding(connection: Connection, where: str) -> None:
    """Raise StoreError for a database that can't hold every character."""
    encoding = connection.exec_driver_sql("SHOW server_encoding").scalar_one()
    if encoding != "UTF8":
        raise StoreError(
            f"The database {where} has the encoding {encoding}, which can't hold every character. Nothing was changed. "
            f"Give Quern one that was made with ENCODING 'UTF8' by the setting store.url."
        )


def _drop_details(context: ExceptionContext) -> None:
    """Leave of an error what its first line says: the others may have the row that was to be stored. That of a data
    exception (class 22) may have a value.
    """
    code = str(getattr(context.original_exception, "sqlstate", None) or "")
    for error in (context.original_exception, context.sqlalchemy_exception):
        if error is not None and error.args:
            first_line = str(error.args[0]).strip().partition("\n")[0]
            error.args = (f"SQLSTATE {code}" if code.startswith("22") else first_line, *error.args[1:])
