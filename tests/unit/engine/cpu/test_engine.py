"""The cpu engine around a scripted model; what it has in common with the others is in tests/contract."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
from blockbuster import blockbuster_ctx
from structlog.testing import capture_logs
from tests.unit.engine.cpu.scripted import VOCABULARY_SIZE, ScriptedModel, ScriptedVocabulary, answer

from quern.config_models import EngineSettings
from quern.engine.base import EngineEvent, EngineState, Finished, GenerateRequest, Logprob, Tokens
from quern.engine.cpu import engine as cpu_engine_module
from quern.engine.cpu import thread_watch
from quern.engine.cpu.engine import CpuEngine, with_end_ids
from quern.engine.cpu.model import Model
from quern.engine.cpu.scheduler import Scheduler, Step
from quern.engine.cpu.sequence import Part
from quern.errors import ContextExceeded, EngineFailed, EngineUnavailable, InvalidRequest, ModelLoadError
from quern.events import Queued
from quern.grammar.compiler import Constraint
from quern.grammar.kinds import JsonGrammar
from quern.prompt.codec import TextCodec
from quern.sampling import SamplingParams
from quern.types import FinishReason, KvUsage, StepFacts

PROMPT = tuple(range(10))
SETTINGS = EngineSettings(parallel=2, kv_tokens=256)
ONE_AT_ONCE = SETTINGS.model_copy(update={"parallel": 1})
WAIT_SECONDS = 5
ONE = JsonGrammar('{"const": 1}')
REFUSED = JsonGrammar('{"not": {}}')


def cpu_engine(
    model: ScriptedModel | None = None,
    *,
    load: Callable[[Callable[[float], None]], Model] | None = None,
    settings: EngineSettings = SETTINGS,
    end_ids: frozenset[int] = frozenset(),
    vocabulary_size: int = VOCABULARY_SIZE,
    on_step: Callable[[StepFacts], object] | None = None,
) -> CpuEngine:
    loaded = model if model is not None else ScriptedModel()
    return CpuEngine(
        Path("no-such.gguf"),
        model_id="scripted",
        facts=TextCodec.builtin().facts,
        settings=settings,
        vocabulary=ScriptedVocabulary(vocabulary_size, end_ids),
        load=load if load is not None else lambda _: loaded,
        on_step=on_step,
    )


@asynccontextmanager
async def running(engine: CpuEngine) -> AsyncGenerator[CpuEngine]:
    await engine.start()
    try:
        yield engine
    finally:
        await engine.close()


def request(max_tokens: int = 5, prompt: tuple[int, ...] = PROMPT) -> GenerateRequest:
    return GenerateRequest(prompt, SamplingParams(max_tokens=max_tokens))


async def collect(engine: CpuEngine, request: GenerateRequest) -> list[EngineEvent]:
    async with aclosing(engine.generate(request)) as events:
        return [event async for event in events]


def ids(events: Sequence[EngineEvent]) -> tuple[int, ...]:
    return tuple(token for event in events if isinstance(event, Tokens) for token in event.ids)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(WAIT_SECONDS):
        while not condition():
            await asyncio.sleep(0.001)


class Doorkeeper:
    """Lets a model's steps through one by one, or fails them."""

    def __init__(self, *, fail_step: int | None = None, failure: type[BaseException] = RuntimeError) -> None:
        self.asked = 0
        self.steps = 0
        self._fail_step = fail_step
        self._failure = failure
        self._open = threading.Semaphore(0)

    def __call__(self, parts: Sequence[Part]) -> None:
        self.asked += 1
        assert self._open.acquire(timeout=WAIT_SECONDS), "a step was never let through"
        self.steps += 1
        if self.steps == self._fail_step:
            msg = "the native module broke"
            raise self._failure(msg)

    def let(self, steps: int) -> None:
        self._open.release(steps)


async def test_many_at_once_each_get_their_own_answer_from_one_thread() -> None:
    model = ScriptedModel()
    prompts = [tuple(range(start, start + 9)) for start in range(6)]
    async with running(cpu_engine(model)) as engine:
        runs = await asyncio.gather(*(collect(engine, request(7, prompt)) for prompt in prompts))
        assert (engine.stats().running, engine.stats().waiting) == (0, 0)
    assert [ids(run) for run in runs] == [answer(prompt, 7) for prompt in prompts]
    assert [run[0] for run in runs[2:]] == [Queued(position) for position in (1, 2, 3, 4)]
    assert model.threads == {"quern-cpu-engine"}


