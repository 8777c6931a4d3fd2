"""`quern keys` and `quern usage` on a data directory on which no server runs."""

from __future__ import annotations

import asyncio
import csv
import io
import json
import re
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import typer
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.cli.command import Command
from typer.testing import CliRunner

from quern.cli import usage as usage_command
from quern.cli.keys import expiry, keys
from quern.config import Settings
from quern.errors import ConfigError, KeyNotFound, ServerRefused, StoreError
from quern.records import UsageRecord
from quern.store.database import Database
from quern.store.sqlite import claim
from quern.store.usage import UsageStore

app = typer.Typer()
app.add_typer(keys, name="keys")
app.command("usage")(usage_command.usage)

NOW = datetime(2026, 11, 28, 12, tzinfo=UTC)
WRONG_NAMES = (
    *("", " ", ".", "..", "/", "anna/rotate", "anna/adopt", "../../v1/usage"),
    *("nobody", "%61nna", "anna?x=1", "anna#", "ANNA"),
)
WRONG_EXPIRIES = (
    *("", "d", "h", "soon", "90", "90x", "1.5d", "-5d", "0d", "9" * 400 + "d", "9999999d", "next week", "\u0663d"),
    *("2027-13-01", "0001-01-01", "2027-02-30", "9999-12-31T23:59:59-14:00"),
)
KEY = re.compile(r"quern_[0-9A-Za-z]{10}_[0-9A-Za-z]{43}")


class Quern:
    """The commands on one data directory."""

    def __init__(self, data_dir: Path) -> None:
        self.data_dir = data_dir

    def __call__(self, *arguments: str) -> str:
        """What a command writes to standard output. Raises what the command raised."""
        return CliRunner().invoke(app, _before_names(arguments, str(self.data_dir)), catch_exceptions=False).stdout

    def keys(self) -> dict[str, Any]:
        """All keys by name."""
        return {key["name"]: key for key in json.loads(self("keys", "list", "--json"))}


def _before_names(arguments: tuple[str, ...], data_dir: str) -> list[str]:
    """The command line with the data directory's option, which comes before `--`."""
    end = arguments.index("--") if "--" in arguments else len(arguments)
    return [*arguments[:end], "--data-dir", data_dir, *arguments[end:]]


@pytest.fixture
def quern(tmp_path: Path) -> Quern:
    return Quern(tmp_path)


def test_a_new_key_is_the_only_thing_on_standard_output(quern: Quern) -> None:
    assert KEY.fullmatch(quern("keys", "create", "anna").removesuffix("\n"))


def test_json_has_the_key_and_all_that_is_known_of_it(quern: Quern) -> None:
    options = ("--note", "her editor", "--role", "admin", "--weight", "2", "--expires", "90d", "--json")
    made = json.loads(quern("keys", "create", "anna", *options))
    assert KEY.fullmatch(made["key"])
    assert (made["name"], made["note"], made["role"], made["weight"]) == ("anna", "her editor", "admin", 2)
    left = datetime.fromisoformat(made["expires_at"]) - datetime.now(UTC)
    assert timedelta(days=89) < left <= timedelta(days=90)
    [shown] = quern.keys().values()
    assert "key" not in shown
    assert made["key"].rsplit("_", 1)[1] not in json.dumps(shown)


def test_an_empty_list_says_what_to_do(quern: Quern) -> None:
    assert "quern keys create" in quern("keys", "list")
    assert quern("keys", "list", "--json").strip() == "[]"


def test_a_key_lives_through_all_commands(quern: Quern) -> None:
    first = quern("keys", "create", "anna")
    assert "turns_at_once 2" in quern("keys", "limit", "anna", "--turns-at-once", "2", "--tokens-per-day", "1000")
    quern("keys", "limit", "anna", "--tokens-per-day", "0", "--weight", "3")
    assert quern.keys()["anna"]["limits"] == {"turns_at_once": 2, "tokens_per_day": 0}
    assert quern.keys()["anna"]["weight"] == 3
    assert "anne" in quern("keys", "change", "anna", "--name", "anne", "--note", "renamed", "--role", "admin")
    second = quern("keys", "rotate", "anne")
    assert first.split("_")[1] == second.split("_")[1]
    assert first != second
    assert quern("keys", "adopt", "anne").startswith("0 conversations")
    key_id = quern.keys()["anne"]["id"]
    assert "is revoked" in quern("keys", "revoke", key_id)
    assert quern.keys()["anne"]["revoked_at"] is not None
    table = quern("keys", "list")
    assert "revoked" in table
    assert "renamed" in table
    acts = [entry["action"] for entry in json.loads(quern("keys", "audit", "--json"))]
    assert acts == [f"keys.{act}" for act in ("revoke", "adopt", "rotate", "change", "change", "change", "create")]
    assert len(quern("keys", "audit", "--number", "2").splitlines()) == 2


