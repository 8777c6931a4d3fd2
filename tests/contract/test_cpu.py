"""What only the cpu engine has to show: a load that is broken off, and a KV cache that runs out."""

from __future__ import annotations

import asyncio
import threading
from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from pathlib import Path

import pytest

from quern.config_models import EngineSettings, KvType
from quern.engine.base import EngineState, Priority
from quern.errors import ModelLoadError
from quern.prompt.codec import TextCodec
from quern.sampling import SamplingParams
from quern.types import FinishReason

from .engines import RUNS_CPU, Subject, cpu_subject, started

pytestmark = RUNS_CPU

TIGHT = EngineSettings(parallel=4, context_length=512, kv_tokens=512, batch_tokens=32, threads=1)


def _started(model: Path, settings: EngineSettings) -> AbstractAsyncContextManager[Subject]:
    return started(cpu_subject(model, TextCodec.load(model), settings))


@pytest.mark.parametrize("kv_type", KvType)
async def test_sequences_that_outgrow_the_cache_together_take_turns_and_all_finish(
    tiny_model_path: Path, kv_type: KvType
) -> None:
    settings = TIGHT.model_copy(update={"kv_type": kv_type})
    async with _started(tiny_model_path, settings) as subject:
        requests = [subject.endless(f"Count from {n}.", max_tokens=250) for n in range(4)]
        preempted = asyncio.ensure_future(_preemption(subject, sequences=4))
        runs = await asyncio.gather(*(subject.run(request) for request in requests))
        assert preempted.done(), "the cache was large enough for all of them"
        assert all(len(run.ids) == 250 for run in runs)
        assert all(run.finished.reason is FinishReason.LENGTH for run in runs)
        assert not any(run.positions for run in runs), "all four had a place from the beginning"


async def _preemption(subject: Subject, sequences: int) -> None:
    """Wait until all sequences have run at once and then one of them had to wait."""
    await subject.wait_until(lambda: subject.engine.stats().running == sequences)
    await subject.wait_until(lambda: subject.engine.stats().waiting > 0, seconds=60)


async def test_an_urgent_request_runs_at_once_and_who_gave_way_loses_no_token(tiny_model_path: Path) -> None:
    async with _started(tiny_model_path, TIGHT.model_copy(update={"parallel": 2})) as subject:
        chats = [subject.endless(f"Count from {n}.", max_tokens=400) for n in range(2)]
        alone = [(await subject.run(replace(chat, cache_salt="alone"))).ids for chat in chats]
        runs = [asyncio.ensure_future(subject.run(chat)) for chat in chats]
        await subject.wait_until(lambda: subject.engine.stats().running == 2)
        urgent = replace(subject.endless("Now.", max_tokens=5), priority=Priority.INTERACTIVE)
        run = await subject.run(urgent)
        assert not any(chat.done() for chat in runs)
        assert (len(run.ids), run.positions) == (5, [])
        assert [chat.ids for chat in await asyncio.gather(*runs)] == alone


@pytest.mark.parametrize("kv_type", KvType)
async def test_an_answer_goes_on_in_another_life_of_the_engine_however_that_computes(
    tiny_model_path: Path, kv_type: KvType
) -> None:
    first = TIGHT.model_copy(update={"kv_type": kv_type})
    second = first.model_copy(update={"threads": 2, "batch_tokens": 7, "parallel": 1})
    sampling = SamplingParams(
        max_tokens=70, temperature=1.5, top_p=0.95, top_k=0, seed=4, logprobs=1, frequency_penalty=0.2, ignore_eos=True
    )
    async with _started(tiny_model_path, first) as subject:
        request = replace(subject.request("Tell me more."), sampling=sampling)
        whole = await subject.run(request)
    async with _started(tiny_model_path, second) as subject:
        for at in (1, 32, 61):
            rest = await subject.run(replace(request, generated=whole.ids[:at], cache_salt=f"{at}"))
            assert rest.ids == whole.ids[at:]
            assert [event.logprobs for event in rest.tokens] == [event.logprobs for event in whole.tokens[at:]]


async def test_answers_that_go_on_and_push_each_other_out_are_as_alone(tiny_model_path: Path) -> None:
    async with _started(tiny_model_path, TIGHT) as subject:
        requests = [subject.endless(f"Count from {n}.", max_tokens=250) for n in range(4)]
        alone = [(await subject.run(replace(request, cache_salt="alone"))).ids for request in requests]
        again = [
            replace(request, generated=ids[: 5 + 20 * n])
            for n, (request, ids) in enumerate(zip(requests, alone, strict=True))
        ]
        preempted = asyncio.ensure_future(_preemption(subject, sequences=4))
        runs = await asyncio.gather(*(subject.run(request) for request in again))
        assert preempted.done(), "the cache was large enough for all of them"
        assert [request.generated + run.ids for request, run in zip(again, runs, strict=True)] == alone


async def test_a_load_that_is_cancelled_ends_soon_and_leaves_no_thread(small_model_path: Path) -> None:
    subject = cpu_subject(small_model_path, TextCodec.load(small_model_path))
    loading = asyncio.ensure_future(subject.engine.start())
    await subject.wait_until(lambda: subject.engine.stats().load_progress > 0)
    loading.cancel()
    async with asyncio.timeout(10):
        await asyncio.wait([loading])
    assert loading.cancelled()
    assert subject.engine.stats().state is EngineState.CLOSED
    assert "quern-cpu-engine" not in {thread.name for thread in threading.enumerate()}
    subject.codec.close()


async def test_a_file_that_was_cut_short_is_refused_with_a_sentence_that_names_it(
    small_model_path: Path, tmp_path: Path
) -> None:
    codec = TextCodec.load(small_model_path)
    broken = tmp_path / "broken.gguf"
    with small_model_path.open("rb") as whole:
        broken.write_bytes(whole.read(20_000_000))
    subject = cpu_subject(broken, codec)
    with pytest.raises(ModelLoadError, match=r"broken\.gguf"):
        await subject.engine.start()
    codec.close()