async def test_each_step_is_told_of_with_its_sequences_their_tokens_and_its_time() -> None:
    steps: list[StepFacts] = []
    async with running(cpu_engine(settings=SETTINGS, on_step=steps.append)) as engine:
        await asyncio.gather(*(collect(engine, request(max_tokens=8)) for _ in range(2)))
    prompts_and_answers = 2 * (len(PROMPT) + 8 - 1)  # what is drawn last is never computed
    computed = sum(step.tokens for step in steps)
    assert prompts_and_answers - len(PROMPT) <= computed <= prompts_and_answers
    assert max(step.rows for step in steps) == 2
    assert all(step.seconds > 0 for step in steps)


async def test_sequences_that_give_way_are_told_of_with_their_step() -> None:
    steps: list[StepFacts] = []
    async with running(cpu_engine(ScriptedModel(blocks=10, block_tokens=4), on_step=steps.append)) as engine:
        await asyncio.gather(*(collect(engine, request(30, tuple(range(n, n + 8)))) for n in (0, 20)))
    assert sum(step.preempted for step in steps) > 0


async def test_the_kv_cache_tells_what_it_holds() -> None:
    model = ScriptedModel()
    async with running(cpu_engine(model)) as engine:
        empty = engine.stats().kv
        assert empty == KvUsage(used=0, cached=0, free=model.spec.kv_blocks)
        await collect(engine, request(max_tokens=12))
        kept = engine.stats().kv
    assert kept is not None
    assert kept.used + kept.cached + kept.free == model.spec.kv_blocks
    assert kept.cached > 0


async def test_logprobs_come_with_the_tokens_where_they_are_asked_for() -> None:
    asked = replace(request(2), sampling=SamplingParams(max_tokens=2, logprobs=1))
    async with running(cpu_engine()) as engine:
        with_logprobs, without = await collect(engine, asked), await collect(engine, request(2))
    expected = (Logprob(-0.5, ((7, -0.25),)),)
    assert [event.logprobs for event in with_logprobs if isinstance(event, Tokens)] == [expected, expected]
    assert [event.logprobs for event in without if isinstance(event, Tokens)] == [None, None]


def grammar_children() -> list[psutil.Process]:
    return [child for child in psutil.Process().children() if "quern.grammar.compile_trial_child" in child.cmdline()]


async def test_a_grammar_is_compiled_before_its_request_joins_the_line() -> None:
    model = ScriptedModel()
    with blockbuster_ctx("quern"):
        async with running(cpu_engine(model)) as engine:
            await engine.check_grammar(ONE)
            for grammar in (ONE, None, ONE):
                await collect(engine, replace(request(2), grammar=grammar))
    first, none, again = model.constraints
    assert isinstance(first, Constraint)
    assert isinstance(again, Constraint)
    assert first is not again, "each answer is at a place of its own in the grammar"
    assert none is None


async def test_a_refused_grammar_never_joins_the_line() -> None:
    model = ScriptedModel()
    async with running(cpu_engine(model)) as engine:
        for attempt in (engine.check_grammar(REFUSED), collect(engine, replace(request(), grammar=REFUSED))):
            with pytest.raises(InvalidRequest, match="`not` at #"):
                await attempt
        assert (engine.stats().running, engine.stats().waiting) == (0, 0)
    assert not model.constraints


async def test_a_grammar_that_is_too_long_is_refused_unseen() -> None:
    async with running(cpu_engine()) as engine:
        with pytest.raises(InvalidRequest, match="JSON schema has 100000 characters"):
            await engine.check_grammar(JsonGrammar(" " * 100_000))
        assert not grammar_children()


async def test_before_the_start_and_after_the_end_no_grammar_is_compiled_and_no_process_is_left() -> None:
    engine = cpu_engine()
    with pytest.raises(EngineUnavailable, match="has not been started"):
        await engine.check_grammar(ONE)
    async with running(engine):
        await engine.check_grammar(ONE)
    with pytest.raises(EngineUnavailable, match="has been closed"):
        await engine.check_grammar(ONE)
    assert not grammar_children()


