"""Admission for coroutines."""

import asyncio
from contextlib import aclosing

import pytest

from quern.engine.base import EmbedRequest, Priority
from quern.engine.gate import Gate
from quern.errors import EngineFailed


def asking(priority: Priority, owner: str = "", weight: float = 1.0) -> EmbedRequest:
    return EmbedRequest((0,), priority, owner=owner, weight=weight)


async def _positions(gate: Gate, positions: list[int]) -> None:
    """Wait in line, noting each new position, until it runs (0)."""
    place = gate.arrive(10, asking(Priority.NORMAL))
    try:
        async with aclosing(gate.positions(place)) as steps:
            positions.extend([position async for position in steps])
        positions.append(gate.position(place))
    finally:
        gate.leave(place)


async def test_sleepers_wake_for_each_step_forward() -> None:
    gate, seen = Gate(1, 100), list[int]()
    places = [gate.arrive(10, asking(Priority.NORMAL)) for _ in range(3)]
    async with asyncio.TaskGroup() as group:
        group.create_task(_positions(gate, seen))
        for place in places:
            await asyncio.sleep(0.001)
            gate.leave(place)
    assert seen == [3, 2, 1, 0]


async def test_those_in_line_can_be_refused_while_those_who_run_and_come_later_are_not() -> None:
    gate = Gate(1, 100)
    runs, waits = gate.arrive(10, asking(Priority.NORMAL)), gate.arrive(10, asking(Priority.NORMAL))
    gate.refuse_waiting(EngineFailed("lost"))
    later = gate.arrive(10, asking(Priority.NORMAL))
    assert gate.position(runs) == 0
    assert gate.position(later) == 2
    with pytest.raises(EngineFailed, match="lost"):
        gate.position(waits)
    gate.leave(waits)
    assert gate.position(later) == 1


async def test_a_sleeper_that_is_refused_wakes_with_the_error() -> None:
    gate = Gate(1, 100)
    gate.arrive(10, asking(Priority.NORMAL))
    waiting = asyncio.ensure_future(_positions(gate, []))
    while not gate.waiting:
        await asyncio.sleep(0)
    gate.refuse_waiting(EngineFailed("lost"))
    with pytest.raises(EngineFailed, match="lost"):
        await waiting
    assert gate.waiting == 0
