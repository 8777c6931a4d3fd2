"""Models in one memory: who makes room for whom, and that nobody who runs loses its model."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing

import pytest

from quern.engine import residency as under_test
from quern.engine.base import EmbedRequest, EngineState, Finished, GenerateRequest, Tokens
from quern.engine.fake import FakeEngine
from quern.engine.residency import Loaded, OnDemandEngine, Residency, make_room
from quern.errors import EngineUnavailable, ModelLoadError
from quern.events import Loading
from quern.sampling import SamplingParams

ROOM = 100


def loaded(name: str, size: int, used_at: float = 0.0, *, busy: bool = False, loaded_at: float = 0.0) -> Loaded:
    return Loaded(name, size, busy, used_at, loaded_at)


@pytest.mark.parametrize(
    ("size", "there", "going", "idle"),
    [
        (60, [], [], True),
        (60, [loaded("a", 40)], [], True),
        (60, [loaded("a", 50)], ["a"], True),
        (60, [loaded("a", 30, 1), loaded("b", 30, 2), loaded("c", 30, 3)], ["a", "b"], True),
        (30, [loaded("a", 30, 9), loaded("b", 30, 2), loaded("c", 30, 3)], ["b"], True),
        (60, [loaded("a", 10, 1), loaded("b", 60, 2), loaded("c", 20, 3)], ["b"], True),
        (60, [loaded("a", 50, 1, busy=True), loaded("b", 50, 2)], ["b", "a"], False),
        (50, [loaded("a", 50, 1, busy=True), loaded("b", 50, 2)], ["b"], True),
        (50, [loaded("a", 50, busy=True, loaded_at=7), loaded("b", 50, busy=True, loaded_at=3)], ["b"], False),
        (100, [loaded("a", 50, 1), loaded("b", 50, busy=True)], ["a", "b"], False),
    ],
    ids=[
        "an empty memory",
        "room beside others",
        "the only other one",
        "the longest unused, as many as it takes",
        "not those that were used since",
        "no small one where a large one is needed anyway",
        "busy ones only where idle ones are not enough",
        "no busy one where an idle one is enough",
        "of busy ones the longest loaded",
        "all of them",
    ],
)
def test_who_makes_room(size: int, there: list[Loaded], going: list[str], idle: bool) -> None:
    assert make_room(size, ROOM, there) == (going, idle)


class Engines:
    """Engines on demand, all in one memory, and every engine that was made for them."""

    def __init__(self) -> None:
        self.residency = Residency(ROOM)
        self.made: dict[str, list[FakeEngine]] = {}
        self.all: list[OnDemandEngine] = []
        self.failing: set[str] = set()

    def __call__(self, name: str, size: int, *, keep_alive: float | None = None, **options: float) -> OnDemandEngine:
        def make() -> FakeEngine:
            engine = _Failing(self.failing, name, **{"load_delay": 0.02, "token_delay": 0.002, **options})
            self.made.setdefault(name, []).append(engine)
            return engine

        engine = OnDemandEngine(name, make, self.residency, size=size, keep_alive=keep_alive)
        self.all.append(engine)
        return engine

    @property
    def in_memory(self) -> list[str]:
        return [one.name for one in self.all if one.loaded is not None]


class _Failing(FakeEngine):
    def __init__(self, failing: set[str], name: str, **options: float) -> None:
        super().__init__(model_id=name, embedding_length=4, **options)  # pyright: ignore[reportArgumentType]
        self._failing = failing

    async def start(self) -> None:
        if self.info.model_id in self._failing:
            msg = "The file is damaged."
            raise ModelLoadError(msg)
        await super().start()


@pytest.fixture
async def engines() -> AsyncIterator[Engines]:
    engines = Engines()
    yield engines
    for engine in engines.all:
        await engine.close()


def request(tokens: int = 5) -> GenerateRequest:
    return GenerateRequest((1, 2, 3), SamplingParams(max_tokens=tokens, ignore_eos=True))


async def answer(engine: OnDemandEngine, tokens: int = 5) -> list[int]:
    """A whole answer's ids."""
    async with aclosing(engine.generate(request(tokens))) as events:
        seen = [event async for event in events]
    assert isinstance(seen[-1], Finished)
    return [token for event in seen if isinstance(event, Tokens) for token in event.ids]


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(5):
        while not condition():
            await asyncio.sleep(0.001)


async def test_what_fits_beside_those_before_it_is_loaded_at_the_start(engines: Engines) -> None:
    for name, size in (("a", 60), ("b", 60), ("c", 40)):
        await engines(name, size).start()
    assert engines.in_memory == ["a", "c"]
    assert [engine.stats().state for engine in engines.all] == [
        EngineState.READY,
        EngineState.UNLOADED,
        EngineState.READY,
    ]