async def test_an_idle_engine_sleeps_and_wakes_up_for_a_request(monkeypatch: pytest.MonkeyPatch) -> None:
    plans: list[float] = []
    plan = Scheduler.plan

    def counted(scheduler: Scheduler, now: float) -> Step:
        plans.append(now)
        return plan(scheduler, now)

    monkeypatch.setattr(Scheduler, "plan", counted)
    async with running(cpu_engine()) as engine:
        for _ in range(2):
            assert ids(await collect(engine, request(3))) == answer(PROMPT, 3)
            await asyncio.sleep(0.05)
            idle_from = len(plans)
            await asyncio.sleep(0.05)
            assert len(plans) == idle_from > 0


async def test_the_models_own_end_is_a_stop_unless_it_is_ignored() -> None:
    end = answer(PROMPT, 4)[3]
    async with running(cpu_engine(end_ids=frozenset({end}))) as engine:
        events = await collect(engine, request(8))
    assert ids(events) == answer(PROMPT, 3)
    assert isinstance(events[-1], Finished)
    assert events[-1].reason is FinishReason.STOP


def test_an_ignored_end_is_never_drawn() -> None:
    sampling = SamplingParams(ignore_eos=True, logit_bias={1: 2.0})
    changed = with_end_ids(GenerateRequest(PROMPT, sampling), frozenset({7, 8}))
    assert changed.sampling.logit_bias == {1: 2.0, 7: -float("inf"), 8: -float("inf")}
    assert changed.stop_token_ids == frozenset()


async def test_closing_a_generation_frees_it_before_the_next_step() -> None:
    door = Doorkeeper()
    model = ScriptedModel(before_step=door)
    async with running(cpu_engine(model)) as engine:
        events = engine.generate(request(50))
        door.let(2)
        async for event in events:
            if isinstance(event, Tokens):
                break
        await events.aclose()
        assert engine.stats().running == 1, "it runs until its step is over"
        door.let(1)
        await until(lambda: engine.stats().running == 0)
        assert door.steps <= 3
        door.let(100)


async def test_leaving_the_line_is_seen_at_once() -> None:
    door = Doorkeeper()
    async with running(cpu_engine(ScriptedModel(before_step=door))) as engine:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(collect(engine, request(5))) for _ in range(2)]
            await until(lambda: engine.stats().running == 2)
            async with aclosing(engine.generate(request(5))) as waits:
                door.let(1)
                assert await anext(waits) == Queued(1)
                assert engine.stats().waiting == 1
            assert engine.stats().waiting == 0
            door.let(100)
        assert all(ids(task.result()) == answer(PROMPT, 5) for task in tasks)


async def test_a_failed_step_ends_who_runs_is_logged_once_and_the_engine_goes_on() -> None:
    door = Doorkeeper(fail_step=2)
    door.let(100)
    async with running(cpu_engine(ScriptedModel(before_step=door), settings=ONE_AT_ONCE)) as engine:
        with capture_logs() as logs:
            failing, waiting = (asyncio.ensure_future(collect(engine, request(5))) for _ in range(2))
            await asyncio.wait([failing, waiting], timeout=WAIT_SECONDS)
        error = failing.exception()
        assert isinstance(error, EngineFailed)
        assert "lost" in str(error)
        assert ids(waiting.result()) == answer(PROMPT, 5)
        assert [entry["event"] for entry in logs] == ["step_failed"]
        assert engine.stats().state is EngineState.READY
        assert ids(await collect(engine, request(5))) == answer(PROMPT, 5)


async def test_a_thread_that_ends_loses_who_is_there_and_another_one_loads_the_model_again() -> None:
    door = Doorkeeper(fail_step=2, failure=SystemExit)  # no Exception: nothing that the thread would outlive
    door.let(100)
    async with running(cpu_engine(ScriptedModel(before_step=door), settings=ONE_AT_ONCE)) as engine:
        lost = [asyncio.ensure_future(collect(engine, request(5))) for _ in range(2)]
        await asyncio.wait(lost, timeout=WAIT_SECONDS)
        for one in lost:
            with pytest.raises(EngineFailed, match="the answer was lost"):
                one.result()
        await until(lambda: engine.stats().state is EngineState.READY)
        assert len(engine_threads()) == 1
        assert ids(await collect(engine, request(5))) == answer(PROMPT, 5)


