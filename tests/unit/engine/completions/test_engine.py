"""The engine over a server that speaks the protocol, and misbehaves where it is told to."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing, asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest
from tests.completions_server import CompletionsServer, ServerBackend, tokens_of
from tests.unit.engine.cpu.scripted import ScriptedVocabulary

from quern.config_models import EngineSettings
from quern.engine.base import EmbedRequest, EngineEvent, EngineState, Finished, GenerateRequest, Logprob, Tokens
from quern.engine.completions.engine import CompletionsEngine
from quern.engine.completions.request import ALL, Abilities
from quern.engine.fake import FakeEngine
from quern.errors import EngineFailed, EngineUnavailable, InvalidRequest
from quern.events import Prefill
from quern.grammar.kinds import JsonGrammar, LarkGrammar
from quern.sampling import SamplingParams
from quern.types import FinishReason

END = 256
VOCABULARY = ScriptedVocabulary(257, frozenset({END}))
SETTINGS = EngineSettings(parallel=2, context_length=1024)


def ask(text: str = "hello", **values: Any) -> GenerateRequest:
    asked: dict[str, Any] = {"max_tokens": 50, "temperature": 0, **values}
    return GenerateRequest(tuple(text.encode()), SamplingParams(**asked), cache_salt=text)


@asynccontextmanager
async def engine_of(
    make: Callable[[], FakeEngine] = FakeEngine, abilities: Abilities = ALL, **values: Any
) -> AsyncGenerator[tuple[CompletionsEngine, ServerBackend]]:
    def server() -> CompletionsServer:
        made = CompletionsServer(make())
        for name, value in values.items():
            setattr(made, name, value)
        return made

    backend = ServerBackend(server, abilities=abilities)
    engine = CompletionsEngine(
        backend, name="vllm", model_id="m", quantisation="q", settings=SETTINGS, vocabulary=VOCABULARY
    )
    await engine.start()
    try:
        yield engine, backend
    finally:
        await engine.close()


async def run(engine: CompletionsEngine, request: GenerateRequest) -> list[EngineEvent]:
    return [event async for event in engine.generate(request)]


async def failure(engine: CompletionsEngine, request: GenerateRequest) -> tuple[list[EngineEvent], str]:
    """Everything until it fails, and the sentence."""
    events: list[EngineEvent] = []
    try:
        async for event in engine.generate(request):
            events.append(event)  # noqa: PERF401 (a comprehension would lose them with the failure)
    except EngineFailed as error:
        return events, str(error)
    pytest.fail("the generation did not fail")


def served(backend: ServerBackend) -> CompletionsServer:
    assert backend.server is not None
    return backend.server


async def test_an_answer_has_its_tokens_its_end_and_what_the_server_counted() -> None:
    async with engine_of() as (engine, _):
        *events, end = await run(engine, ask())
        assert tokens_of(events) == tuple(b"hello")
        assert isinstance(end, Finished)
        assert (end.reason, end.usage.completion_tokens, end.usage.prompt_tokens) == (FinishReason.STOP, 5, 5)
        assert [event for event in events if isinstance(event, Prefill)] == [Prefill(0, 5, 0), Prefill(5, 5, 0)]
        *_, next_turn = await run(engine, replace(ask("hellohello!"), cache_salt="hello"))
        assert isinstance(next_turn, Finished)
        assert next_turn.usage.cached_tokens == 10


async def test_a_limit_ends_it_and_the_last_token_is_shown() -> None:
    async with engine_of() as (engine, _):
        *events, end = await run(engine, ask(max_tokens=3))
    assert tokens_of(events) == tuple(b"hel")
    assert isinstance(end, Finished)
    assert end.reason is FinishReason.LENGTH


async def test_probabilities_come_by_id_and_as_many_of_the_likeliest_as_were_asked_for() -> None:
    async with engine_of() as (engine, _):
        events = await run(engine, ask("ab", logprobs=2))
    told = [event.logprobs for event in events if isinstance(event, Tokens)]
    assert told[0] == (Logprob(-0.5, ((ord("a"), -0.5), (ord("a") + 1, told[0][0].top[1][1]))),)  # type: ignore[index]
    assert [len(logprobs or ()) for logprobs in told] == [1, 1]


async def test_what_the_server_knows_of_its_cache_bounds_who_is_let_in() -> None:
    async with engine_of(lambda: FakeEngine(token_delay=0.01), kv_tokens=1024) as (engine, _):
        large = replace(ask("x" * 600, ignore_eos=True), sampling=SamplingParams(max_tokens=300, ignore_eos=True))
        async with aclosing(engine.generate(large)) as first:
            assert isinstance(await anext(first), Prefill)
            waits = asyncio.ensure_future(run(engine, replace(large, cache_salt="other")))
            await until(lambda: engine.stats().waiting == 1)
            assert engine.stats().running == 1
        assert tokens_of(await waits)


async def test_closing_an_answer_is_noticed_by_the_server_at_once_and_its_place_is_free() -> None:
    async with engine_of(lambda: FakeEngine(token_delay=0.01)) as (engine, backend):
        async with aclosing(engine.generate(ask(ignore_eos=True, max_tokens=900))) as events:
            async for event in events:
                if isinstance(event, Tokens):
                    break
        await until(lambda: served(backend).cancelled == 1 and engine.stats().running == 0)
        assert served(backend).engine.stats().running == 0


async def test_a_prompt_that_takes_long_can_be_cancelled_before_its_first_token() -> None:
    async with engine_of(lambda: FakeEngine(prefill_delay=30.0)) as (engine, backend):
        async with aclosing(engine.generate(ask())) as events:
            assert await anext(events) == Prefill(0, 5, 0)
            assert engine.stats().silent_seconds == 0, "long prompts are computed without a word"
        await until(lambda: served(backend).cancelled == 1)


async def test_a_connection_that_breaks_fails_the_answer_after_what_came() -> None:
    async with engine_of(breaks_after=2) as (engine, _):
        events, why = await failure(engine, ask())
    assert tokens_of(events) == tuple(b"he")
    assert "lost" in why


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b'{"error": {"message": "This is too long.", "code": 400}}', "request: This is too long."),
        (b'{"message": "Older form"}', "request: Older form."),
        (b"Internal Server Error", "HTTP status 500"),
    ],
)
async def test_a_refusal_is_told_in_the_servers_words(body: bytes, words: str) -> None:
    async with engine_of(refusal=(500, body)) as (engine, _):
        events, why = await failure(engine, ask())
        assert not events
        assert words in why
        assert engine.stats().state is EngineState.READY


async def test_an_error_in_the_middle_of_an_answer_is_told() -> None:
    async with engine_of(lambda: FakeEngine(fail_after=2)) as (engine, _):
        events, why = await failure(engine, ask())
    assert tokens_of(events) == tuple(b"he")
    assert "refused or dropped this request: The fake engine failed" in why


async def test_a_server_without_ids_is_of_no_use_and_the_sentence_says_what_it_lacks() -> None:
    async with engine_of(tells_ids=False) as (engine, _):
        _, why = await failure(engine, ask())
    assert "return_token_ids" in why


async def test_a_grammar_is_compiled_here_first_and_sent_as_it_was_compiled() -> None:
    async with engine_of(lambda: FakeEngine(reply=lambda _: b"[1]")) as (engine, backend):
        with pytest.raises(InvalidRequest, match="`not`"):
            await engine.check_grammar(JsonGrammar('{"not": {}}'))
        assert not served(backend).bodies
        grammar = JsonGrammar('{"type": "array", "items": {"type": "integer"}, "maxItems": 2}')
        assert tokens_of(await run(engine, replace(ask(), grammar=grammar))) == tuple(b"[1]")
        sent = served(backend).bodies[-1]["structured_outputs"]["grammar"]
        header, _, lark = sent.partition("\n")
        assert header.startswith("%llguidance")
        assert json.loads(lark.removeprefix("start: %json "))["maxItems"] == 2


@pytest.mark.parametrize("says", [b"[1,2]", b"[1", b"[1]]", b"Sure!", b""])
async def test_an_answer_that_leaves_its_grammar_fails_instead_of_going_on(says: bytes) -> None:
    async with engine_of(lambda: FakeEngine(reply=lambda _: says)) as (engine, _):
        with pytest.raises(EngineFailed, match="did not keep this answer to its grammar"):
            await run(engine, replace(ask(), grammar=LarkGrammar('start: "[1]"')))
        assert isinstance((await run(engine, ask()))[-1], Finished)


async def test_what_the_server_lacks_is_refused_by_the_engines_name() -> None:
    async with engine_of(abilities=Abilities(grammars=False)) as (engine, backend):
        with pytest.raises(InvalidRequest, match="engine vllm uses does not keep answers to grammars"):
            await engine.check_grammar(JsonGrammar("{}"))
        with pytest.raises(InvalidRequest, match="engine vllm makes no embeddings"):
            await engine.embed(EmbedRequest((1,)))
        for request, why in (
            (ask(seed=3, temperature=1.0), "seed"),
            (ask(presence_penalty=1.0), "penalty"),
            (replace(ask(), grammar=JsonGrammar("{}")), "grammar"),
        ):
            with pytest.raises(InvalidRequest, match=rf"{why}.*engine vllm"):
                engine.check_continuable(request)
        assert not served(backend).bodies


async def test_a_server_that_is_lost_fails_what_runs_and_answers_again_once_it_is_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("quern.engine.served.supervisor.FIRST_DELAY_SECONDS", 0.05)
    async with engine_of(lambda: FakeEngine(token_delay=0.01)) as (engine, backend):
        async with aclosing(engine.generate(ask(ignore_eos=True, max_tokens=900))) as events:
            async for event in events:
                if isinstance(event, Tokens):
                    break
            await backend.crash()
            with pytest.raises(EngineFailed, match="lost"):
                await anext(events)
        await until(lambda: engine.stats().state is EngineState.RESTARTING)
        with pytest.raises(EngineUnavailable, match="starting again"):
            await run(engine, ask())
        await until(lambda: engine.stats().state is EngineState.READY)
        assert tokens_of(await run(engine, ask())) == tuple(b"hello")


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.01)