async def test_who_asks_for_what_is_not_loaded_is_told_how_far_it_is_and_gets_an_answer(engines: Engines) -> None:
    first, second = engines("a", 60), engines("b", 60)
    await first.start()
    async with aclosing(second.generate(request())) as events:
        seen = [event async for event in events]
    assert isinstance(seen[0], Loading)
    assert isinstance(seen[-1], Finished)
    assert engines.in_memory == ["b"]
    assert second.info.model_id == "b"


async def test_a_model_that_runs_keeps_its_memory_until_it_has_nothing_to_do(
    engines: Engines, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(under_test, "LEAST_SECONDS", 0.05)
    first, second = engines("a", 60), engines("b", 60)
    await first.start()
    running = asyncio.ensure_future(answer(first, 60))
    await until(lambda: first.stats().running)
    other = asyncio.ensure_future(answer(second))
    await until(lambda: first.leaving)
    assert engines.in_memory == ["a"]
    late = asyncio.ensure_future(answer(first))
    assert len(await running) == 60
    assert len(await other) == 5
    assert len(await late) == 5, "who asked meanwhile waits for its turn and is served"
    assert [len(engines.made[name]) for name in ("a", "b")] == [2, 2], "each load has an engine of its own"


async def test_idle_ones_make_room_before_busy_ones(engines: Engines) -> None:
    busy, idle, third = engines("a", 50), engines("b", 50), engines("c", 50)
    await busy.start()
    await idle.start()
    running = asyncio.ensure_future(answer(busy, 60))
    await until(lambda: busy.stats().running)
    await answer(third)
    assert engines.in_memory == ["a", "c"]
    assert len(await running) == 60


async def test_many_who_ask_at_once_have_it_loaded_once(engines: Engines) -> None:
    engine = engines("a", 60)
    answers = await asyncio.gather(*(answer(engine) for _ in range(8)))
    assert [len(ids) for ids in answers] == [5] * 8
    assert len(engines.made["a"]) == 1


async def test_who_gives_up_waiting_takes_the_load_from_nobody(engines: Engines) -> None:
    engine = engines("a", 60, load_delay=0.1)
    impatient = asyncio.ensure_future(answer(engine))
    patient = asyncio.ensure_future(answer(engine))
    await until(lambda: engine.stats().state is EngineState.LOADING)
    impatient.cancel()
    assert len(await patient) == 5
    assert len(engines.made["a"]) == 1


async def test_vectors_and_grammars_have_it_loaded_too(engines: Engines) -> None:
    first, second = engines("a", 60), engines("b", 60)
    assert len(await first.embed(EmbedRequest((1, 2)))) == 4
    assert len(await second.embed(EmbedRequest((1, 2)))) == 4
    assert engines.in_memory == ["b"]


async def test_a_model_that_cannot_be_loaded_says_why_and_leaves_the_memory_free(engines: Engines) -> None:
    broken, other = engines("a", 60), engines("b", 60)
    engines.failing.add("a")
    with pytest.raises(EngineUnavailable, match=r"The model a can't be loaded at the moment\. The file is damaged"):
        await answer(broken)
    assert engines.in_memory == []
    assert len(await answer(other)) == 5
    engines.failing.clear()
    assert len(await answer(broken)) == 5


async def test_what_can_never_fit_is_refused_with_the_sum(engines: Engines) -> None:
    with pytest.raises(ModelLoadError, match=r"takes 0\.0 GB .* all models together may have 0\.0 GB"):
        engines("a", ROOM + 1)


async def test_after_its_time_without_work_it_is_unloaded_and_comes_back(engines: Engines) -> None:
    engine = engines("a", 60, keep_alive=0.02)
    await answer(engine)
    await until(lambda: engines.in_memory == [])
    assert engine.info.model_id == "a", "what it is, is known still"
    assert len(await answer(engine)) == 5


async def test_work_begun_in_time_keeps_it(engines: Engines) -> None:
    engine = engines("a", 60, keep_alive=0.05)
    for _ in range(6):
        await answer(engine, 10)
    assert len(engines.made["a"]) == 1


async def test_before_it_was_ever_loaded_nothing_is_known_of_it(engines: Engines) -> None:
    engine = engines("a", 60)
    assert not engine.seen
    with pytest.raises(EngineUnavailable, match="was not loaded yet"):
        _ = engine.info


async def test_a_closed_one_says_so(engines: Engines) -> None:
    engine = engines("a", 60)
    await engine.start()
    await engine.close()
    assert engine.stats().state is EngineState.CLOSED
    with pytest.raises(EngineUnavailable, match="closed"):
        await answer(engine)


async def test_models_that_take_turns_are_all_served(engines: Engines, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(under_test, "LEAST_SECONDS", 0.05)
    three = [engines(name, 60) for name in "abc"]
    answers = await asyncio.gather(*(answer(engine, 8) for _ in range(6) for engine in three))
    assert [len(ids) for ids in answers] == [8] * 18