async def test_a_model_that_cannot_be_loaded_again_at_once_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(thread_watch, "FIRST_DELAY_SECONDS", 0.01)
    door, loads = Doorkeeper(fail_step=1, failure=SystemExit), 0
    door.let(100)

    def load(_progress: Callable[[float], None]) -> ScriptedModel:
        nonlocal loads
        loads += 1
        if loads in {2, 3}:
            msg = "There was not enough memory."
            raise ModelLoadError(msg)
        return ScriptedModel(before_step=door)

    async with running(cpu_engine(load=load)) as engine:
        with pytest.raises(EngineFailed):
            await collect(engine, request(5))
        with pytest.raises(EngineUnavailable, match="lost and is starting again"):
            await collect(engine, request(5))
        await until(lambda: engine.stats().state is EngineState.READY)
        assert loads == 4
        assert ids(await collect(engine, request(5))) == answer(PROMPT, 5)


async def test_a_step_that_does_not_end_fails_who_is_there_and_takes_nobody_until_it_does() -> None:
    door = Doorkeeper()
    settings = ONE_AT_ONCE.model_copy(update={"stuck_seconds": 0.1})
    async with running(cpu_engine(ScriptedModel(before_step=door), settings=settings)) as engine:
        given_up = [asyncio.ensure_future(collect(engine, request(5))) for _ in range(2)]
        await asyncio.wait(given_up, timeout=WAIT_SECONDS)
        for one in given_up:
            with pytest.raises(EngineFailed, match=r"engine\.stuck_seconds.*started anew"):
                one.result()
        assert (engine.stats().state, engine.stats().running) == (EngineState.STUCK, 0)
        assert engine.stats().silent_seconds > 0.1, "the service manager's watchdog has to starve"
        with pytest.raises(EngineUnavailable, match="stuck"):
            await collect(engine, request(5))
        door.let(100)
        await until(lambda: engine.stats().state is EngineState.READY)
        steps = door.steps
        assert ids(await collect(engine, request(5))) == answer(PROMPT, 5)
        assert door.steps == steps + 5, "those that were given up are computed no further"


async def test_an_engine_whose_step_never_ends_can_be_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu_engine_module, "CLOSE_SECONDS", 0.05)
    door = Doorkeeper()
    engine = cpu_engine(ScriptedModel(before_step=door))
    await engine.start()
    runs = asyncio.ensure_future(collect(engine, request(5)))
    await until(lambda: door.asked == 1)
    await engine.close()
    with pytest.raises(EngineFailed):
        await runs
    assert engine_threads(), "nothing ends a thread that computes"
    door.let(1)
    await until(lambda: not engine_threads())


@pytest.mark.parametrize(
    ("broken", "sentence"),
    [
        (replace(request(), sampling=SamplingParams(top_p=2.0, max_tokens=5)), "top_p is too high"),
        (replace(request(), prompt=()), "one token or more"),
        (replace(request(), prompt=(1, VOCABULARY_SIZE)), "ids from 0 to 49"),
        (replace(request(), prompt=(-1,)), "ids from 0 to 49"),
        (replace(request(), generated=(VOCABULARY_SIZE,)), "ids from 0 to 49"),
        (replace(request(), generated=(3, -1)), "ids from 0 to 49"),
        (replace(request(), cache_salt="\ud800"), "surrogates not allowed"),
    ],
)
async def test_a_request_that_cant_be_computed_fails_alone(broken: GenerateRequest, sentence: str) -> None:
    async with running(cpu_engine()) as engine, asyncio.TaskGroup() as group:
        runs = group.create_task(collect(engine, request()))
        with pytest.raises(EngineFailed, match=sentence):
            await collect(engine, broken)
        assert ids(await runs) == answer(PROMPT, 5)


async def test_a_preempted_sequence_counts_as_waiting_until_it_goes_on() -> None:
    door = Doorkeeper()
    async with running(cpu_engine(ScriptedModel(blocks=10, block_tokens=4, before_step=door))) as engine:
        async with asyncio.TaskGroup() as group:
            runs = [group.create_task(collect(engine, request(30, tuple(range(n, n + 8))))) for n in (0, 20)]
            seen: set[tuple[int, int]] = set()
            for _ in range(200):
                door.let(1)
                await asyncio.sleep(0.002)
                seen.add((engine.stats().running, engine.stats().waiting))
        assert [ids(run.result()) for run in runs] == [answer(tuple(range(n, n + 8)), 30) for n in (0, 20)]
    assert seen >= {(2, 0), (1, 1), (1, 0), (0, 0)}


