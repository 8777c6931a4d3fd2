"""How many turns an owner has at once: never too many, in order, nobody forgotten."""

from __future__ import annotations

import asyncio
import math
import random
from collections.abc import Callable
from dataclasses import dataclass, field

from hypothesis import given, settings
from hypothesis import strategies as st

from quern.access.limits import Limits
from quern.access.principal import Principal
from quern.access.usage import UsageMeter
from quern.config import LimitSettings
from quern.records import KeyLimits, KeyRole
from quern.store.database import Database
from quern.store.storage import StorageStore
from quern.store.usage import UsageStore
from quern.turns.owner_turns import OwnerTurns

ROUNDS = 20
"""Of the event loop; what is to happen at once has happened by then."""


def key(name: str = "anna", **limits: int) -> Principal:
    return Principal(name, name, KeyRole.USER, limits=KeyLimits(**limits))


def owner_turns(current: Callable[[Principal], Principal] = lambda principal: principal) -> OwnerTurns:
    unused = Database("sqlite+aiosqlite:///unused")
    meter = UsageMeter(Limits(LimitSettings()), UsageStore(unused), StorageStore(unused), current=current)
    return OwnerTurns(meter)


async def settle() -> None:
    for _ in range(ROUNDS):
        await asyncio.sleep(0)


@dataclass
class Crowd:
    """Turns that run until they are told to end."""

    turns: OwnerTurns
    began: list[int] = field(default_factory=list[int])
    running: set[int] = field(default_factory=set[int])
    tasks: dict[int, asyncio.Task[None]] = field(default_factory=dict[int, "asyncio.Task[None]"])
    ends: dict[int, asyncio.Event] = field(default_factory=dict[int, asyncio.Event])

    async def come(self, who: Principal) -> int:
        number = len(self.tasks)
        self.ends[number] = asyncio.Event()
        self.tasks[number] = asyncio.create_task(self._live(number, who))
        await settle()
        return number

    async def _live(self, number: int, who: Principal) -> None:
        async with self.turns.running(who):
            self.began.append(number)
            self.running.add(number)
            try:
                await self.ends[number].wait()
            finally:
                self.running.discard(number)

    async def end(self, *numbers: int) -> None:
        for number in numbers:
            self.ends[number].set()
        await settle()

    async def give_up(self, *numbers: int) -> None:
        for number in numbers:
            self.tasks[number].cancel()
        await settle()

    async def finish(self) -> None:
        """End all that run until none is left; whoever never runs makes this hang, and the test fail."""
        async with asyncio.timeout(20):
            for ending in self.ends.values():
                ending.set()
            if self.tasks:
                await asyncio.wait(self.tasks.values())
        for task in self.tasks.values():
            if not task.cancelled():
                task.result()


async def test_so_many_run_and_the_others_in_order_of_their_coming() -> None:
    crowd = Crowd(owner_turns())
    for _ in range(5):
        await crowd.come(key(turns_at_once=2))
    assert crowd.running == {0, 1}
    await crowd.end(1)
    assert crowd.running == {0, 2}
    await crowd.end(0, 2)
    assert crowd.running == {3, 4}
    await crowd.finish()
    assert crowd.began == [0, 1, 2, 3, 4]


async def test_owners_are_in_nobody_elses_way() -> None:
    crowd = Crowd(owner_turns())
    for name in ("anna", "ben", "anna", "cleo", "ben"):
        await crowd.come(key(name, turns_at_once=1))
    assert crowd.running == {0, 1, 3}
    await crowd.finish()


async def test_all_that_are_given_up_at_once_end_as_given_up() -> None:
    """As when the server stops: the running one frees its place while those that wait for it are cancelled already."""
    crowd = Crowd(owner_turns())
    for _ in range(4):
        await crowd.come(key(turns_at_once=1))
    await crowd.give_up(0, 1, 2, 3)
    assert all(task.cancelled() for task in crowd.tasks.values())
    last = await crowd.come(key(turns_at_once=1))
    assert crowd.running == {last}
    await crowd.finish()


async def test_a_place_that_came_too_late_goes_on_to_the_next() -> None:
    crowd = Crowd(owner_turns())
    for _ in range(3):
        await crowd.come(key(turns_at_once=1))
    crowd.ends[0].set()
    await asyncio.sleep(0)  # the place is being given to the second one now
    crowd.tasks[1].cancel()
    await settle()
    assert crowd.running == {2}
    await crowd.finish()