@pytest.mark.parametrize("name", ["[red]", "[bold]x", "[link=x]y[", ":smile:", "名前", "a  b", "100%", "-"])
def test_names_are_shown_as_they_are(quern: Quern, name: str) -> None:
    quern("keys", "create", "--note", "[/b] :bomb: [red]", "--", name)
    table = quern("keys", "list")
    assert name in table
    assert "[/b]" in table
    assert ":bomb:" in table
    quern("keys", "revoke", "--", name)
    assert name in quern("keys", "audit")


@pytest.mark.parametrize("key", WRONG_NAMES)
def test_what_is_no_key_changes_none(quern: Quern, key: str) -> None:
    quern("keys", "create", "anna")
    before = quern.keys()
    for command in (("revoke",), ("rotate",), ("adopt",), ("limit",), ("change", "--name", "mallory")):
        with pytest.raises((KeyNotFound, ServerRefused), match="no key"):
            quern("keys", command[0], *command[1:], "--", key)
    assert quern.keys() == before


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("create", "anna"), "already"),
        (("create", "Anna"), "looks the same"),
        (("create", ""), "1 to 64"),
        (("create", "local"), "server's own"),
        (("create", "x" * 65), "64"),
        (("create", "ben", "--weight", "0"), "weight"),
        (("create", "ben", "--weight", "nan"), "weight"),
        (("create", "ben", "--weight", "inf"), "weight"),
        (("limit", "anna", "--tokens-per-day", "9" * 25), "tokens_per_day"),
        (("limit", "anna", "--tokens-per-day", "-1"), "--tokens-per-day takes a number"),
        (("limit", "anna", "--turns-at-once", "none"), "--turns-at-once takes a number"),
        (("limit", "anna", "--requests-per-minute", "١"), "--requests-per-minute takes a number"),
        (("change", "anna", "--expires", "Never again"), "`never`"),
        (("create", "ben", "--note", "\x1b[2J"), "note"),
    ],
)
def test_what_cannot_be_is_refused_with_a_sentence(quern: Quern, arguments: tuple[str, ...], told: str) -> None:
    quern("keys", "create", "anna")
    with pytest.raises((ServerRefused, ConfigError), match=told):
        quern("keys", *arguments)
    assert list(quern.keys()) == ["anna"]


@pytest.mark.parametrize(
    ("text", "at"),
    [
        ("90d", NOW + timedelta(days=90)),
        ("12h", NOW + timedelta(hours=12)),
        ("2027-01-31T10:00:00+02:00", datetime(2027, 1, 31, 8, tzinfo=UTC)),
        ("2027-01-31T10:00:00Z", datetime(2027, 1, 31, 10, tzinfo=UTC)),
        ("2027-01-31", datetime(2027, 1, 31).astimezone()),
        ("20270131", datetime(2027, 1, 31).astimezone()),
    ],
)
def test_expiries_are_dates_times_or_durations(text: str, at: datetime) -> None:
    assert expiry(text, NOW) == at


@pytest.mark.parametrize("text", WRONG_EXPIRIES)
def test_what_is_no_expiry_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="--expires"):
        expiry(text, NOW)


@given(st.text(max_size=12))
def test_any_text_is_an_expiry_or_a_sentence(text: str) -> None:
    with suppress(ConfigError):
        assert expiry(text, NOW).utcoffset() is not None


def test_a_key_that_expired_is_listed_as_such(quern: Quern) -> None:
    quern("keys", "create", "old", "--expires", "2020-01-01")
    quern("keys", "create", "new", "--expires", "2999-06-01T12:00:00Z")
    lines = {line.split()[0]: line for line in quern("keys", "list").splitlines() if line.split()}
    assert "expired" in lines["old"]
    assert "until 2999-06-01" in lines["new"]


def test_an_expiry_can_be_changed_and_removed(quern: Quern) -> None:
    quern("keys", "create", "anna", "--expires", "2020-01-01", "--note", "hers")
    assert "expires at 2999-06-01T12:00:00+00:00" in quern("keys", "change", "anna", "--expires", "2999-06-01T12:00Z")
    quern("keys", "change", "anna", "--weight", "2")
    assert quern.keys()["anna"]["expires_at"] == "2999-06-01T12:00:00+00:00", "what is not named stays"
    assert "never expires" in quern("keys", "change", "anna", "--expires", "never")
    assert (quern.keys()["anna"]["expires_at"], quern.keys()["anna"]["note"]) == (None, "hers")
    assert "expires_at=-" in quern("keys", "audit", "--number", "1")
    quern("keys", "create", "ben", "--expires", "never")
    assert quern.keys()["ben"]["expires_at"] is None


