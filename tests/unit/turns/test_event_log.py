"""The turn's log: append-only, any number of readers."""

import asyncio
from collections.abc import Sequence

import pytest

from quern.events import TextDelta, TurnEnded, TurnEvent
from quern.turns.event_log import MOST_AT_ONCE, TurnLog
from quern.types import TurnState

END = TurnEnded(TurnState.COMPLETED)


async def _everything(log: TurnLog, after: int = 0) -> list[TurnEvent]:
    return [event async for batch in log.read(after) for event in batch]


async def test_reading_gives_all_events_in_order_and_ends_after_the_terminal_one() -> None:
    log = TurnLog()
    for event in (TextDelta("a"), TextDelta("b"), END):
        log.append(event)
    assert await _everything(log) == log.events == [TextDelta("a"), TextDelta("b"), END]


async def test_a_reader_that_comes_back_gets_only_what_it_has_not_seen() -> None:
    log = TurnLog([TextDelta(text) for text in "abc"])
    log.append(END)
    assert await _everything(log, after=2) == [TextDelta("c"), END]


async def test_readers_that_wait_get_every_event_in_order_whenever_they_joined() -> None:
    log = TurnLog()
    log.append(TextDelta("early"))
    async with asyncio.TaskGroup() as group:
        readers = [group.create_task(_everything(log)) for _ in range(3)]
        for number in range(50):
            await asyncio.sleep(0)
            log.append(TextDelta(str(number)))
        log.append(TurnEnded(TurnState.CANCELLED, error="x"))
    first, *others = [reader.result() for reader in readers]
    assert len(first) == 52
    assert all(other == first for other in others)


async def test_a_long_log_is_read_in_batches_that_leave_the_event_loop_to_others() -> None:
    log = TurnLog([TextDelta("x")] * (3 * MOST_AT_ONCE))
    log.append(END)
    assert max([len(batch) async for batch in log.read()]) == MOST_AT_ONCE
    others_turn = asyncio.Event()
    asyncio.get_running_loop().call_soon(others_turn.set)
    async for _ in log.read(MOST_AT_ONCE):
        if others_turn.is_set():
            break
    else:
        pytest.fail("nobody else had a turn")


async def test_silence_is_an_empty_batch_and_what_comes_after_it_is_read_all_the_same() -> None:
    log = TurnLog()
    batches: list[Sequence[TurnEvent]] = []
    async with asyncio.timeout(5):
        async for batch in log.read(patience=lambda: 0.01):
            batches.append(batch)
            if batches == [[], []]:
                log.append(END)
    assert batches == [[], [], [END]]


async def test_a_reader_that_has_left_is_not_waited_for() -> None:
    log = TurnLog()
    reader = asyncio.ensure_future(_everything(log))
    await asyncio.sleep(0)
    reader.cancel()
    await asyncio.wait([reader])
    log.append(END)
    assert await _everything(log) == [END]


async def test_nothing_can_follow_the_terminal_event() -> None:
    log = TurnLog()
    log.append(TurnEnded(TurnState.FAILED, error="x"))
    with pytest.raises(RuntimeError, match="has ended"):
        log.append(TextDelta("late"))
    with pytest.raises(RuntimeError, match="has ended"):
        log.append(END)


async def test_waiting_for_the_end_returns_the_terminal_event() -> None:
    log = TurnLog()
    async with asyncio.TaskGroup() as group:
        waiting = group.create_task(log.ended())
        await asyncio.sleep(0)
        log.append(TextDelta("a"))
        await asyncio.sleep(0)
        assert not waiting.done()
        log.append(END)
    assert waiting.result() is log.end
