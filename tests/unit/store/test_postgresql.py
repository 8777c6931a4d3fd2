"""A database on a server: opening it, whose it is, and a sentence for everything that can be wrong with it."""

import asyncio
import logging
import signal
import traceback
from collections.abc import Callable, Iterator

import pytest
from sqlalchemy import text
from tests.postgresql import PostgreSQL
from tests.unit.store.bytes_there import bytes_there
from tests.unit.store.old_databases import REVISIONS
from tests.unit.store.stored_turns import active_turn_of, stored_turn

from quern.errors import DiskFull, StoreError
from quern.store.database import Database
from quern.store.migrate import load_migrations, upgrade
from quern.store.storage import StorageStore
from quern.store.turn_rows import NewTurn, TurnEnd
from quern.store.turns import TurnStore
from quern.store.vacuum import Vacuum, prepare, rebuild

PASSWORD = "hunter2"
PIECES = """
SELECT 'column ' || table_name || '.' || column_name FROM information_schema.columns WHERE table_schema = 'public'
UNION ALL SELECT 'index ' || indexdef FROM pg_indexes WHERE schemaname = 'public'
UNION ALL SELECT 'constraint ' || conname || pg_get_constraintdef(oid) FROM pg_constraint
UNION ALL SELECT 'trigger ' || tgname FROM pg_trigger
"""


async def refusal(url: str) -> str:
    """The sentence with which a database refuses to open; nobody hears of the password."""
    database = Database(url)
    with pytest.raises(StoreError) as refused:
        await database.open()
    await database.close()
    assert PASSWORD not in "".join(traceback.format_exception(refused.value)) + repr(database)
    return str(refused.value)


@pytest.fixture
def name(postgresql: PostgreSQL) -> str:
    """Of an empty database."""
    return postgresql.new_database()


@pytest.fixture
def ann(postgresql: PostgreSQL) -> Iterator[Callable[[str], str]]:
    """URLs for a user who may connect to everything with a password, and owns nothing."""
    hba = postgresql.folder / "data" / "pg_hba.conf"
    before = hba.read_text()
    hba.write_text(f"local all ann scram-sha-256\n{before}")
    postgresql.execute(f"CREATE ROLE ann LOGIN PASSWORD '{PASSWORD}'")
    postgresql.execute("SELECT pg_reload_conf()")
    yield lambda database: postgresql.url(database, "ann", PASSWORD)
    hba.write_text(before)
    postgresql.execute("DROP ROLE ann")


async def test_an_empty_database_is_made_and_found_again(postgresql: PostgreSQL, name: str) -> None:
    for _ in range(2):
        database = Database(postgresql.url(name, password=PASSWORD))
        await database.open()
        assert database.where == f"{name} on {postgresql.folder}"
        assert (database.file, database.named_file, database.embedded) == (None, None, False)
        await database.close()
    [(revision,)] = await asyncio.to_thread(postgresql.execute, "SELECT version_num FROM alembic_version", name)
    assert revision == REVISIONS[-1]


async def test_of_servers_that_start_at_once_on_an_empty_database_one_makes_it(
    postgresql: PostgreSQL, name: str
) -> None:
    several = [Database(postgresql.url(name)) for _ in range(6)]
    await asyncio.gather(*(database.open() for database in several))
    for database in several:
        assert await active_turn_of(database, "c") is None
        await database.close()


async def test_foreign_tables_are_refused_and_left_as_they_are(postgresql: PostgreSQL, name: str) -> None:
    execute = postgresql.execute
    await asyncio.to_thread(
        execute, "CREATE TABLE songs (id serial PRIMARY KEY); CREATE VIEW heard AS TABLE songs", name
    )
    before = await asyncio.to_thread(execute, PIECES, name)
    sentence = await refusal(postgresql.url(name))
    assert "belongs to another program: its tables (heard, songs) are not Quern's. Nothing was changed." in sentence
    assert await asyncio.to_thread(execute, PIECES, name) == before


async def test_what_is_in_other_schemas_is_nobody_s_business(postgresql: PostgreSQL, name: str) -> None:
    await asyncio.to_thread(postgresql.execute, "CREATE SCHEMA other; CREATE TABLE other.conversations ()", name)
    database = Database(postgresql.url(name))
    await database.open()
    await database.close()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("UPDATE alembic_version SET version_num = '9999'", "revision 9999, which this version of Quern doesn't know"),
        ("DELETE FROM alembic_version", "empty table alembic_version"),
        ("DROP TABLE turn_events", "lacks the table turn_events"),
        ("ALTER TABLE turns DROP COLUMN error", "lacks the column error of turns"),
        ("DROP INDEX uq_turns_active_conversation", "lacks the unique partial index uq_turns_active_conversation"),
        ("DROP TRIGGER item_bytes_insert ON items", "lacks the trigger item_bytes_insert of items"),
        ("ALTER TABLE turns DISABLE TRIGGER turn_bytes_update", "lacks the trigger turn_bytes_update of turns"),
        ("ALTER TABLE items DROP CONSTRAINT fk_items_turn_id", "lacks the foreign key (turn_id) to turns (id)"),
    ],
)
async def test_a_newer_or_incomplete_database_is_refused_and_left_as_it_is(
    postgresql: PostgreSQL, change: str, words: str
) -> None:
    name = await asyncio.to_thread(postgresql.migrated_database)
    await asyncio.to_thread(postgresql.execute, change, name)
    before = await asyncio.to_thread(postgresql.execute, PIECES, name)
    sentence = await refusal(postgresql.url(name))
    assert words in sentence
    assert "Nothing was changed." in sentence
    assert "quern restore" not in sentence
    assert await asyncio.to_thread(postgresql.execute, PIECES, name) == before


