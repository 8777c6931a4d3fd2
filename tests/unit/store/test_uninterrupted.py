"""A step that was begun is carried out, whoever stops waiting for it."""

import asyncio

import pytest
from structlog.testing import capture_logs

from quern.errors import StoreError
from quern.store.uninterrupted import uninterrupted


class Steps:
    """Steps that wait for `go`."""

    def __init__(self) -> None:
        self.go = asyncio.Event()
        self.done: list[int] = []

    @uninterrupted
    async def work(self, number: int) -> int:
        await self.go.wait()
        if number < 0:
            raise StoreError("The disk is full.")
        self.done.append(number)
        return number


async def test_a_step_gives_its_result_and_its_error() -> None:
    steps = Steps()
    steps.go.set()
    assert await steps.work(3) == 3
    with pytest.raises(StoreError, match="The disk is full"):
        await steps.work(-1)


async def test_a_cancelled_caller_hears_of_it_once_the_step_is_over() -> None:
    steps = Steps()
    caller = asyncio.ensure_future(steps.work(3))
    for _ in range(3):
        await asyncio.sleep(0)
        caller.cancel()
    await asyncio.sleep(0.01)
    assert not caller.done()
    steps.go.set()
    with pytest.raises(asyncio.CancelledError):
        await caller
    assert steps.done == [3]


async def test_a_time_limit_around_a_step_still_works() -> None:
    steps = Steps()
    asyncio.get_running_loop().call_later(0.05, steps.go.set)
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(steps.work(3), timeout=0.01)
    assert steps.done == [3]


async def test_the_error_of_a_step_whose_caller_was_cancelled_is_logged() -> None:
    steps = Steps()
    caller = asyncio.ensure_future(steps.work(-1))
    await asyncio.sleep(0)
    caller.cancel()
    steps.go.set()
    with capture_logs() as logs, pytest.raises(asyncio.CancelledError):
        await caller
    assert [(log["event"], log["error"]) for log in logs] == [("store_step_failed", "The disk is full.")]