async def test_a_lower_limit_holds_for_those_that_wait_already() -> None:
    now = {"anna": key(turns_at_once=3)}
    crowd = Crowd(owner_turns(lambda principal: now[principal.owner]))
    for _ in range(6):
        await crowd.come(now["anna"])
    assert crowd.running == {0, 1, 2}
    now["anna"] = key(turns_at_once=1)
    await crowd.end(0)
    assert crowd.running == {1, 2}
    await crowd.end(1)
    assert crowd.running == {2}
    await crowd.end(2)
    assert crowd.running == {3}
    await crowd.finish()


async def test_a_higher_limit_lets_more_in_and_nobody_overtakes() -> None:
    now = {"anna": key(turns_at_once=1)}
    crowd = Crowd(owner_turns(lambda principal: now[principal.owner]))
    for _ in range(4):
        await crowd.come(now["anna"])
    now["anna"] = key(turns_at_once=3)
    await crowd.come(now["anna"])
    assert crowd.running == {0, 1, 2}
    now["anna"] = key()
    await crowd.end(0)
    assert crowd.running == {1, 2, 3, 4}
    await crowd.finish()


@given(
    st.lists(
        st.tuples(st.sampled_from(["come", "end", "give up", "limit"]), st.integers(0, 30), st.integers(1, 3)),
        max_size=60,
    )
)
@settings(max_examples=60)
def test_whatever_happens_no_more_run_than_may_and_none_is_forgotten(steps: list[tuple[str, int, int]]) -> None:
    async def live() -> None:
        now = {"anna": key(turns_at_once=2)}
        crowd = Crowd(owner_turns(lambda principal: now[principal.owner]))
        for action, number, count in steps:
            before, begun = len(crowd.running), len(crowd.began)
            chosen = [one for one in range(number, number + count) if one in crowd.tasks]
            match action:
                case "come":
                    await crowd.come(now["anna"])
                case "end":
                    await crowd.end(*chosen)
                case "give up":
                    await crowd.give_up(*chosen)
                case _:
                    now["anna"] = key(turns_at_once=count)
            most = now["anna"].limits.turns_at_once or 0
            assert len(crowd.running) <= max(most, before)
            waiting = [one for one, task in crowd.tasks.items() if not task.done() and one not in crowd.running]
            if action == "come" and waiting:
                assert len(crowd.running) >= most, "somebody waits although there is a place"
            # Those who are let in at one moment begin in any order.
            assert max(crowd.began[begun:], default=-1) < min(waiting, default=math.inf), "somebody overtook"
        await crowd.finish()
        assert not crowd.turns._running
        assert not crowd.turns._held

    asyncio.run(live())


async def test_ending_and_giving_up_in_one_moment_loses_no_place() -> None:
    chance = random.Random(11)
    for _ in range(200):
        crowd = Crowd(owner_turns())
        for _ in range(6):
            await crowd.come(key(turns_at_once=2))
        for number in chance.sample(range(6), 4):
            if chance.random() < 0.5:
                crowd.ends[number].set()
            else:
                crowd.tasks[number].cancel()
            if chance.random() < 0.3:
                await asyncio.sleep(0)
        await settle()
        assert len(crowd.running) == min(2, sum(not task.done() for task in crowd.tasks.values()))
        await crowd.finish()


async def test_what_runs_at_other_servers_counts_and_its_end_lets_the_next_one_run() -> None:
    crowd, anna = Crowd(owner_turns()), key(turns_at_once=2)
    crowd.turns.elsewhere({"anna": 1})
    await crowd.come(anna)
    waits = await crowd.come(anna)
    assert waits not in crowd.running
    crowd.turns.elsewhere({})
    await settle()
    assert waits in crowd.running
    await crowd.finish()


async def test_of_a_weight_counts_at_each_server_what_runs_there() -> None:
    here, there, anna = Crowd(owner_turns()), Crowd(owner_turns()), key()
    assert here.turns.part_here("anna") == 1
    for crowd, count in ((here, 2), (there, 1)):
        for _ in range(count):
            await crowd.come(anna)
    here.turns.elsewhere(there.turns.here())
    there.turns.elsewhere(here.turns.here())
    assert (here.turns.part_here("anna"), there.turns.part_here("anna")) == (3 / 4, 2 / 4)
    assert here.turns.part_here("bert") == 1
    await here.finish()
    await there.finish()