async def test_a_database_of_any_earlier_version_is_brought_up_to_date(postgresql: PostgreSQL, name: str) -> None:
    database = Database(postgresql.url(name))
    for revision in REVISIONS[:-1]:
        await database.open()
        async with database.transaction() as connection:
            await connection.execute(text("DROP SCHEMA public CASCADE"))
            await connection.execute(text("CREATE SCHEMA public"))
            await connection.run_sync(upgrade, await asyncio.to_thread(load_migrations), revision)
        await database.close()
    await database.open()
    assert await active_turn_of(database, "c") is None
    await database.close()


async def test_a_database_that_cannot_hold_every_character_is_refused(postgresql: PostgreSQL) -> None:
    made = "CREATE DATABASE ascii TEMPLATE template0 ENCODING 'SQL_ASCII' LOCALE_PROVIDER libc LOCALE 'C'"
    await asyncio.to_thread(postgresql.execute, made)
    assert "has the encoding SQL_ASCII" in await refusal(postgresql.url("ascii"))


async def test_a_missing_server_database_or_right_is_named(
    postgresql: PostgreSQL, name: str, ann: Callable[[str], str], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    for url in (
        f"postgresql+psycopg://ann:{PASSWORD}@127.0.0.1:1/quern",
        f"postgresql://ann:{PASSWORD}@/q?host=/nowhere",
    ):
        sentence = await refusal(url)
        assert "can't be reached: connection" in sentence
        assert "Start it, or check host and port" in sentence
    assert "can't be reached" in await refusal(f"postgresql://ann:{PASSWORD}@no.such.host.invalid/quern")
    assert "There is no database missing on " in await refusal(ann("missing"))
    assert "does not let Quern in" in await refusal(postgresql.url(name, "nobody_at_all", PASSWORD))
    assert 'invalid connection option "sslmod"' in await refusal(ann(name) + "&sslmod=require")
    sentence = await refusal(ann(name))
    assert "permission denied for schema public. Make that user the owner" in sentence
    await asyncio.to_thread(postgresql.execute, "ALTER ROLE ann CONNECTION LIMIT 0")
    assert "has no connection left for Quern: connection failed" in await refusal(ann(name))
    await asyncio.to_thread(postgresql.execute, f"ALTER ROLE ann PASSWORD 'other {PASSWORD[::-1]}' CONNECTION LIMIT 5")
    sentence = await refusal(ann(name))
    assert "does not let Quern in" in sentence
    assert "password authentication failed" in sentence
    assert PASSWORD not in caplog.text


async def test_a_read_only_database_says_so(postgresql: PostgreSQL, new_turn: Callable[..., NewTurn]) -> None:
    name = await asyncio.to_thread(postgresql.migrated_database)
    await asyncio.to_thread(postgresql.execute, f"ALTER DATABASE {name} SET default_transaction_read_only = on")
    database = Database(postgresql.url(name))
    await database.open()
    with pytest.raises(StoreError, match=r"is read-only.*target_session_attrs"):
        await TurnStore(database).create(new_turn())
    await database.close()


async def test_a_full_disk_is_a_full_disk(
    postgresql: PostgreSQL, new_turn: Callable[..., NewTurn], ended: Callable[..., TurnEnd]
) -> None:
    name = await asyncio.to_thread(postgresql.migrated_database)
    database = Database(postgresql.url(name))
    await database.open()
    turns, turn = TurnStore(database), new_turn()
    await turns.create(turn)
    full = """
        CREATE FUNCTION full_disk() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
            RAISE EXCEPTION 'could not extend file' USING ERRCODE = 'disk_full';
        END $$;
        CREATE TRIGGER full_disk BEFORE INSERT OR UPDATE ON turns FOR EACH ROW EXECUTE FUNCTION full_disk();
    """
    await asyncio.to_thread(postgresql.execute, full, name)
    for step in (turns.create(new_turn()), turns.finish(ended(turn.id))):
        with pytest.raises(DiskFull, match="The disk of the server that has the database"):
            await step
    await asyncio.to_thread(postgresql.execute, "DROP TRIGGER full_disk ON turns", name)
    assert await turns.finish(ended(turn.id))
    await database.close()


async def test_what_is_stored_is_in_no_log_line_and_no_error(
    postgresql: PostgreSQL, new_turn: Callable[..., NewTurn], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    secret = "-".join(["what", "nobody", "else", "may", "read"])
    database = Database(postgresql.url(await asyncio.to_thread(postgresql.migrated_database)))
    await database.open()
    await TurnStore(database).create(new_turn(prompt=secret))
    for statement in ("UPDATE items SET created_at = NULL", "UPDATE items SET position = CAST(content AS integer)"):
        with pytest.raises(StoreError, match="refused a step") as refused:
            async with database.transaction() as connection:
                await connection.execute(text(statement))
        assert secret not in "".join(traceback.format_exception(refused.value))
        words = 'null value in column "created_at"' if "NULL" in statement else "InvalidTextRepresentation"
        assert words in str(refused.value)
    assert secret not in caplog.text
    await database.close()


async def test_a_connection_that_is_ended_in_a_transaction_is_a_sentence_and_the_next_step_works(
    postgresql: PostgreSQL, new_turn: Callable[..., NewTurn]
) -> None:
    name = await asyncio.to_thread(postgresql.migrated_database)
    database = Database(postgresql.url(name), pool_size=2)
    await database.open()
    turn = new_turn()
    end = f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}'"

    async def ended_in_between() -> None:
        async with database.transaction() as connection:
            await connection.execute(text("DELETE FROM turns"))
            await asyncio.to_thread(postgresql.execute, end)
            await connection.execute(text("DELETE FROM conversations"))

    with pytest.raises(StoreError, match=r"broke off.*new connection"):
        await ended_in_between()
    await TurnStore(database).create(turn)
    await asyncio.to_thread(postgresql.execute, end)
    assert await stored_turn(TurnStore(database), turn.id) is not None
    await database.close()


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGQUIT])
async def test_while_the_server_is_gone_every_step_is_a_sentence_and_once_it_is_back_they_work(
    postgresql: PostgreSQL, how: signal.Signals, new_turn: Callable[..., NewTurn], ended: Callable[..., TurnEnd]
) -> None:
    database = Database(postgresql.url(await asyncio.to_thread(postgresql.migrated_database)))
    await database.open()
    turns, turn = TurnStore(database), new_turn()
    await turns.create(turn)

    async def stopped_in_between() -> None:
        async with database.transaction() as connection:
            await connection.execute(text("UPDATE turns SET error = 'x'"))
            await asyncio.to_thread(postgresql.stop, how)
            await connection.execute(text("UPDATE turns SET error = 'y'"))

    try:
        with pytest.raises(StoreError, match="broke off"):
            await stopped_in_between()
        for _ in range(2):
            with pytest.raises(StoreError, match="can't be reached"):
                await turns.finish(ended(turn.id))
    finally:
        postgresql.start()
    found = await stored_turn(turns, turn.id)
    assert found is not None
    assert found.error is None
    assert await turns.finish(ended(turn.id))
    await database.close()