def test_a_limit_can_be_what_the_settings_say_again(quern: Quern) -> None:
    quern("keys", "create", "anna")
    quern("keys", "limit", "anna", "--tokens-per-day", "5", "--turns-at-once", "2")
    quern("keys", "limit", "anna", "--tokens-per-day", "default")
    assert quern.keys()["anna"]["limits"] == {"turns_at_once": 2}
    assert "as the settings say" in quern("keys", "limit", "anna", "--turns-at-once", "default")


def use(data_dir: Path, *used: UsageRecord) -> None:
    async def add() -> None:
        database = Database(Settings(data_dir=data_dir).database_url)
        await database.open()
        for record in used:
            await UsageStore(database).add(record)
        await database.close()

    asyncio.run(add())


def test_usage_is_a_table_csv_or_json(quern: Quern) -> None:
    assert "Nothing was used" in quern("usage")
    made = json.loads(quern("keys", "create", "anna, the first", "--json"))
    today = datetime.now(UTC).date()
    use(
        quern.data_dir,
        UsageRecord(today, made["id"], "m", 3, 1234567, 200, 30, 4500.0),
        UsageRecord(today, "anonymous", "m", 1, 1, 0, 1, 10.0),
        UsageRecord(today - timedelta(days=3), made["id"], "m", 5, 10, 0, 10, 100.0),
    )
    table = quern("usage")
    assert "1,234,567" in table
    assert "anna, the first" in table
    rows = list(csv.DictReader(io.StringIO(quern("usage", "--csv"))))
    assert [row["requests"] for row in rows] == ["5", "3", "1"] or len(rows) == 3
    assert {row["key"] for row in rows} == {"anna, the first", "anonymous"}
    assert {row["key_id"] for row in rows} == {made["id"], "anonymous"}
    assert sum(float(row["compute_seconds"]) for row in rows) == pytest.approx(4.61)
    assert len(json.loads(quern("usage", "--json", "--days", "1"))) == 2
    assert len(json.loads(quern("usage", "--json", "--days", "4"))) == 3
    for named in ("anna, the first", made["id"]):
        assert len(json.loads(quern("usage", "--json", "--key", named))) == 2
    assert list(csv.reader(io.StringIO(quern("usage", "--csv", "--key", "nobody"))))[1:] == []


def test_a_data_directory_that_cannot_be_used_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(StoreError, match="can't be opened"):
        Quern(tmp_path / "file")("keys", "create", "anna")


def test_a_database_that_is_none_is_told_and_left_alone(quern: Quern) -> None:
    (quern.data_dir / "quern.db").write_bytes(b"not a database, but somebody's file" * 100)
    with pytest.raises(StoreError):
        quern("keys", "create", "anna")
    assert (quern.data_dir / "quern.db").read_bytes().startswith(b"not a database")


def test_the_command_exits_with_a_sentence_and_a_code(command: Command, tmp_path: Path) -> None:
    folder = ("--data-dir", str(tmp_path / "data"))
    made = command.run("keys", "create", "anna", *folder)
    assert (made.returncode, bool(KEY.fullmatch(made.stdout.decode().strip()))) == (0, True)
    assert b"shown this once" in made.stderr
    again = command.run("keys", "create", "anna", *folder)
    assert (again.returncode, again.stdout) == (1, b"")
    assert b"already" in again.stderr
    assert b"Traceback" not in again.stderr
    wrong = command.run("keys", "create", "ben", "--expires", "soon", *folder)
    assert wrong.returncode == 2
    assert b"--expires" in wrong.stderr


def test_of_two_processes_that_make_the_first_keys_at_once_one_waits_for_the_other(
    command: Command, tmp_path: Path
) -> None:
    folder = ("--data-dir", str(tmp_path / "data"))
    with (
        command.started("keys", "create", "anna", *folder) as one,
        command.started("keys", "create", "ben", *folder) as two,
    ):
        ended = [(process, *process.communicate(timeout=60)) for process in (one, two)]
    for process, out, told in ended:
        assert process.returncode == 0, told
        assert KEY.fullmatch(out.decode().strip())
    listed = json.loads(command.run("keys", "list", "--json", *folder).stdout)
    assert {key["name"] for key in listed} == {"anna", "ben"}


def test_a_command_gives_up_with_a_sentence_where_the_database_stays_in_use(command: Command, tmp_path: Path) -> None:
    file = tmp_path / "data" / "quern.db"
    holder = claim(file)
    refused = command.run("keys", "create", "anna", "--data-dir", str(file.parent))
    holder.release()
    assert (refused.returncode, refused.stdout) == (1, b"")
    assert f"{file} is in use by another Quern server or command".encode() in refused.stderr
    assert b"Traceback" not in refused.stderr
