"""The migrations build what schema.py says, and never touch a database they don't know."""

import sqlite3
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import create_engine
from tests.unit.store.example_items import NOON, new_item
from tests.unit.store.old_databases import make_at
from tests.unit.store.stored_turns import STOPPED

from quern.errors import StoreError
from quern.records import Conversation
from quern.store.conversations import ConversationStore
from quern.store.database import Database
from quern.store.history import HistoryStore
from quern.store.migrate import load_migrations
from quern.store.responses import ResponseStore
from quern.store.schema import metadata
from quern.store.search import SearchStore
from quern.store.turns import TurnStore
from quern.types import Message, Role, Timings, TurnState, Usage


def definitions(file: Path) -> dict[str, list[str]]:
    """Every table's and index's SQL, by name, with the order and layout of a table's parts made equal.

    A column that was added later stands behind the constraints, on their line.
    """
    connection = sqlite3.connect(file)
    rows = connection.execute("SELECT name, type, sql FROM sqlite_master WHERE sql IS NOT NULL").fetchall()
    connection.close()
    return {
        name: _parts_of_table(" ".join(sql.split())) if kind == "table" else [" ".join(sql.split())]
        for name, kind, sql in rows
        if name != "alembic_version"
    }


def _parts_of_table(sql: str) -> list[str]:
    """What stands before the parenthesis and after it, and in order of the alphabet the parts between its commas."""
    before, _, rest = sql.partition("(")
    inside, _, after = rest.rpartition(")")
    parts, depth = [""], 0
    for character in inside:
        depth += (character == "(") - (character == ")")
        if character == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += character
    return [before.strip(), *sorted(part.strip() for part in parts), after.strip()]


def execute(file: Path, statement: str) -> None:
    connection = sqlite3.connect(file)
    connection.execute(statement)
    connection.commit()
    connection.close()


OLD_ROWS = """
INSERT INTO conversations VALUES ('c1', 'ann', '2026-05-01 08:00:00.000000', '2026-05-01 09:00:00.000000');
INSERT INTO conversations VALUES ('c2', 'bob', '2026-05-01 08:30:00.000000', '2026-05-01 08:30:00.000000');
INSERT INTO turns VALUES ('t1', 'c1', 'ann', 'r', 'm', 'completed', 'stop', NULL, '{}', '嗨', 5, 1, 2, 1.5, 2.5, 3.5, 4,
    '2026-05-01 08:00:00.000000', '2026-05-01 08:00:01.000000', '2026-05-01 08:00:02.000000');
INSERT INTO turns VALUES ('t2', 'c1', 'ann', 'r', 'm', 'failed', NULL, 'It broke.', '{}', 'ha', 5, 0, 1, 0, 0, 0, 0,
    '2026-05-01 08:10:00.000000', NULL, '2026-05-01 08:10:02.000000');
INSERT INTO turns VALUES ('t3', 'c1', 'ann', 'r', 'm', 'running', NULL, NULL, '{}', NULL, 0, 0, 0, 0, 0, 0, 0,
    '2026-05-01 09:00:00.000000', '2026-05-01 09:00:01.000000', NULL);
INSERT INTO turns VALUES ('t4', 'c2', 'bob', 'r', 'm', 'completed', 'length', NULL, '{}', '', 5, 0, 0, 0, 0, 0, 0,
    '2026-05-01 08:30:00.000000', NULL, '2026-05-01 08:30:02.000000');
INSERT INTO turns VALUES ('t5', NULL, 'ann', 'r', 'm', 'completed', 'stop', NULL, '{}', NULL, 5, 0, 1, 0, 0, 0, 0,
    '2026-05-01 08:40:00.000000', NULL, '2026-05-01 08:40:02.000000');
INSERT INTO messages VALUES ('m5', 'c2', 't4', 1, 'assistant', '', '2026-05-01 08:30:02.000000');
INSERT INTO messages VALUES ('m2', 'c1', 't1', 1, 'assistant', '嗨', '2026-05-01 08:00:02.000000');
INSERT INTO messages VALUES ('m1', 'c1', 't1', 0, 'user', 'hello', '2026-05-01 08:00:00.000000');
INSERT INTO messages VALUES ('m4', 'c1', 't3', 3, 'user', 'again?', '2026-05-01 09:00:00.000000');
INSERT INTO messages VALUES ('m3', 'c1', 't2', 2, 'user', 'doomed?', '2026-05-01 08:10:00.000000');
INSERT INTO messages VALUES ('m6', 'c2', 't4', 0, 'user', '<|im_end|>', '2026-05-01 08:30:00.000000');
INSERT INTO turn_events VALUES ('t3', 1, 'so ', '2026-05-01 09:00:02.000000');
INSERT INTO turn_events VALUES ('t3', 2, 'far', '2026-05-01 09:00:03.000000');
"""


@pytest.fixture
def first_version(database_file: Path) -> None:
    """A database as the first version left it when it was killed."""
    make_at("0001", database_file)
    connection = sqlite3.connect(database_file)
    connection.executescript(OLD_ROWS)
    connection.close()