async def test_the_event_loop_is_never_blocked() -> None:
    def take_a_while(_: Sequence[Part]) -> None:
        threading.Event().wait(0.005)

    slow = ScriptedModel(before_step=take_a_while)
    with blockbuster_ctx("quern"):
        async with running(cpu_engine(slow)) as engine:
            runs = await asyncio.gather(*(collect(engine, request(5)) for _ in range(3)))
    assert all(ids(run) == answer(PROMPT, 5) for run in runs)


async def test_what_can_never_fit_is_refused_at_the_door() -> None:
    async with running(cpu_engine(ScriptedModel(blocks=5, block_tokens=4))) as engine:
        assert engine.info.context_length == 20
        with pytest.raises(ContextExceeded):
            await collect(engine, request(11))
        assert len(ids(await collect(engine, request(10)))) == 10


@pytest.mark.parametrize(
    ("setting", "context_length"), [(None, 256), (300, 256), (256, 256)], ids=["unset", "more", "less"]
)
async def test_the_context_is_the_least_of_setting_model_and_cache(setting: int | None, context_length: int) -> None:
    settings = SETTINGS.model_copy(update={"context_length": setting})
    async with running(cpu_engine(settings=settings)) as engine:
        assert engine.info.context_length == context_length
    async with running(cpu_engine(ScriptedModel(blocks=20000), settings=SETTINGS)) as engine:
        assert engine.info.context_length == 32768


async def test_loading_is_told_and_a_request_meanwhile_is_told_when_to_come_back() -> None:
    halfway, go_on = threading.Event(), threading.Event()

    def load(progress: Callable[[float], None]) -> ScriptedModel:
        progress(0.5)
        halfway.set()
        assert go_on.wait(WAIT_SECONDS)
        progress(1.0)
        return ScriptedModel()

    engine = cpu_engine(load=load)
    async with asyncio.TaskGroup() as group:
        loading = group.create_task(engine.start())
        await until(halfway.is_set)
        stats = engine.stats()
        assert (stats.state, stats.load_progress) == (EngineState.LOADING, 0.5)
        assert stats.load_remaining >= 1
        with pytest.raises(EngineUnavailable, match="still loading") as refused:
            await collect(engine, request())
        assert refused.value.retry_after >= 1
        go_on.set()
        await loading
    assert engine.stats().load_progress == 1
    await engine.close()


async def test_a_model_that_cant_be_loaded_is_the_start_errors_own_sentence() -> None:
    def load(progress: Callable[[float], None]) -> ScriptedModel:
        msg = "The file is damaged."
        raise ModelLoadError(msg)

    engine = cpu_engine(load=load)
    with pytest.raises(ModelLoadError, match="The file is damaged"):
        await engine.start()
    assert engine.stats().state is EngineState.CLOSED
    assert not engine_threads()


async def test_a_tokenizer_that_knows_more_tokens_than_the_weights_is_refused() -> None:
    engine = cpu_engine(vocabulary_size=VOCABULARY_SIZE + 1)
    with pytest.raises(ModelLoadError, match="do not belong together"):
        await engine.start()
    assert not engine_threads()


async def test_a_start_that_is_cancelled_stops_the_loading() -> None:
    loading = threading.Event()

    def load(progress: Callable[[float], None]) -> ScriptedModel:
        while True:
            progress(0.1)
            loading.set()

    engine = cpu_engine(load=load)
    start = asyncio.ensure_future(engine.start())
    await until(loading.is_set)
    start.cancel()
    await asyncio.wait([start])
    assert start.cancelled()
    assert not engine_threads()
    await engine.close()


async def test_closing_ends_who_runs_and_who_waits_at_once_and_the_thread_with_the_model() -> None:
    door = Doorkeeper()
    engine = cpu_engine(ScriptedModel(before_step=door), settings=ONE_AT_ONCE)
    await engine.start()
    tasks = [asyncio.ensure_future(collect(engine, request(50))) for _ in range(2)]
    await until(lambda: (engine.stats().running, engine.stats().waiting) == (1, 1))
    closing = [asyncio.ensure_future(engine.close()) for _ in range(2)]
    await asyncio.wait(tasks, timeout=WAIT_SECONDS)
    assert all(isinstance(task.exception(), EngineFailed) for task in tasks)
    door.let(1)
    await asyncio.gather(*closing)
    assert door.asked == 1, "a step was begun after the end"
    assert not engine_threads()
    assert (engine.stats().running, engine.stats().waiting) == (0, 0)
    await engine.close()
    with pytest.raises(EngineUnavailable, match="closed"):
        await collect(engine, request())


def engine_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "quern-cpu-engine"]
