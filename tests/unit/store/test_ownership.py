"""What is Quern's, what is new, and what is refused with which sentence: facts in, verdict out."""

from pathlib import Path

import pytest
from sqlalchemy import create_engine
from tests.unit.store.old_databases import REVISIONS, make_at

from quern.store.inspection import described, expected_at, identified
from quern.store.ownership import (
    APPLICATION_ID,
    Facts,
    Fault,
    Piece,
    Refused,
    Standing,
    judge,
    remedies_at_start,
    whole,
)
from quern.store.schema import metadata

CORE = frozenset({"conversations", "turns", "turn_events", "alembic_version"})
EXPECTED = frozenset(
    {
        whole("conversations"),
        whole("turns"),
        whole("turn_events"),
        Piece("turns", "column error"),
        Piece("turn_events", "column text"),
    }
)
SQLITE = Path("/data/quern.db")


def sqlite(
    tables: frozenset[str], *revisions: str, application_id: int = APPLICATION_ID, lost: frozenset[Piece] = frozenset()
) -> Facts:
    return Facts(application_id, tables, revisions if "alembic_version" in tables else None, EXPECTED - lost)


def server(tables: frozenset[str], *revisions: str, lost: frozenset[Piece] = frozenset()) -> Facts:
    return Facts(None, tables, revisions if "alembic_version" in tables else None, EXPECTED - lost)


@pytest.mark.parametrize(
    ("facts", "standing"),
    [
        (sqlite(CORE, "0009"), Standing.OURS),
        (sqlite(CORE, "0009", application_id=0), Standing.OURS),
        (sqlite(CORE | {"their_notes", "sqlite_stat1"}, "0009"), Standing.OURS),
        (server(frozenset()), Standing.NEW),
        (server(CORE, "0009"), Standing.OURS),
        (server(CORE | {"spatial_ref_sys"}, "0009"), Standing.OURS),
    ],
)
def test_a_whole_database_is_used_and_an_empty_one_of_a_server_is_new(facts: Facts, standing: Standing) -> None:
    assert judge(facts, EXPECTED if facts.revision else None) is standing


FOREIGN = "belongs to another program"
REFUSED = [
    (sqlite(frozenset(), application_id=0x0F055112), Fault.FOREIGN, "application_id is 0x0f055112"),
    (sqlite(CORE, "0009", application_id=1), Fault.FOREIGN, "application_id is 0x00000001"),
    (sqlite(frozenset(), application_id=0), Fault.EMPTY, "without any table"),
    (sqlite(frozenset({"songs"}), application_id=0), Fault.FOREIGN, "(songs)"),
    (sqlite(frozenset("abcdefgh"), application_id=0), Fault.FOREIGN, "(a, b, c, d, e, f and 2 more)"),
    (sqlite(frozenset({"conversations", "users"}), application_id=0), Fault.FOREIGN, "(conversations, users)"),
    (sqlite(frozenset({"alembic_version", "users"}), "0009", application_id=0), Fault.FOREIGN, FOREIGN),
    (sqlite(frozenset({"alembic_version"}), application_id=0), Fault.FOREIGN, FOREIGN),
    (sqlite(frozenset({"alembic_version", "users"}), "ae1027a6acf", application_id=0), Fault.FOREIGN, FOREIGN),
    (sqlite(frozenset()), Fault.BROKEN, "has lost its table alembic_version"),
    (sqlite(CORE - {"alembic_version"}), Fault.BROKEN, "has lost its table alembic_version"),
    (sqlite(CORE - {"alembic_version"}, application_id=0), Fault.BROKEN, "has lost its table alembic_version"),
    (sqlite(CORE), Fault.BROKEN, "empty table alembic_version"),
    (sqlite(CORE, "0008", "0009"), Fault.BROKEN, "2 revisions (0008, 0009)"),
    (sqlite(CORE, "9999"), Fault.NEWER, "revision 9999"),
    (sqlite(CORE, "0009", lost=frozenset({Piece("turns", "column error")})), Fault.BROKEN, "the column error of turns"),
    (
        sqlite(CORE, "0009", lost=frozenset({whole("turn_events"), Piece("turn_events", "column text")})),
        Fault.BROKEN,
        "it lacks the table turn_events, which",
    ),
    (sqlite(CORE, "0009", lost=EXPECTED, application_id=0), Fault.BROKEN, "the table conversations, the table turn"),
    (server(frozenset({"songs"})), Fault.FOREIGN, "(songs)"),
    (server(frozenset({"alembic_version", "songs"}), "0009"), Fault.FOREIGN, "(alembic_version, songs)"),
    (server(CORE - {"alembic_version"}), Fault.BROKEN, "has lost its table alembic_version"),
    (server(CORE), Fault.BROKEN, "empty table alembic_version"),
    (server(CORE, "0001", "0009"), Fault.BROKEN, "2 revisions (0001, 0009)"),
    (server(CORE, "9999"), Fault.NEWER, "revision 9999"),
    (server(CORE, "0009", lost=frozenset({whole("turns")})), Fault.BROKEN, "the table turns"),
]


@pytest.mark.parametrize(("facts", "fault", "words"), REFUSED)
def test_every_other_one_is_refused_with_what_is_wrong_and_what_to_do(facts: Facts, fault: Fault, words: str) -> None:
    verdict = judge(facts, EXPECTED if facts.revision == "0009" else None)
    assert isinstance(verdict, Refused)
    file = None if facts.application_id is None else SQLITE
    sentence = verdict.sentence("The database X", remedies_at_start(file))
    assert (verdict.fault, words in sentence) == (fault, True), sentence
    assert sentence.startswith("The database X ")
    assert "Nothing was changed. " in sentence
    assert sentence.endswith(".")
    if file is None:
        assert "quern restore" not in sentence
        assert "data_dir" not in sentence


@pytest.mark.parametrize("revision", REVISIONS)
@pytest.mark.parametrize("dialect", ["sqlite", "postgresql"])
def test_a_database_as_the_migrations_build_it_lacks_nothing(tmp_path: Path, revision: str, dialect: str) -> None:
    make_at(revision, tmp_path / "x.db")
    engine = create_engine(f"sqlite:///{tmp_path / 'x.db'}")
    with engine.connect() as connection:
        facts = described(connection, identified(connection))
    engine.dispose()
    expected = expected_at(revision, dialect)
    assert expected
    assert (facts.revision, facts.application_id) == (revision, 0)
    assert judge(facts, expected) is Standing.OURS


def test_of_other_databases_is_expected_what_the_schema_has_in_common() -> None:
    expected = expected_at(REVISIONS[-1], "postgresql")
    assert expected is not None
    assert {piece.table for piece in expected} == metadata.tables.keys()
    for table in metadata.tables.values():
        assert {Piece(table.name, f"column {column.name}") for column in table.columns} < expected
        assert {index.name for index in table.indexes} == {
            piece.what.partition("index ")[2].split(" ")[0]
            for piece in expected
            if piece.table == table.name and "index " in piece.what
        }
    assert Piece("items", "foreign key (turn_id) to turns (id) on delete cascade") in expected
    assert Piece("turns", "unique partial index uq_turns_active_conversation (conversation_id)") in expected
    assert not any("trigger" in piece.what for piece in expected)
