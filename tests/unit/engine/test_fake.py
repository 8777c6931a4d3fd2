"""The fake engine's own script; what it has in common with the others is in tests/contract."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from quern.engine.base import EngineState, GenerateRequest, Logprob, Tokens
from quern.engine.fake import FakeEngine
from quern.errors import EngineFailed, EngineUnavailable, InvalidRequest, ModelLoadError
from quern.grammar.kinds import JsonGrammar, LarkGrammar
from quern.sampling import SamplingParams

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


async def _rest(engine: FakeEngine, generated: bytes) -> list[int]:
    events = [event async for event in engine.generate(replace(HELLO, generated=tuple(generated)))]
    return [token for event in events if isinstance(event, Tokens) for token in event.ids]


async def test_a_request_that_goes_on_gets_the_rest_of_its_reply_whatever_it_says_it_had() -> None:
    engine = await _started(FakeEngine())
    assert await _rest(engine, b"he") == [*b"llo"]
    assert await _rest(engine, b"xyz") == [*b"lo"]
    assert await _rest(engine, b"hello") == []
    engine.fail_after = 2
    with pytest.raises(EngineFailed):
        await _rest(engine, b"he")


async def test_it_can_be_told_to_refuse_to_go_on() -> None:
    engine = await _started(FakeEngine(not_continued="Not this one."))
    assert await _ids(engine, []) == [*b"hello"]
    with pytest.raises(InvalidRequest, match="Not this one"):
        await _rest(engine, b"he")
    with pytest.raises(InvalidRequest, match="Not this one"):
        engine.check_continuable(HELLO)


async def test_a_load_can_take_a_while_and_tells_how_far_it_is() -> None:
    engine = FakeEngine(load_delay=0.3)
    loading = asyncio.ensure_future(engine.start())
    while not (stats := engine.stats()).load_remaining:
        await asyncio.sleep(0)
    assert stats.state is EngineState.LOADING
    assert 0 <= stats.load_progress < 1
    assert 0 < stats.load_remaining <= 0.3
    await loading
    assert engine.stats().state is EngineState.READY


async def test_a_load_can_fail() -> None:
    engine = FakeEngine(load_error="There is no model.")
    with pytest.raises(ModelLoadError, match="There is no model"):
        await engine.start()
    assert engine.stats().state is EngineState.CLOSED


async def test_it_comes_back_from_a_second_crash_during_the_first_ones_comeback() -> None:
    engine, loop = await _started(FakeEngine(load_delay=0.1)), asyncio.get_running_loop()
    engine.crash()
    await asyncio.sleep(0)
    while engine.stats().load_progress < 0.5:
        await asyncio.sleep(0.001)
    crashed_at = loop.time()
    engine.crash()
    while engine.stats().state is EngineState.RESTARTING:
        await asyncio.sleep(0.001)
    assert engine.stats().state is EngineState.READY
    # A loop's timer may fire early by its clock's resolution.
    assert loop.time() - crashed_at > 0.099, "the first comeback counts for nothing"


@pytest.mark.parametrize(
    ("asked", "top"), [(0, ()), (3, ((ord("o"), -0.5), (ord("o") + 1, -1.5), (ord("o") + 2, -2.5)))]
)
async def test_the_likeliest_tokens_are_the_drawn_one_and_those_that_follow(
    asked: int, top: tuple[tuple[int, float], ...]
) -> None:
    engine = await _started(FakeEngine())
    request = replace(HELLO, sampling=SamplingParams(max_tokens=100, logprobs=asked))
    tokens = [event async for event in engine.generate(request) if isinstance(event, Tokens)]
    assert tokens[-1] == Tokens((ord("o"),), (Logprob(-0.5, top),))


async def test_the_likeliest_tokens_are_ids_of_the_vocabulary() -> None:
    engine = await _started(FakeEngine(reply=lambda _request: [258], vocabulary_size=259))
    request = replace(HELLO, sampling=SamplingParams(max_tokens=1, logprobs=2))
    tokens = [event async for event in engine.generate(request) if isinstance(event, Tokens)]
    assert tokens == [Tokens((258,), (Logprob(-0.5, ((258, -0.5), (0, -1.5))),))]


async def test_grammars_are_remembered_in_order() -> None:
    engine = await _started(FakeEngine())
    grammars = [JsonGrammar('{"type": "object"}'), LarkGrammar("start: A")]
    for grammar in grammars:
        await engine.check_grammar(grammar)
    assert engine.grammars == grammars


@pytest.mark.parametrize(("schema", "words"), [("[1]", "object"), ("{", "object"), ('{"not": {}}', "at #/not")])
async def test_it_refuses_what_is_no_schema_and_the_keyword_that_it_is_told_to(schema: str, words: str) -> None:
    engine = await _started(FakeEngine(refused_keyword="not"))
    with pytest.raises(InvalidRequest, match=words):
        await engine.check_grammar(JsonGrammar(schema))


async def test_grammars_are_not_checked_before_it_has_started() -> None:
    with pytest.raises(EngineUnavailable):
        await FakeEngine().check_grammar(JsonGrammar("{}"))
