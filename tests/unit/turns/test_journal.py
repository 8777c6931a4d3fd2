"""The journal writer: batches, their triggers, and a store that fails for a while."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime

from tests.unit.turns.recording_store import RecordingStore

from quern.store.turn_rows import JournalEntry
from quern.turns.journal import Journal

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


async def test_what_comes_within_the_interval_is_saved_in_one_batch_for_all_turns() -> None:
    store = RecordingStore()
    async with _running(store, interval=0.05) as journal:
        entries = [JournalEntry(turn, number, "x") for number in (1, 2, 3) for turn in ("a", "b")]
        for entry in entries:
            journal.add(entry)
        await _until(lambda: store.batches)
    assert len(store.batches) == 1
    assert sorted(store.batches[0], key=str) == sorted(entries, key=str)


async def test_a_turn_with_enough_unsaved_tokens_is_saved_without_waiting() -> None:
    store = RecordingStore()
    async with _running(store, interval=60, token_limit=2) as journal:
        journal.add(JournalEntry("a", 1, "x"))
        await asyncio.sleep(0.02)
        assert not store.batches
        journal.add(JournalEntry("a", 2, "x"))
        await _until(lambda: store.batches)
    assert [entry.number for entry in store.batches[0]] == [1, 2]


async def test_an_idle_journal_writes_nothing() -> None:
    store = RecordingStore()
    async with _running(store, interval=0.001):
        await asyncio.sleep(0.02)
    assert store.batches == []


async def test_a_forgotten_turn_is_not_saved_and_the_others_are() -> None:
    store = RecordingStore()
    async with _running(store, interval=0.02) as journal:
        journal.add(JournalEntry("a", 1, "x"))
        journal.add(JournalEntry("b", 1, "x"))
        journal.forget("a")
        await _until(lambda: store.batches)
    assert [entry.turn_id for batch in store.batches for entry in batch] == ["b"]


async def test_what_a_failing_store_did_not_take_is_saved_in_order_once_it_works_again() -> None:
    store = RecordingStore()
    store.failing = True
    async with _running(store, interval=0.005) as journal:
        journal.add(JournalEntry("a", 1, "x"))
        await asyncio.sleep(0.03)
        journal.add(JournalEntry("a", 2, "y"))
        await asyncio.sleep(0.03)
        assert store.batches == []
        store.failing = False
        await _until(lambda: sum(map(len, store.batches)) == 2)
    assert [entry.number for batch in store.batches for entry in batch] == [1, 2]


async def test_when_a_turn_began_is_saved_although_it_writes_nothing_yet() -> None:
    store = RecordingStore()
    async with _running(store, interval=0.001) as journal:
        journal.start("a", START)
        journal.start("b", START)
        journal.forget("b")
        await _until(lambda: store.started)
    assert store.started == {"a": START}
    assert store.batches == [[]]


async def test_when_a_turn_began_is_saved_once_the_store_works_again() -> None:
    store = RecordingStore()
    store.failing = True
    async with _running(store, interval=0.005) as journal:
        journal.start("a", START)
        await _until(lambda: store.refused > 1)
        store.failing = False
        await _until(lambda: store.started)
    assert store.started == {"a": START}
