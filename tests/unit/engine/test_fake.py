"""The fake engine's own script; what it has in common with the others is in tests/contract."""

from __future__ import annotations

import asyncio

import pytest

from quern.engine.base import EngineState, GenerateRequest, Tokens
from quern.engine.fake import FakeEngine
from quern.errors import EngineFailed, ModelLoadError
from quern.types import SamplingParams

HELLO = GenerateRequest((*b"hello", 256, 257), SamplingParams(max_tokens=100))


async def _started(engine: FakeEngine) -> FakeEngine:
    await engine.start()
    return engine


async def _ids(engine: FakeEngine, into: list[int]) -> list[int]:
    async for event in engine.generate(HELLO):
        if isinstance(event, Tokens):
            into.extend(event.ids)
    return into


async def test_it_echoes_the_prompts_text_without_special_tokens() -> None:
    engine = await _started(FakeEngine())
    assert await _ids(engine, []) == [*b"hello"]
    assert engine.requests == [HELLO]


async def test_it_answers_what_it_is_told_to() -> None:
    engine = await _started(FakeEngine(reply=lambda request: request.prompt[::-1]))
    assert await _ids(engine, []) == [257, 256, *b"olleh"]


@pytest.mark.parametrize("tokens", [0, 3])
async def test_it_fails_after_the_tokens_it_is_told(tokens: int) -> None:
    engine = await _started(FakeEngine(fail_after=tokens))
    ids: list[int] = []
    with pytest.raises(EngineFailed):
        await _ids(engine, ids)
    assert ids == [*b"hello"][:tokens]
    assert engine.stats().running == 0


async def test_a_load_can_take_a_while_and_tells_how_far_it_is() -> None:
    engine = FakeEngine(load_delay=0.1)
    loading = asyncio.ensure_future(engine.start())
    await asyncio.sleep(0.02)
    stats = engine.stats()
    assert stats.state is EngineState.LOADING
    assert 0 < stats.load_progress < 1
    assert 0 < stats.load_remaining <= 0.1
    await loading
    assert engine.stats().state is EngineState.READY


async def test_a_load_can_fail() -> None:
    engine = FakeEngine(load_error="There is no model.")
    with pytest.raises(ModelLoadError, match="There is no model"):
        await engine.start()
    assert engine.stats().state is EngineState.CLOSED


async def test_it_comes_back_from_a_second_crash_during_the_first_ones_comeback() -> None:
    engine = await _started(FakeEngine(load_delay=0.02))
    engine.crash()
    await asyncio.sleep(0.01)
    engine.crash()
    await asyncio.sleep(0.015)
    assert engine.stats().state is EngineState.RESTARTING
    await asyncio.sleep(0.05)
    assert engine.stats().state is EngineState.READY
