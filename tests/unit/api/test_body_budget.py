"""The budget that large bodies share: who waits, for how long, and what is given back."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from quern.api.shared.body_budget import SMALL, BodyBudget, BudgetedBodies, NoRoom
from quern.api.shared.error_styles import OPENAI_ERRORS


async def taking(budget: BodyBudget, size: int) -> asyncio.Task[int]:
    task = asyncio.get_running_loop().create_task(budget.take(size))
    await asyncio.sleep(0)
    return task


async def test_who_comes_first_is_served_first_and_a_small_one_overtakes_nobody() -> None:
    budget = BodyBudget(100)
    assert await budget.take(60) == 60
    large, small = await taking(budget, 70), await taking(budget, 10)
    await asyncio.sleep(0.01)
    assert not large.done()
    assert not small.done()
    budget.give_back(60)
    assert (await large, await small) == (70, 10)


async def test_a_body_that_is_more_than_the_budget_takes_all_of_it() -> None:
    budget = BodyBudget(100)
    assert await budget.take(1000) == 100
    waiting = await taking(budget, 1)
    assert not waiting.done()
    budget.give_back(100)
    assert await waiting == 1


async def test_who_gives_up_waiting_holds_nobody_up() -> None:
    budget = BodyBudget(100)
    await budget.take(60)
    gone, next_one = await taking(budget, 70), await taking(budget, 30)
    gone.cancel()
    assert await next_one == 30
    budget.give_back(60)
    budget.give_back(30)
    assert await budget.take(100) == 100


async def test_what_was_given_to_somebody_who_has_just_gone_comes_back() -> None:
    budget = BodyBudget(100)
    await budget.take(100)
    gone = await taking(budget, 50)
    budget.give_back(100)
    gone.cancel()
    with pytest.raises(asyncio.CancelledError):
        await gone
    assert await budget.take(100) == 100


async def test_nobody_waits_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("quern.api.shared.body_budget.MOST_WAIT_SECONDS", 0.01)
    budget = BodyBudget(100)
    await budget.take(100)
    with pytest.raises(NoRoom, match=r"server\.body_bytes"):
        await budget.take(1)
    budget.give_back(100)
    assert await budget.take(100) == 100


class Served:
    """An application that reads its body to the end, waits, and answers."""

    def __init__(self) -> None:
        self.read, self.go_on = asyncio.Event(), asyncio.Event()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        while (await receive()).get("more_body"):
            pass
        self.read.set()
        await self.go_on.wait()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})


def request(budget: BodyBudget, size: int, announced: bool, served: Served) -> asyncio.Task[None]:
    left = [b"x" * (size // 2), b"x" * (size - size // 2)]

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": left.pop(0), "more_body": bool(left)}

    async def send(_message: Any) -> None:
        return None

    headers = [(b"content-length", str(size).encode())] if announced else []
    app = BudgetedBodies(served, budget, limit=10 * SMALL, style_of=lambda _path: OPENAI_ERRORS)
    return asyncio.get_running_loop().create_task(app({"type": "http", "path": "/", "headers": headers}, receive, send))


@pytest.mark.parametrize("announced", [True, False])
async def test_large_bodies_wait_for_each_other_until_they_are_answered_and_small_ones_for_nobody(
    announced: bool,
) -> None:
    budget = BodyBudget(10 * SMALL)
    first, second, small = Served(), Served(), Served()
    tasks = [request(budget, 6 * SMALL, announced, first)]
    await first.read.wait()
    tasks += [request(budget, 6 * SMALL, announced, second), request(budget, SMALL, announced, small)]
    await small.read.wait()
    await asyncio.sleep(0.01)
    assert not second.read.is_set()
    first.go_on.set()
    await second.read.wait()
    second.go_on.set()
    small.go_on.set()
    await asyncio.gather(*tasks)
    assert await budget.take(10 * SMALL) == 10 * SMALL
