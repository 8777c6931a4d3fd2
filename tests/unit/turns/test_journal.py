"""The journal writer: batches, their triggers, and a store that fails for a while."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any

from tests.unit.turns.live_turns import live_turn
from tests.unit.turns.recording_store import RecordingStore

from quern.store.turn_rows import JournalEntry
from quern.turns.journal import Journal
from quern.turns.turn import Turn

START = datetime(2026, 1, 2, tzinfo=UTC)


@asynccontextmanager
async def _running(store: RecordingStore, *, interval: float, token_limit: int = 1000) -> AsyncGenerator[Journal]:
    journal = Journal(store, interval=interval, token_limit=token_limit)  # pyright: ignore[reportArgumentType]
    async with asyncio.TaskGroup() as group:
        running = group.create_task(journal.run())
        yield journal
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