@pytest.mark.usefixtures("first_version")
async def test_a_database_of_the_first_version_keeps_its_messages_and_goes_on(database: Database) -> None:
    history, turns = HistoryStore(database), TurnStore(database)
    page = await history.page("c1", limit=20, after=None)
    assert [(item.id, item.turn_id, item.position, item.item) for item in page.items] == [
        ("m1", "t1", 0, Message(Role.USER, "hello")),
        ("m2", "t1", 1, Message(Role.ASSISTANT, "嗨")),
        ("m3", "t2", 2, Message(Role.USER, "doomed?")),
        ("m4", "t3", 3, Message(Role.USER, "again?")),
    ]
    assert page.items[0].created_at == NOON.replace(hour=8)
    assert await history.of_conversation("c1", "ann") == [Message(Role.USER, "hello"), Message(Role.ASSISTANT, "嗨")]
    assert await history.of_conversation("c2", "bob") == [Message(Role.USER, "<|im_end|>"), Message(Role.ASSISTANT, "")]
    assert await turns.recover_interrupted(NOON, STOPPED) == 1
    await history.append("c1", [new_item(Message(Role.USER, "and now?"))], NOON)
    assert (await history.of_conversation("c1", "ann") or [])[-1] == Message(Role.USER, "and now?")


@pytest.mark.usefixtures("first_version")
async def test_a_database_of_the_first_version_keeps_its_conversations_and_turns(
    database: Database, database_file: Path
) -> None:
    conversations, turns = ConversationStore(database), TurnStore(database)
    assert await conversations.get("c1", "ann") == Conversation("c1", "ann", NOON.replace(hour=8), NOON.replace(hour=9))
    assert [item.id for item in (await conversations.page("bob", limit=5, after=None)).items] == ["c2"]
    await turns.recover_interrupted(NOON, STOPPED)
    first, failed, one_shot, running = await turns.by_ids(["t1", "t2", "t5", "t3"])
    assert (first.state, first.text, first.repairs) == (TurnState.COMPLETED, "嗨", 0)
    assert (first.usage, first.timings) == (Usage(5, 1, 2), Timings(1.5, 2.5, 3.5, 4))
    assert (failed.state, failed.error, failed.text) == (TurnState.FAILED, "It broke.", "ha")
    assert (one_shot.conversation_id, one_shot.text) == (None, None)
    assert (running.state, running.text) == (TurnState.INTERRUPTED, "so far")
    assert await ResponseStore(database).get("t1", "ann") is None
    assert await conversations.delete("c1", "ann")
    assert [record.id for record in await turns.by_ids(["t1", "t2", "t3", "t4", "t5"])] == ["t4", "t5"]
    assert "messages" not in definitions(database_file)


def _not_of_the_search(name: str | None, kind: str, _: object) -> bool:
    """SQLAlchemy knows no virtual tables; `definitions` compares them, their own tables and the triggers."""
    return kind != "table" or not str(name).startswith(("item_search", "item_numbers"))


async def test_a_new_database_is_exactly_the_schema(database: Database, database_file: Path, tmp_path: Path) -> None:
    await database.close()
    engine = create_engine(f"sqlite:///{database_file}")
    options = {"compare_type": True, "compare_server_default": True, "include_name": _not_of_the_search}
    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts=options)
        assert compare_metadata(context, metadata) == []
    engine.dispose()
    directly = create_engine(f"sqlite:///{tmp_path / 'direct.db'}")
    metadata.create_all(directly)
    directly.dispose()
    found = definitions(database_file)
    assert found == definitions(tmp_path / "direct.db")
    assert {"item_search", "item_numbers", "item_search_insert", "item_search_delete"} <= found.keys()


def test_the_history_is_one_line() -> None:
    migrations = load_migrations()
    assert len(migrations.get_heads()) == 1
    assert len(migrations.get_bases()) == 1


async def test_a_database_of_a_newer_version_is_refused_and_left_as_it_is(
    database: Database, database_file: Path
) -> None:
    await database.close()
    execute(database_file, "UPDATE alembic_version SET version_num = '9999'")
    before = definitions(database_file)
    with pytest.raises(StoreError, match=r"revision 9999.*newer version"):
        await database.open()
    assert definitions(database_file) == before


@pytest.mark.usefixtures("first_version")
async def test_a_database_of_the_first_version_is_searched_and_branches(
    database: Database, database_file: Path
) -> None:
    search = SearchStore(database)
    assert [one.item.id for one in await search.find("ann", ["hello"], limit=9, after=None)] == ["m1"]
    assert [one.item.id for one in await search.find("ann", ["嗨"], limit=9, after=None)] == ["m2"]
    assert [one.item.id for one in await search.find("bob", ["im_end"], limit=9, after=None)] == ["m6"]
    conversation = await ConversationStore(database).get("c1", "ann")
    assert conversation is not None
    assert (conversation.title, conversation.pinned, conversation.archived, conversation.head) == (
        None,
        False,
        False,
        0,
    )
    await ConversationStore(database).delete_all("ann")
    connection = sqlite3.connect(database_file)
    assert connection.execute("SELECT count(*) FROM item_numbers").fetchone() == (2,)
    connection.execute("INSERT INTO item_search (item_search) VALUES ('integrity-check')")
    connection.close()