async def test_a_dump_is_restored_and_goes_on_counting(
    postgresql: PostgreSQL, name: str, new_turn: Callable[..., NewTurn], ended: Callable[..., TurnEnd]
) -> None:
    before = await asyncio.to_thread(postgresql.migrated_database)
    database, turn = Database(postgresql.url(before)), new_turn(prompt="ä")
    await database.open()
    await TurnStore(database).create(turn)
    await database.close()
    where = ("--host", str(postgresql.folder), "--username", "quern")
    dump = await asyncio.to_thread(postgresql.run, "pg_dump", *where, "--format", "custom", before)
    restore = ("pg_restore", *where, "--no-owner", "--exit-on-error", "--dbname", name)
    await asyncio.to_thread(postgresql.run, *restore, stdin=dump)
    database = Database(postgresql.url(name))
    await database.open()
    await TurnStore(database).finish(ended(turn.id, text="ö"))
    assert await StorageStore(database).by_owner() == await bytes_there(database) == {"ann": 6}
    await database.close()


async def test_steps_wait_for_a_connection_when_there_are_few(
    postgresql: PostgreSQL, new_turn: Callable[..., NewTurn]
) -> None:
    name = await asyncio.to_thread(postgresql.migrated_database)
    database = Database(postgresql.url(name), pool_size=2)
    await database.open()
    several = [new_turn() for _ in range(20)]
    await asyncio.gather(*(TurnStore(database).create(turn) for turn in several))
    count = f"SELECT count(*) FROM pg_stat_activity WHERE datname = '{name}' AND application_name = 'quern'"
    assert await asyncio.to_thread(postgresql.execute, count) == [(2,)]
    assert len(await TurnStore(database).by_ids([turn.id for turn in several])) == 20
    await database.close()


async def test_what_is_sqlite_s_is_not_done(postgresql: PostgreSQL) -> None:
    database = Database(postgresql.url(await asyncio.to_thread(postgresql.migrated_database)), reserve_bytes=2**20)
    await asyncio.to_thread(database.claim)
    await database.open()
    await prepare(database)
    assert await Vacuum(database).give_back() == 0
    assert database.reserve.whole
    with pytest.raises(StoreError, match="autovacuum"):
        await rebuild(database)
    await database.close()
