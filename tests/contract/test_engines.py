"""What every engine promises: the same cases against each of them, with a tiny random network."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from quern.engine.base import EngineState, Finished, GenerateRequest, Priority, Tokens
from quern.errors import ContextExceeded, EngineFailed, EngineUnavailable
from quern.events import Prefill, Queued
from quern.sampling import SamplingParams
from quern.types import FinishReason

from .engines import CONTEXT_LENGTH, ENGINES, PARALLEL, Subject, exhaust, make_subject

pytestmark = pytest.mark.asyncio(loop_scope="module")


async def test_one_finished_comes_last_and_the_counts_add_up(subject: Subject) -> None:
    request = subject.request("Count to three.", max_tokens=40)
    run = await subject.run(request)
    assert isinstance(run.events[-1], Finished)
    usage = run.finished.usage
    assert usage.prompt_tokens == len(request.prompt)
    assert usage.completion_tokens == len(run.ids) > 0
    assert usage.cached_tokens == 0
    kinds = [type(event) for event in run.events]
    assert kinds.index(Tokens) > max(index for index, kind in enumerate(kinds) if kind is Prefill)
    assert all(event.ids for event in run.events if isinstance(event, Tokens))


async def test_prefill_is_told_from_the_first_token_to_the_last(subject: Subject) -> None:
    request = replace(subject.long_prompt(300), sampling=SamplingParams(max_tokens=1))
    run = await subject.run(request)
    assert [prefill.done for prefill in run.prefills] == sorted({prefill.done for prefill in run.prefills})
    assert {prefill.total for prefill in run.prefills} == {len(request.prompt)}
    assert run.prefills[-1].done == len(request.prompt)
    assert len(run.prefills) > (2 if subject.tells_prefill else 1)
    timings = run.finished.timings
    assert timings.prefill_ms > 0


async def test_what_was_forgotten_is_computed_again_and_nothing_else(subject: Subject) -> None:
    deleted, kept = [replace(subject.long_prompt(200), cache_tag=tag) for tag in ("deleted", "kept")]
    for request in (deleted, kept):
        await subject.run(request)
        assert (await subject.run(request)).finished.usage.cached_tokens > 100
    subject.engine.forget({"deleted", "of nobody", ""})
    assert (await subject.run(deleted)).finished.usage.cached_tokens == 0
    assert (await subject.run(kept)).finished.usage.cached_tokens > 100
    assert (await subject.run(deleted)).finished.usage.cached_tokens > 100, "from now on it is cached as ever"


async def test_max_tokens_is_honoured_to_the_token(subject: Subject) -> None:
    for max_tokens in (1, 5):
        request = subject.endless(max_tokens=max_tokens)
        run = await subject.run(request)
        assert len(run.ids) == max_tokens
        assert run.finished.reason is FinishReason.LENGTH


async def test_an_answer_that_ends_by_itself_is_a_stop_and_its_end_token_is_not_shown(subject: Subject) -> None:
    likely = {min(subject.codec.stop_token_ids): 10.0}
    sampling = SamplingParams(max_tokens=1000, temperature=1.0, top_p=1.0, top_k=0, seed=1, logit_bias=likely)
    run = await subject.run(replace(subject.request("Say something."), sampling=sampling))
    assert run.finished.reason is FinishReason.STOP
    assert run.finished.usage.completion_tokens == len(run.ids)
    assert not subject.codec.stop_token_ids & set(run.ids)


async def test_a_stop_id_ends_the_generation_and_is_not_shown(subject: Subject) -> None:
    request = subject.endless("Count from 1 to 20.", max_tokens=12)
    whole = (await subject.run(request)).ids
    stop = next(token for token in whole if whole.index(token) > 3)
    again = replace(request, stop_token_ids=frozenset({stop}), cache_salt="another")
    run = await subject.run(again)
    assert run.ids == whole[: whole.index(stop)]
    assert run.finished.reason is FinishReason.STOP
    assert run.finished.usage.completion_tokens == len(run.ids)
    assert run.finished.usage.prompt_tokens == len(request.prompt)


async def test_greedy_decoding_is_deterministic(subject: Subject) -> None:
    first, second = [(await subject.run(subject.request("Write a haiku.", max_tokens=16))).ids for _ in range(2)]
    assert first == second


@pytest.mark.parametrize("values", [{"top_p": 0.0}, {"temperature": 1e-30}, {"top_k": 1}])
async def test_where_only_the_likeliest_token_can_be_drawn_the_answer_is_the_greedy_one(
    subject: Subject, values: dict[str, Any]
) -> None:
    drawn: dict[str, Any] = {"max_tokens": 16, "temperature": 1.0, "top_p": 0.9, "top_k": 0, "repetition_penalty": 1.0}
    changes: list[dict[str, Any]] = [{"temperature": 0.0}, values]
    asked = [SamplingParams(**(drawn | change)) for change in changes]
    request = subject.request("Write a haiku.")
    greedy, other = [(await subject.run(replace(request, sampling=sampling))).ids for sampling in asked]
    assert other == greedy


async def test_the_same_seed_draws_the_same_tokens(subject: Subject) -> None:
    sampling = SamplingParams(max_tokens=16, temperature=1.0, top_p=1.0, top_k=0, seed=2**40 + 7)
    requests = [replace(subject.request("Write a poem."), sampling=sampling) for _ in range(2)]
    first, second = [(await subject.run(request)).ids for request in requests]
    assert first == second


async def test_probabilities_are_told_only_where_they_are_asked_for(subject: Subject) -> None:
    run = await subject.run(subject.endless(max_tokens=3))
    assert {event.logprobs for event in run.tokens} == {None}


@pytest.mark.parametrize("asked", [0, 3])
async def test_every_token_has_its_probability_and_those_of_the_likeliest(subject: Subject, asked: int) -> None:
    sampling = SamplingParams(max_tokens=12, temperature=1.0, top_p=1.0, top_k=0, seed=3, logprobs=asked)
    run = await subject.run(replace(subject.request("Say hello to Bob."), sampling=sampling))
    for event in run.tokens:
        assert event.logprobs is not None
        assert len(event.logprobs) == len(event.ids)
        for token, logprob in zip(event.ids, event.logprobs, strict=True):
            likeliest = [value for _, value in logprob.top]
            assert logprob.value <= 0
            assert len({other for other, _ in logprob.top}) == asked
            assert likeliest == sorted(likeliest, reverse=True)
            assert all(value <= 0 for value in likeliest)
            assert dict(logprob.top).get(token, logprob.value) == pytest.approx(logprob.value, abs=1e-4)


async def test_what_is_drawn_greedily_is_the_likeliest(subject: Subject) -> None:
    sampling = SamplingParams(max_tokens=12, temperature=0, repetition_penalty=1, logprobs=2)
    run = await subject.run(replace(subject.request("Say hello to Bob."), sampling=sampling))
    logprobs = [logprob for event in run.tokens for logprob in event.logprobs or ()]
    assert [logprob.top[0][0] for logprob in logprobs] == list(run.ids)
    assert [logprob.top[0][1] for logprob in logprobs] == pytest.approx([logprob.value for logprob in logprobs])


async def test_temperature_and_truncation_do_not_change_what_is_told(subject: Subject) -> None:
    plain = SamplingParams(max_tokens=1, temperature=0, repetition_penalty=1, logprobs=2)
    sharp = replace(plain, temperature=0.3, top_k=1, top_p=0.1, repetition_penalty=1.3, logit_bias={5: 3.0})
    runs = [
        await subject.run(replace(subject.request("Say hello to Bob."), sampling=sampling))
        for sampling in (plain, sharp)
    ]
    first, second = (next(logprob for event in run.tokens for logprob in event.logprobs or ()) for run in runs)
    assert [value for _, value in first.top] == pytest.approx([value for _, value in second.top], abs=1e-3)


async def test_the_next_turn_reuses_its_history_and_another_salt_reuses_nothing(subject: Subject) -> None:
    first = subject.request("Name three colours. " * 5, max_tokens=12, salt="alice")
    answer = (await subject.run(first)).ids
    follow_up = (*first.prompt, *answer, *subject.ids("And three more."))
    stranger = await subject.run(replace(first, prompt=follow_up, cache_salt="mallory"))
    assert stranger.finished.usage.cached_tokens == 0
    assert stranger.prefills[0].cached == 0
    own = await subject.run(replace(first, prompt=follow_up))
    computed = len(first.prompt) + len(answer) - 1
    assert own.finished.usage.cached_tokens >= computed // subject.cache_grain * subject.cache_grain > 0
    assert own.prefills[0].cached == (own.finished.usage.cached_tokens if subject.tells_prefill else 0)


async def test_more_requests_than_sequences_wait_with_falling_positions_and_all_finish(subject: Subject) -> None:
    async with asyncio.TaskGroup() as group:
        tasks = [
            group.create_task(subject.run(subject.endless(f"Number {n}", max_tokens=6))) for n in range(PARALLEL + 3)
        ]
    runs = [task.result() for task in tasks]
    assert all(len(run.ids) == 6 for run in runs)
    assert [run.positions[:1] for run in runs] == [[]] * PARALLEL + [[1], [2], [3]]
    for run in runs:
        assert all(later < earlier for earlier, later in pairwise(run.positions))
    assert all(run.finished.timings.queued_ms > 0 for run in runs[PARALLEL:])


async def test_a_higher_priority_goes_first(subject: Subject) -> None:
    order: list[Priority] = []

    async def runs(priority: Priority) -> None:
        request = replace(subject.endless(max_tokens=2), priority=priority)
        async with aclosing(subject.engine.generate(request)) as events:
            async for event in events:
                if isinstance(event, Tokens) and priority not in order:
                    order.append(priority)

    async with (
        subject.running(subject.endless(max_tokens=CONTEXT_LENGTH - 100)),
        asyncio.TaskGroup() as group,
        subject.running(subject.endless(max_tokens=800)),
    ):
        for waiting, priority in enumerate(reversed(Priority), 1):
            group.create_task(runs(priority))
            await subject.wait_until(lambda waiting=waiting: order or subject.engine.stats().waiting == waiting)
    assert order[0] is Priority.INTERACTIVE
    assert set(order) == set(Priority)


async def _tell(subject: Subject, request: GenerateRequest, name: str, order: list[str]) -> None:
    """Run it; its name joins the order with each of its tokens."""
    async with aclosing(subject.engine.generate(request)) as events:
        async for event in events:
            order += [name] * isinstance(event, Tokens)


async def test_one_request_of_an_owner_does_not_wait_behind_many_of_another(subject: Subject) -> None:
    order: list[str] = []

    def of(owner: str, max_tokens: int) -> GenerateRequest:
        return replace(subject.endless(max_tokens=max_tokens), owner=owner)

    async with (
        subject.running(of("ann", CONTEXT_LENGTH - 100)),
        asyncio.TaskGroup() as group,
        subject.running(of("ann", 800)),
    ):
        for waiting in range(1, 5):
            group.create_task(_tell(subject, of("ann", 2), "ann", order))
            await subject.wait_until(lambda waiting=waiting: subject.engine.stats().waiting == waiting)
        group.create_task(_tell(subject, of("bob", 2), "bob", order))
        await subject.wait_until(lambda: order or subject.engine.stats().waiting == 5)
    assert order[:2] == ["bob", "bob"]
    assert order.count("ann") == 8


async def test_a_request_that_nobody_waits_for_any_more_lets_others_go_first(subject: Subject) -> None:
    order: list[str] = []
    left, stayed = subject.endless(max_tokens=2), subject.endless(max_tokens=2)

    async with (
        subject.running(subject.endless(max_tokens=CONTEXT_LENGTH - 100)),
        asyncio.TaskGroup() as group,
        subject.running(subject.endless(max_tokens=800)),
    ):
        for waiting, (name, request) in enumerate((("left", left), ("stayed", stayed)), 1):
            group.create_task(_tell(subject, request, name, order))
            await subject.wait_until(lambda waiting=waiting: subject.engine.stats().waiting == waiting)
        left.override.priority = Priority.BACKGROUND
    assert order == ["stayed", "stayed", "left", "left"]


async def test_a_request_waits_where_a_sequence_is_free_but_the_cache_has_no_room_for_it(subject: Subject) -> None:
    large = subject.filling()
    async with aclosing(subject.engine.generate(replace(large, cache_salt="second"))) as second:
        async with subject.running(large):
            assert await anext(second) == Queued(1)
            assert subject.engine.stats().running == 1 < PARALLEL
        assert isinstance(await anext(second), Prefill)


async def test_leaving_the_queue_frees_the_place_and_the_next_one_runs(subject: Subject) -> None:
    async with subject.running(subject.endless(max_tokens=500)), subject.running(subject.endless(max_tokens=500)):
        async with aclosing(subject.engine.generate(subject.endless())) as waits:
            assert await anext(waits) == Queued(1)
            assert subject.engine.stats().waiting == 1
        assert subject.engine.stats().waiting == 0
        assert subject.engine.stats().running == PARALLEL


@pytest.mark.parametrize("phase", [Prefill, Tokens])
async def test_closing_frees_the_sequence_within_a_step_or_two(subject: Subject, phase: type) -> None:
    request = subject.long_prompt(1500) if phase is Prefill else subject.endless()
    events = subject.engine.generate(request)
    async for event in events:
        if isinstance(event, phase):
            break
    await events.aclose()
    # The prompt alone would take several times as long.
    await subject.wait_until(lambda: subject.engine.stats().running == 0, seconds=5)
    assert len((await subject.run(subject.request(max_tokens=3))).ids) > 0


async def test_cancelling_the_task_that_reads_frees_the_sequence(subject: Subject) -> None:
    tokens = asyncio.Event()

    async def read() -> None:
        async for event in subject.engine.generate(subject.endless()):
            if isinstance(event, Tokens):
                tokens.set()

    task = asyncio.get_running_loop().create_task(read())
    async with asyncio.timeout(20):
        await tokens.wait()
    task.cancel()
    await asyncio.wait([task])
    assert task.cancelled()
    await subject.wait_until(lambda: subject.engine.stats().running == 0, seconds=5)


async def test_what_can_never_fit_the_context_is_refused_with_the_counts(subject: Subject) -> None:
    request = subject.request(max_tokens=CONTEXT_LENGTH)
    with pytest.raises(ContextExceeded) as refused:
        await subject.run(request)
    assert refused.value.prompt_tokens == len(request.prompt)
    assert refused.value.context_length == subject.engine.info.context_length == CONTEXT_LENGTH


async def test_a_crash_fails_what_runs_keeps_what_waits_and_the_engine_comes_back(subject: Subject) -> None:
    async with (
        asyncio.TaskGroup() as group,
        subject.running(subject.endless()) as first,
        subject.running(subject.endless()) as second,
    ):
        waits = group.create_task(subject.run(subject.endless("waiting")))
        await subject.wait_until(lambda: subject.engine.stats().waiting == 1)
        await subject.crash()
        for runs in (first, second):
            with pytest.raises(EngineFailed, match="lost"):
                await exhaust(runs)
        if subject.restarts:
            assert subject.engine.stats().state is EngineState.RESTARTING
            assert subject.engine.stats().load_remaining > 0
            with pytest.raises(EngineUnavailable) as refused:
                await subject.run(subject.request())
            assert refused.value.retry_after >= 1
        await subject.wait_until(lambda: subject.engine.stats().state is EngineState.READY)
        await subject.wait_until(lambda: subject.engine.stats().running == 1)
        waits.cancel()
    assert (await subject.run(subject.request(max_tokens=3))).ids


@pytest.mark.parametrize("name", ENGINES)
async def test_a_closed_engine_ends_what_runs_and_waits_and_takes_nothing_more(
    name: str, tiny_model_path: Path
) -> None:
    subject = make_subject(name, tiny_model_path)
    engine = subject.engine
    assert engine.stats().state is EngineState.NEW
    with pytest.raises(EngineUnavailable):
        await subject.run(subject.request())
    await engine.start()
    assert engine.stats().state is EngineState.READY
    assert engine.stats().load_progress == 1
    async with (
        asyncio.TaskGroup() as group,
        subject.running(subject.endless()) as first,
        subject.running(subject.endless()) as second,
    ):
        waits = group.create_task(_failure(subject))
        await subject.wait_until(lambda: engine.stats().waiting == 1)
        await engine.close()
        for runs in (first, second):
            with pytest.raises(EngineFailed):
                await exhaust(runs)
    assert isinstance(waits.result(), EngineFailed)
    await engine.close()
    assert engine.stats().state is EngineState.CLOSED
    with pytest.raises(EngineUnavailable):
        await subject.run(subject.request())
    subject.codec.close()


async def _failure(subject: Subject) -> EngineFailed | None:
    try:
        await subject.run(subject.endless("waiting"))
    except EngineFailed as error:
        return error
    return None
