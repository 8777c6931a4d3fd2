"""The turn's log: numbered, append-only, any number of readers."""

import asyncio

import pytest

from quern.turns.events import NumberedEvent, TurnEnded, TurnLog, TurnText
from quern.types import TurnState


async def _everything(log: TurnLog, after: int = 0) -> list[NumberedEvent]:
    return [item async for batch in log.read(after) for item in batch]


async def test_events_are_numbered_from_one_without_gaps_and_reading_ends_after_the_terminal_one() -> None:
    log = TurnLog()
    log.append(TurnText("a"))
    log.append(TurnText("b"))
    log.append(TurnEnded(TurnState.COMPLETED))
    assert [item.number for item in await _everything(log)] == [1, 2, 3]


async def test_a_reader_that_comes_back_gets_only_what_it_has_not_seen() -> None:
    log = TurnLog()
    for text in "abc":
        log.append(TurnText(text))
    log.append(TurnEnded(TurnState.COMPLETED))
    assert [item.number for item in await _everything(log, after=2)] == [3, 4]


async def test_readers_that_wait_get_every_event_in_order_whenever_they_joined() -> None:
    log = TurnLog()
    log.append(TurnText("early"))
    async with asyncio.TaskGroup() as group:
        readers = [group.create_task(_everything(log)) for _ in range(3)]
        for number in range(50):
            await asyncio.sleep(0)
            log.append(TurnText(str(number)))
        log.append(TurnEnded(TurnState.CANCELLED, error="x"))
    first, *others = [reader.result() for reader in readers]
    assert len(first) == 52
    assert all(other == first for other in others)


async def test_nothing_can_follow_the_terminal_event() -> None:
    log = TurnLog()
    log.append(TurnEnded(TurnState.FAILED, error="x"))
    with pytest.raises(RuntimeError, match="has ended"):
        log.append(TurnText("late"))
    with pytest.raises(RuntimeError, match="has ended"):
        log.append(TurnEnded(TurnState.COMPLETED))


async def test_waiting_for_the_end_returns_the_terminal_event() -> None:
    log = TurnLog()
    async with asyncio.TaskGroup() as group:
        waiting = group.create_task(log.ended())
        await asyncio.sleep(0)
        log.append(TurnText("a"))
        await asyncio.sleep(0)
        assert not waiting.done()
        log.append(TurnEnded(TurnState.COMPLETED))
    assert waiting.result() is log.end
