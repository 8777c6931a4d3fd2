"""An answer that gave way to another owner and came back is the one that it would have been: where engines do that."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
import pytest_asyncio

from quern.config_models import EngineSettings
from quern.engine.base import GenerateRequest
from quern.sampling import SamplingParams

from .engines import PARALLEL, RUNS_CPU, SETTINGS, Run, Subject, make_subject, started

pytestmark = pytest.mark.asyncio(loop_scope="module")

NO_SPARE_SLOT = EngineSettings(parallel=PARALLEL, context_length=2048, kv_tokens=4096, batch_tokens=32, threads=1)
SUBJECTS = {
    "cpu": SETTINGS,
    "llamacpp": SETTINGS,
    "llamacpp without a slot to spare": NO_SPARE_SLOT,
    "completions": SETTINGS,
    "vllm": SETTINGS,
}
MARKS = {"cpu": RUNS_CPU, "completions": RUNS_CPU, "vllm": pytest.mark.engines}
EACH = [pytest.param(name, marks=MARKS.get(name, ())) for name in SUBJECTS]


@asynccontextmanager
async def _started(name: str, model: Path) -> AsyncGenerator[Subject]:
    """Started, and at its end found ready and idle."""
    async with started(make_subject(name.split(maxsplit=1)[0], model, SUBJECTS[name])) as subject:
        yield subject
        await subject.assert_idle()


@pytest_asyncio.fixture(scope="module", loop_scope="module", params=EACH)
async def subject(request: pytest.FixtureRequest, tiny_model_path: Path) -> AsyncGenerator[Subject]:
    async with _started(request.param, tiny_model_path) as subject:
        yield subject


async def _beside_bob(subject: Subject, anns: list[GenerateRequest], *, times: int = 2) -> list[Run]:
    """Ann's, in the midst of which Bob is answered again and again, before the first of hers has ended."""
    answered = 0
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(subject.run(replace(ann, owner="ann"))) for ann in anns]
        await subject.wait_until(lambda: subject.engine.stats().running == PARALLEL)
        while not any(task.done() for task in tasks):
            await subject.run(replace(subject.endless("Bob", max_tokens=2), owner="bob"))
            answered += 1
    assert answered >= times, "he had to wait until one of hers ended"
    return [task.result() for task in tasks]


@pytest.mark.parametrize("name", EACH)
async def test_it_has_the_same_tokens_counts_and_end(name: str, small_model_path: Path) -> None:
    """Numbers, of which a real model is sure: llama.cpp rounds otherwise where others are computed beside it."""
    sampling = SamplingParams(max_tokens=40, temperature=0, repetition_penalty=1, logprobs=1)
    async with _started(name, small_model_path) as subject:
        texts = [f"Write the numbers from {first} to {first + 24}, with commas." for first in (1, 101)]
        anns = [GenerateRequest(subject.ids(text), sampling, cache_salt=text) for text in texts]
        *_, newest = await _beside_bob(subject, anns, times=1)
        undisturbed = await subject.run(replace(anns[-1], cache_salt="undisturbed"))
    assert newest.ids == undisturbed.ids
    assert newest.finished.reason == undisturbed.finished.reason
    assert newest.finished.usage == undisturbed.finished.usage
    assert all(event.logprobs is not None for event in newest.tokens)


async def test_its_reader_is_told_its_way_as_if_it_had_gone_it_without_a_stop(subject: Subject) -> None:
    anns = [subject.endless(f"Number {number}", max_tokens=150) for number in range(PARALLEL + 1)]
    runs = await _beside_bob(subject, anns)
    assert [run.positions for run in runs[:PARALLEL]] == [[]] * PARALLEL
    for ann, run in zip(anns, runs, strict=True):
        kinds = [type(event).__name__ for event in run.events]
        assert kinds == sorted(kinds, key=["Queued", "Prefill", "Tokens", "Finished"].index)
        assert run.finished.usage.completion_tokens == 150
        assert run.finished.usage.prompt_tokens == len(ann.prompt)


async def test_a_long_prompt_gives_way_and_its_progress_never_goes_backwards(subject: Subject) -> None:
    prompts = [replace(subject.long_prompt(1800), owner="ann") for _ in range(PARALLEL)]
    for run in await _beside_bob(subject, prompts):
        assert all(one.done < other.done for one, other in pairwise(run.prefills))
        assert {(prefill.total, prefill.cached) for prefill in run.prefills} == {(1800, 0)}
        assert run.prefills[-1].done == 1800
        assert (run.finished.usage.prompt_tokens, run.finished.usage.cached_tokens) == (1800, 0)
        assert run.finished.usage.completion_tokens == 100
