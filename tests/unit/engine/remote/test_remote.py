"""Several servers as one engine: probed, failed over, watched."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest
import structlog.testing
from tests.completions_server import CompletionsServer, tokens_of
from tests.unit.engine.cpu.scripted import ScriptedVocabulary

from quern.config_models import EngineSettings
from quern.engine.base import EngineEvent, EngineState, Finished, GenerateRequest, Priority, Tokens
from quern.engine.completions.engine import CompletionsEngine
from quern.engine.completions.request import ALL, Abilities
from quern.engine.fake import FakeEngine, echo
from quern.engine.remote.backend import RemoteServers
from quern.errors import ConfigError, EngineFailed, InvalidRequest, ModelLoadError
from quern.grammar.kinds import JsonGrammar
from quern.sampling import SamplingParams

END = 256
VOCABULARY = ScriptedVocabulary(257, frozenset({END}))
PROBED = b"zyzzyva"


class Obedient(FakeEngine):
    """Keeps to the one grammar that a probe asks for."""

    def __init__(self, **values: Any) -> None:
        super().__init__(reply=lambda request: PROBED if request.grammar is not None else echo(request), **values)


class Fussy(CompletionsServer):
    """A vLLM without priorities, or without salts: it says so, or finds every prompt in its cache."""

    async def _chunks(self, body: dict[str, Any]) -> AsyncGenerator[bytes]:
        if body.get("priority"):
            yield b'{"error": {"message": "Priority scheduling is not enabled.", "code": 400}}'
            return
        body.pop("cache_salt", None)
        async with aclosing(super()._chunks(body)) as chunks:
            async for chunk in chunks:
                yield chunk


def settings(urls: list[str], **remote: Any) -> EngineSettings:
    return EngineSettings.model_validate(
        {"name": "remote", "parallel": 4, "context_length": 2048, "remote": {"urls": urls, **remote}}
    )


def engine_at(urls: list[str], **remote: Any) -> CompletionsEngine:
    given = settings(urls, **remote)
    servers = RemoteServers(given.remote, VOCABULARY, connections=4)
    return CompletionsEngine(
        servers, name="remote", model_id="m", quantisation="q", settings=given, vocabulary=VOCABULARY
    )


@asynccontextmanager
async def listening(*servers: CompletionsServer) -> AsyncGenerator[list[str]]:
    async with AsyncExitStack() as stack:
        for server in servers:
            await server.engine.start()
        yield [await stack.enter_async_context(server.listening()) for server in servers]


@asynccontextmanager
async def started(*servers: CompletionsServer, **remote: Any) -> AsyncGenerator[CompletionsEngine]:
    async with listening(*servers) as urls:
        engine = engine_at(urls, **remote)
        try:
            await engine.start()
            for server in servers:
                server.bodies.clear()
                server.headers.clear()
            yield engine
        finally:
            await engine.close()


def ask(text: str = "hello", **values: Any) -> GenerateRequest:
    asked: dict[str, Any] = {"max_tokens": 300, "temperature": 0, **values}
    return GenerateRequest(tuple(text.encode()), SamplingParams(**asked), cache_salt="salt")


async def run(engine: CompletionsEngine, request: GenerateRequest) -> list[EngineEvent]:
    return [event async for event in engine.generate(request)]


def obedient(**values: Any) -> CompletionsServer:
    return CompletionsServer(Obedient(**values))


def abilities(engine: CompletionsEngine) -> Abilities:
    assert engine._ready is not None
    return engine._ready.abilities


async def test_what_a_server_can_do_is_found_out_by_asking_it() -> None:
    async with started(obedient()) as engine:
        assert abilities(engine) == ALL
        assert tokens_of(await run(engine, ask())) == tuple(b"hello")
    async with started(Fussy(FakeEngine())) as engine:
        assert abilities(engine) == Abilities(grammars=False, salts=False, priorities=False)


async def test_a_survey_tells_of_each_what_it_can_do_or_why_it_is_of_no_use() -> None:
    async with listening(obedient(), Fussy(FakeEngine())) as urls:
        servers = RemoteServers(settings([*urls, "http://127.0.0.1:9"]).remote, VOCABULARY, connections=1)
        able, fussy, away = await servers.survey()
    assert able == ALL
    assert isinstance(fussy, Abilities)
    assert fussy.lacking == ("grammars", "salts", "priorities")
    assert isinstance(away, ModelLoadError)


async def test_what_one_of_them_lacks_is_asked_of_none_and_refused_by_name() -> None:
    able, fussy = obedient(), Fussy(FakeEngine())
    with structlog.testing.capture_logs() as logs:
        async with started(able, fussy) as engine:
            with pytest.raises(InvalidRequest, match="engine remote uses does not keep answers to grammars"):
                await engine.check_grammar(JsonGrammar("{}"))
            for text in ("one", "two"):
                await run(engine, replace(ask(text), priority=Priority.BACKGROUND))
    sent = [*able.bodies, *fussy.bodies]
    assert len(sent) == 2
    assert not any({"cache_salt", "priority"} & set(body) for body in sent)
    assert "remote_servers_share_their_cache_between_owners" in {entry["event"] for entry in logs}


async def test_a_conversation_stays_with_one_server_and_names_itself_to_routers() -> None:
    servers = [obedient(token_delay=0.005), obedient(token_delay=0.005)]
    async with started(*servers) as engine:
        for turn in range(1, 4):
            asked = [ask(f"{name} says hello to everybody. " * 8 * turn, max_tokens=20) for name in ("ann", "bob")]
            await asyncio.gather(*(run(engine, request) for request in asked))
    assert [len(server.bodies) for server in servers] == [3, 3]
    sessions = [{headers["x-session-id"] for headers in server.headers} for server in servers]
    assert [len(names) for names in sessions] == [1, 1]
    assert sessions[0] != sessions[1]


async def test_a_server_that_can_t_be_reached_is_passed_over() -> None:
    left, stays = obedient(), obedient()
    async with listening(stays) as urls, left.listening() as other:
        engine = engine_at([other, *urls])
        await left.engine.start()
        await engine.start()
        left.refusal = (503, b"{}")
        for number in range(4):
            assert tokens_of(await run(engine, ask(f"{number}"))) == tuple(f"{number}".encode())
        assert engine.stats().state is EngineState.READY
        await engine.close()


async def test_an_answer_that_had_not_begun_is_written_by_another_server() -> None:
    breaking, stays = obedient(), obedient()
    async with started(breaking, stays) as engine:
        breaking.breaks_after = 0
        *events, end = await run(engine, ask(seed=4, temperature=1.0))
        assert tokens_of(events) == tuple(b"hello")
        assert isinstance(end, Finished)
        assert end.usage.prompt_tokens == 5
    assert [len(server.bodies) for server in (breaking, stays)] == [1, 1]


async def test_an_answer_that_had_begun_goes_on_with_another_server_where_it_can() -> None:
    breaking, stays = obedient(), obedient()
    async with started(breaking, stays) as engine:
        breaking.breaks_after = 3
        *events, end = await run(engine, ask("hello", max_tokens=9, ignore_eos=True))
    assert tokens_of(events)[:2] == tuple(b"he")
    assert len(tokens_of(events)) == 9
    assert isinstance(end, Finished)
    assert (end.usage.prompt_tokens, end.usage.completion_tokens) == (5, 9)
    first, second = breaking.bodies[0], stays.bodies[0]
    written = len(second["prompt"]) - len(first["prompt"])
    assert tuple(second["prompt"][5:]) == tokens_of(events)[:written]
    assert second["max_tokens"] == 9 - written > 0


async def test_an_answer_that_can_t_go_on_fails_with_a_sentence_where_its_server_is_lost() -> None:
    breaking, stays = obedient(), obedient()
    async with started(breaking, stays) as engine:
        breaking.breaks_after = 3
        with pytest.raises(EngineFailed, match="lost"):
            await run(engine, ask(seed=4, temperature=1.0))
    assert not stays.bodies


async def test_a_refusal_is_not_tried_elsewhere() -> None:
    refusing, other = obedient(), obedient()
    async with started(refusing, other) as engine:
        refusing.refusal = other.refusal = (400, b'{"error": {"message": "No."}}')
        with pytest.raises(EngineFailed, match="No"):
            await run(engine, ask())
    assert len(refusing.bodies) + len(other.bodies) == 1


async def test_one_that_is_gone_gets_nothing_and_is_used_again_once_it_is_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("quern.engine.remote.backend.PROBE_INTERVAL_SECONDS", 0.02)
    goes, stays = obedient(), obedient()
    with structlog.testing.capture_logs() as logs:
        async with started(goes, stays) as engine:
            goes.healthy = False
            await until(lambda: "remote_server_is_gone" in {entry["event"] for entry in logs})
            for number in range(4):
                await run(engine, ask(f"{number}"))
            assert not goes.bodies
            goes.healthy = True
            await until(lambda: "remote_server_is_back" in {entry["event"] for entry in logs})
            goes.bodies.clear()
            await run(engine, ask("again"))
            await run(engine, ask("and again"))
            assert goes.bodies or len(stays.bodies) > 4


async def test_one_that_comes_back_with_less_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("quern.engine.remote.backend.PROBE_INTERVAL_SECONDS", 0.02)
    changes, stays = obedient(), obedient()
    with structlog.testing.capture_logs() as logs:
        async with started(changes, stays):
            changes.healthy = False
            await until(lambda: "remote_server_is_gone" in {entry["event"] for entry in logs})
            changes.max_model_len = 16
            changes.healthy = True
            await until(lambda: "remote_server_differs" in {entry["event"] for entry in logs})
    assert "remote_server_is_back" not in {entry["event"] for entry in logs}


async def test_where_none_answers_any_more_the_engine_restarts_and_comes_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("quern.engine.remote.backend.PROBE_INTERVAL_SECONDS", 0.02)
    monkeypatch.setattr("quern.engine.served.supervisor.FIRST_DELAY_SECONDS", 0.05)
    server = obedient()
    async with started(server) as engine:
        server.healthy = False
        await until(lambda: engine.stats().state is EngineState.RESTARTING)
        server.healthy = True
        await until(lambda: engine.stats().state is EngineState.READY)
        assert tokens_of(await run(engine, ask())) == tuple(b"hello")


async def test_a_server_that_is_not_there_at_the_start_does_not_keep_the_others_from_serving(
    unused_tcp_port: int,
) -> None:
    async with listening(obedient()) as urls:
        engine = engine_at([f"http://127.0.0.1:{unused_tcp_port}", *urls])
        await engine.start()
        assert tokens_of(await run(engine, ask())) == tuple(b"hello")
        await engine.close()


async def test_an_address_where_nothing_answers_a_wrong_key_and_a_server_without_ids_are_told(
    unused_tcp_port: int,
) -> None:
    for server, words in (
        (None, "No server answers at"),
        (CompletionsServer(FakeEngine(), api_key="secret"), r"refused our key.*engine\.remote\.api_key"),
        (_without_ids(), "return_token_ids"),
    ):
        async with listening(*filter(None, [server])) as urls:
            engine = engine_at(urls or [f"http://127.0.0.1:{unused_tcp_port}"])
            with pytest.raises(ModelLoadError, match=words):
                await engine.start()
            await engine.close()


def _without_ids() -> CompletionsServer:
    server = obedient()
    server.tells_ids = False
    return server


def test_weights_are_as_many_as_servers() -> None:
    with pytest.raises(ConfigError, match=r"engine\.remote\.weights"):
        engine_at(["http://a", "http://b"], weights="1")
    assert settings(["http://a", "http://b"], weights="2, 1").remote.weights == (2.0, 1.0)


async def test_a_router_is_asked_for_its_health_where_the_setting_says() -> None:
    router = obedient()
    router.health = "/readiness"
    async with listening(router) as urls:
        engine = engine_at(urls)
        with pytest.raises(ModelLoadError, match="not well"):
            await engine.start()
        await engine.close()
        engine = engine_at(urls, health="/readiness")
        await engine.start()
        assert tokens_of(await run(engine, ask())) == tuple(b"hello")
        await engine.close()


async def test_closing_an_answer_closes_it_at_its_server() -> None:
    server = obedient(token_delay=0.01)
    async with started(server) as engine:
        async with aclosing(engine.generate(ask(ignore_eos=True))) as events:
            async for event in events:
                if isinstance(event, Tokens):
                    break
        await until(lambda: server.cancelled == 1)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.01)
