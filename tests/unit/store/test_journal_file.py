"""The newest text of running turns, in files beside the database."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Any

import pytest

from quern.store.journal_file import JournalFile, joined
from quern.store.turn_rows import JournalEntry


def entry(turn_id: str, first: int, *pieces: str, ids: bool = True, text: bool = True) -> JournalEntry:
    """Tokens from number `first` on, whose ids are their numbers."""
    last = first + len(pieces) - 1
    return JournalEntry(turn_id, first, last, pieces if text else None, tuple(range(first, last + 1)) if ids else None)


@pytest.fixture
def database(tmp_path: Path) -> Path:
    return tmp_path / "quern.db"


def files(database: Path) -> list[Path]:
    return sorted(path for path in database.parent.iterdir() if path != database)


def test_what_was_added_is_read_in_another_life_as_one_entry_for_each_turn(database: Path) -> None:
    file = JournalFile(database)
    file.append([entry("a", 1, "x", "\n \ud800"), entry("b", 4, "é", text=False)])
    file.append([entry("a", 3, "你", ""), entry("b", 5, "z", text=False)])
    assert JournalFile(database).read() == [
        entry("a", 1, "x", "\n \ud800", "你", ""),
        entry("b", 4, "é", "z", text=False),
    ]


def test_nobody_else_may_read_it(database: Path) -> None:
    JournalFile(database).append([entry("a", 1, "secret")])
    assert [stat.S_IMODE(path.stat().st_mode) for path in files(database)] == [0o600]


def test_a_commit_drops_what_was_there_when_it_began_and_nothing_else(database: Path) -> None:
    file = JournalFile(database)
    file.append([entry("a", 1, "x")])
    file.begin_commit()
    file.append([entry("a", 2, "y")])
    assert JournalFile(database).read() == [entry("a", 1, "x", "y")]
    file.committed()
    assert JournalFile(database).read() == [entry("a", 2, "y")]
    file.begin_commit()
    file.committed()
    assert files(database) == []


def test_what_commits_that_failed_have_not_saved_is_kept_until_one_is_through(database: Path) -> None:
    file = JournalFile(database)
    for number in range(1, 13):
        file.append([entry("a", number, str(number))])
        file.begin_commit()
    assert JournalFile(database).read() == [entry("a", 1, *map(str, range(1, 13)))]
    file.committed()
    assert files(database) == []


def test_another_life_adds_after_what_the_killed_one_left(database: Path) -> None:
    JournalFile(database).append([entry("a", 1, "x")])
    second = JournalFile(database)
    second.read()
    second.append([entry("a", 2, "y")])
    assert JournalFile(database).read() == [entry("a", 1, "x", "y")]
    second.committed()
    assert JournalFile(database).read() == [entry("a", 2, "y")]


def test_a_line_that_was_cut_short_is_left_out_and_all_before_it_count(database: Path) -> None:
    file = JournalFile(database)
    file.append([entry("a", 1, "x")])
    (path,) = files(database)
    first = path.read_bytes()
    file.append([entry("a", 2, "y")])
    both = path.read_bytes()
    for length in range(len(first), len(both) - 1):
        path.write_bytes(both[:length])
        assert JournalFile(database).read() == [entry("a", 1, "x")], length


@pytest.mark.parametrize("damage", [b"\0" * 60, b"deadbeef [1]\n", b"not a line\n", b"00000000 {}\n"])
def test_what_a_broken_disk_put_there_is_left_out(database: Path, damage: bytes) -> None:
    file = JournalFile(database)
    file.append([entry("a", 1, "x")])
    (path,) = files(database)
    path.write_bytes(damage + b"\n" + path.read_bytes() + damage)
    assert JournalFile(database).read() == [entry("a", 1, "x")]


def test_a_file_that_grows_no_more_is_an_error_and_what_is_added_later_is_whole(
    database: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = JournalFile(database)
    file.append([entry("a", 1, "x")])
    write = os.write

    def write_little(descriptor: int, data: bytes) -> int:
        return write(descriptor, data[:5])

    with monkeypatch.context() as full:
        full.setattr(os, "write", write_little)
        with pytest.raises(OSError, match="No space"):
            file.append([entry("a", 2, "y")])
    file.append([entry("a", 2, "y")])
    assert JournalFile(database).read() == [entry("a", 1, "x", "y")]


def test_of_a_turn_that_begins_another_life_only_what_comes_then_counts(database: Path) -> None:
    file = JournalFile(database)
    file.append([entry("a", 1, "x", "y"), entry("b", 1, "z")])
    file.forget("a")
    file.append([entry("a", 3, "w")])
    assert JournalFile(database).read() == [entry("b", 1, "z"), entry("a", 3, "w")]


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        ([], []),
        ([["a", 1, 2, ["x", "y"], None], ["a", 2, 3, ["y", "z"], None]], [("a", 1, 3, ("x", "y", "z"), None)]),
        ([["a", 1, 2, None, [7, 8]], ["a", 1, 2, None, [7, 8]]], [("a", 1, 2, None, (7, 8))]),
        ([["a", 1, 1, ["x"], [7]], ["a", 3, 3, ["z"], [9]]], [("a", 1, 1, ("x",), (7,))]),
    ],
    ids=["nothing", "overlap", "twice", "gap"],
)
def test_lines_are_joined_where_they_meet(lines: list[list[Any]], expected: list[tuple[Any, ...]]) -> None:
    assert joined(lines) == [JournalEntry(*values) for values in expected]


def test_files_with_other_names_are_nobodys(database: Path) -> None:
    for name in ("quern.db.unsaved-", "quern.db.unsaved-x", "other.db.unsaved-1"):
        database.with_name(name).write_text("kept")
    file = JournalFile(database)
    assert file.read() == []
    file.begin_commit()
    file.committed()
    assert [path.read_text() for path in files(database)] == ["kept"] * 3
