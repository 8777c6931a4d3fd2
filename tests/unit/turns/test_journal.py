"""The journal writer: batches, their triggers, and a store that fails for a while."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tests.unit.turns.live_turns import live_turn
from tests.unit.turns.recording_store import RecordingStore

from quern.store.journal_file import JournalFile
from quern.store.turn_rows import JournalEntry
from quern.turns.journal import Journal
from quern.turns.turn import Turn

START = datetime(2026, 1, 2, tzinfo=UTC)


@asynccontextmanager
async def _running(store: RecordingStore, *, interval: float, token_limit: int = 1000) -> AsyncGenerator[Journal]:
    journal = Journal(store, interval=interval, token_limit=token_limit)  # pyright: ignore[reportArgumentType]
    async with _run(journal):
        yield journal


@asynccontextmanager
async def _with_file(store: RecordingStore, file: JournalFile, *, commit_interval: float) -> AsyncGenerator[Journal]:
    journal = Journal(
        store,  # pyright: ignore[reportArgumentType]
        interval=0.001,
        token_limit=1000,
        file=file,
        commit_interval=commit_interval,
    )
    async with _run(journal):
        yield journal
    await journal.close()


@asynccontextmanager
async def _run(journal: Journal) -> AsyncGenerator[None]:
    async with asyncio.TaskGroup() as group:
        running = group.create_task(journal.run())
        yield
        running.cancel()


async def _until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(5):
        while not condition():
            await asyncio.sleep(0.001)


def writing(journal: Journal, *texts: str, **fields: Any) -> Turn:
    """A turn that has begun and written these texts, each with a token."""
    turn = live_turn(**fields)
    journal.start(turn, START)
    write(journal, turn, *texts)
    return turn


def write(journal: Journal, turn: Turn, *texts: str) -> None:
    for text in texts:
        turn.pieces.append(text)
        turn.generated.append(len(turn.generated))
        journal.wrote(turn)


async def test_what_comes_within_the_interval_is_saved_in_one_batch_for_all_turns() -> None:
    store = RecordingStore()
    async with _running(store, interval=0.05) as journal:
        turns = [writing(journal, "x", "", "z") for _ in range(2)]
        await _until(lambda: store.batches)
    assert store.batches == [[JournalEntry(turn.id, 1, 3, ("x", "", "z"), (0, 1, 2)) for turn in turns]]


async def test_of_what_is_not_kept_the_ids_alone_are_saved_and_nothing_of_what_is_never_told_again() -> None:
    store = RecordingStore()
    async with _running(store, interval=0.05) as journal:
        one_shot = writing(journal, "x", kept=False)
        remembered = writing(journal, "x")
        remembered.resumable = False
        await _until(lambda: store.batches)
    assert store.batches == [
        [JournalEntry(one_shot.id, 1, 1, None, (0,)), JournalEntry(remembered.id, 1, 1, ("x",), None)]
    ]


async def test_a_turn_with_enough_unsaved_tokens_is_saved_without_waiting() -> None:
    store = RecordingStore()
    async with _running(store, interval=60, token_limit=2) as journal:
        turn = writing(journal, "x")
        await asyncio.sleep(0.02)
        assert not store.batches
        write(journal, turn, "y")
        await _until(lambda: store.batches)
    assert [(entry.first, entry.last) for entry in store.batches[0]] == [(1, 2)]


async def test_what_an_earlier_life_wrote_is_not_saved_again() -> None:
    store = RecordingStore()
    async with _running(store, interval=0.01) as journal:
        turn = live_turn()
        turn.pieces, turn.generated = ["a", "b"], [7, 8]
        journal.start(turn, START)
        write(journal, turn, "c")
        await _until(lambda: store.batches and store.batches[-1])
    assert store.batches[-1] == [JournalEntry(turn.id, 3, 3, ("c",), (2,))]


async def test_an_idle_journal_writes_nothing() -> None:
    store = RecordingStore()
    async with _running(store, interval=0.001):
        await asyncio.sleep(0.02)
    assert store.batches == []


async def test_a_forgotten_turn_is_not_saved_and_the_others_are() -> None:
    store = RecordingStore()
    async with _running(store, interval=0.02) as journal:
        gone, other = writing(journal, "x"), writing(journal, "x")
        journal.forget(gone.id)
        await _until(lambda: store.batches)
    assert [entry.turn_id for batch in store.batches for entry in batch] == [other.id]


async def test_what_a_failing_store_did_not_take_is_saved_in_order_once_it_works_again() -> None:
    store = RecordingStore()
    store.failing = True
    async with _running(store, interval=0.005) as journal:
        turn = writing(journal, "x")
        await asyncio.sleep(0.03)
        write(journal, turn, "y")
        await asyncio.sleep(0.03)
        assert store.batches == []
        store.failing = False
        await _until(lambda: store.batches)
        write(journal, turn, "z")
        await _until(lambda: len(store.batches) == 2)
    assert [(entry.first, entry.pieces) for batch in store.batches for entry in batch] == [(1, ("x", "y")), (3, ("z",))]


async def test_when_a_turn_began_is_saved_although_it_writes_nothing_yet() -> None:
    store = RecordingStore()
    async with _running(store, interval=0.001) as journal:
        turn, gone = live_turn(), live_turn()
        journal.start(turn, START)
        journal.start(gone, START)
        journal.forget(gone.id)
        await _until(lambda: store.started)
    assert store.started == {turn.id: START}
    assert store.batches == [[]]


async def test_when_a_turn_began_is_saved_once_the_store_works_again() -> None:
    store = RecordingStore()
    store.failing = True
    async with _running(store, interval=0.005) as journal:
        turn = live_turn()
        journal.start(turn, START)
        await _until(lambda: store.refused > 1)
        store.failing = False
        await _until(lambda: store.started)
    assert store.started == {turn.id: START}


def files(folder: Path) -> list[Path]:
    return list(folder.iterdir())


def left_by(database: Path) -> list[tuple[int, int, tuple[str, ...] | None]]:
    """What a server that were killed now would leave in the file."""
    return [(one.first, one.last, one.pieces) for one in JournalFile(database).read()]


async def test_with_a_file_the_newest_text_is_there_long_before_the_commit(tmp_path: Path) -> None:
    store, database = RecordingStore(), tmp_path / "quern.db"
    async with _with_file(store, JournalFile(database), commit_interval=60) as journal:
        turn = writing(journal, "x", "y")
        await _until(lambda: left_by(database) == [(1, 2, ("x", "y"))])
        write(journal, turn, "z")
        await _until(lambda: left_by(database) == [(1, 3, ("x", "y", "z"))])
        assert store.batches == []


async def test_what_is_committed_leaves_the_file_and_what_comes_meanwhile_stays(tmp_path: Path) -> None:
    store, database = RecordingStore(), tmp_path / "quern.db"
    async with _with_file(store, JournalFile(database), commit_interval=60) as journal:
        turn = writing(journal, "x")
        await _until(lambda: left_by(database))
        await journal.save()
        write(journal, turn, "y")
        await _until(lambda: left_by(database) == [(2, 2, ("y",))])
    assert [(entry.first, entry.last) for entry in store.batches[0]] == [(1, 1)]


async def test_a_store_that_stands_still_keeps_nothing_from_the_file(tmp_path: Path) -> None:
    store, database = RecordingStore(), tmp_path / "quern.db"
    store.failing = True
    async with _with_file(store, JournalFile(database), commit_interval=0.002) as journal:
        turn = writing(journal, "x")
        await _until(lambda: store.refused > 3)
        write(journal, turn, "y")
        await _until(lambda: left_by(database) == [(1, 2, ("x", "y"))])
        store.failing = False
        await _until(lambda: store.batches)
    assert [(entry.first, entry.pieces) for entry in store.batches[0]] == [(1, ("x", "y"))]
    assert left_by(database) == []


async def test_of_a_turn_that_has_ended_nothing_stays_in_the_file(tmp_path: Path) -> None:
    store, database = RecordingStore(), tmp_path / "quern.db"
    async with _with_file(store, JournalFile(database), commit_interval=0.01) as journal:
        turn = writing(journal, "x")
        await _until(lambda: left_by(database))
        journal.forget(turn.id)
        await _until(lambda: files(tmp_path) == [])


async def test_what_a_killed_server_left_in_the_file_is_committed_at_the_start_and_then_gone(tmp_path: Path) -> None:
    database = tmp_path / "quern.db"
    JournalFile(database).append([JournalEntry("t", 3, 4, ("x", "y"), (7, 8))])
    store = RecordingStore()
    async with _with_file(store, JournalFile(database), commit_interval=60) as journal:
        await journal.recover()
        assert store.batches == [[JournalEntry("t", 3, 4, ("x", "y"), (7, 8))]]
        assert files(tmp_path) == []


async def test_a_turn_that_goes_on_is_not_given_again_what_it_wrote_before_it_ended(tmp_path: Path) -> None:
    store, database = RecordingStore(), tmp_path / "quern.db"
    async with _with_file(store, JournalFile(database), commit_interval=60) as journal:
        turn = writing(journal, "x")
        await _until(lambda: left_by(database))
        journal.forget(turn.id)
        await journal.reopen(turn.id)
        journal.start(turn, START)
        write(journal, turn, "y")
        await _until(lambda: left_by(database) == [(2, 2, ("y",))])


async def test_a_disk_that_takes_no_file_costs_no_turn_and_what_is_committed_is_whole(tmp_path: Path) -> None:
    store = RecordingStore()
    async with _with_file(store, JournalFile(tmp_path / "gone" / "quern.db"), commit_interval=0.005) as journal:
        turn = writing(journal, "x")
        await _until(lambda: store.batches)
        write(journal, turn, "y")
        await _until(lambda: len(store.batches) > 1)
    assert [(entry.first, entry.pieces) for batch in store.batches for entry in batch] == [(1, ("x",)), (2, ("y",))]
