"""The engine over a llama-server of somebody else's that may not keep to grammars."""

from __future__ import annotations

import asyncio
import base64
import json
import struct
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest
from tests.unit.engine.cpu.scripted import ScriptedVocabulary

from quern.config_models import EngineSettings
from quern.engine.base import EmbedRequest, EngineEvent, Finished, GenerateRequest, Tokens
from quern.engine.llamacpp.engine import LlamaCppEngine
from quern.engine.served import client
from quern.errors import EngineFailed, EngineUnavailable, InvalidRequest, ModelLoadError
from quern.grammar.kinds import JsonGrammar, LarkGrammar
from quern.sampling import SamplingParams

END = 256
VOCABULARY = ScriptedVocabulary(257, frozenset({END}))
ANSWER = GenerateRequest((1, 2), SamplingParams(max_tokens=50))
Body = dict[str, Any]


class FakeLlamaServer:
    """Answers as llama-server does. `probed`: its answer to a request that it makes a grammar for; `says`: the text,
    byte by byte a token, that it streams for every other one; `embedding`: its answer to one for an embedding, after
    `embedding_seconds`.
    `bodies`: what it was asked to complete or embed. `may_say`: nothing is streamed before it is set.
    """

    def __init__(self, probed: Callable[[Body], Body], says: str = "[1]", embedding: Body | None = None) -> None:
        self.probed = probed
        self.says = says
        self.embedding = embedding or {}
        self.embedding_seconds = 0.0
        self.may_say = asyncio.Event()
        self.may_say.set()
        self.bodies: list[Body] = []
        self._answering: set[asyncio.Task[Any]] = set()

    async def respond(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._answering.add(task)
        try:
            await self._respond(reader, writer)
        finally:
            writer.close()
            self._answering.discard(task)

    async def stop(self) -> None:
        """Give up what is not answered yet, so that no connection outlives its test."""
        answering = list(self._answering)
        for task in answering:
            task.cancel()
        await asyncio.gather(*answering, return_exceptions=True)

    async def _respond(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
        length = next((int(line.split(":")[1]) for line in head.splitlines() if "content-length" in line), 0)
        body: Body = json.loads(await reader.readexactly(length)) if length else {}
        if "/v1/embeddings" in head:
            await asyncio.sleep(self.embedding_seconds)
        if "/completion" in head and "json_schema" not in body:
            await self.may_say.wait()
        writer.write(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n" + self._answer(head.split()[1], body))
        await writer.drain()

    def _answer(self, path: str, body: Body) -> bytes:
        if path == "/completion":
            self.bodies.append(body)
            return json.dumps(self.probed(body)).encode() if "json_schema" in body else self._stream()
        if path == "/v1/embeddings":
            self.bodies.append(body)
        answers: dict[str, Any] = {
            "/v1/embeddings": self.embedding,
            "/v1/models": {"data": [{"meta": {"n_vocab": 257}}]},
            "/props": {"default_generation_settings": {"n_ctx": 1000}, "total_slots": 1},
            "/slots": [],
        }
        return json.dumps(answers.get(path, {})).encode()

    def _stream(self) -> bytes:
        events: list[Body] = [
            {"content": chr(byte), "tokens": [byte], "stop": False, "tokens_predicted": count}
            for count, byte in enumerate(self.says.encode(), start=1)
        ]
        timings = {"cache_n": 0, "prompt_ms": 1, "predicted_ms": 1}
        events.append({"stop": True, "stop_type": "eos", "tokens_predicted": len(events) + 1, "timings": timings})
        return b"".join(b"data: " + json.dumps(event).encode() + b"\n\n" for event in events)


def obeys(body: Body) -> Body:
    schema = json.dumps(body["json_schema"])
    return {
        "content": json.dumps(body["json_schema"]["const"]),
        "generation_settings": {"grammar": f"%llguidance {{}}\nstart: %json {schema}"},
    }


@asynccontextmanager
async def engine_of(server: FakeLlamaServer, *, embeds: bool = False) -> AsyncGenerator[LlamaCppEngine]:
    async with await asyncio.start_server(server.respond, "127.0.0.1", 0) as listening:
        url = f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}"
        settings = EngineSettings.model_validate({"url": url, "parallel": 1})
        engine = LlamaCppEngine(
            Path(), model_id="m", quantisation="q", settings=settings, vocabulary=VOCABULARY, embeds=embeds
        )
        try:
            await engine.start()
            yield engine
        finally:
            await engine.close()
            await server.stop()


def trial_children() -> list[psutil.Process]:
    return [child for child in psutil.Process().children() if "quern.grammar.compile_trial_child" in child.cmdline()]


async def run(engine: LlamaCppEngine, request: GenerateRequest) -> list[EngineEvent]:
    return [event async for event in engine.generate(request)]


DISOBEDIENT: dict[str, Callable[[Body], Body]] = {
    "it ignores schemas": lambda _: {"content": "Sure!", "generation_settings": {"grammar": ""}},
    "it is built without llguidance": lambda body: {
        **obeys(body),
        "generation_settings": {"grammar": 'root ::= "\\"zyzzyva\\""'},
    },
    "it ignores the grammar that it made": lambda body: {**obeys(body), "content": "Sure!"},
    "it tells nothing": lambda _: {"content": "zyzzyva"},
    "it refuses schemas": lambda _: {"error": {"code": 501, "message": "not supported"}},
}


@pytest.mark.parametrize("why", DISOBEDIENT)
async def test_a_server_that_does_not_keep_to_grammars_answers_and_is_never_asked_to(why: str) -> None:
    server = FakeLlamaServer(DISOBEDIENT[why])
    grammar = JsonGrammar('{"const": 1}')
    async with engine_of(server) as engine:
        for attempt in (engine.check_grammar(grammar), run(engine, replace(ANSWER, grammar=grammar))):
            with pytest.raises(InvalidRequest, match=r"engine\.url.*LLAMA_LLGUIDANCE.*engine cpu"):
                await attempt
        assert isinstance((await run(engine, ANSWER))[-1], Finished)
    assert not [body for body in server.bodies if "grammar" in body], "a server without llguidance would abort"
    assert len([body for body in server.bodies if "json_schema" in body]) == 1


async def test_one_that_keeps_to_them_is_sent_the_grammar_that_was_compiled_here() -> None:
    server = FakeLlamaServer(obeys)
    grammar = JsonGrammar('{"type": "array", "items": {"type": "integer"}, "maxItems": 2}')
    async with engine_of(server) as engine:
        events = await run(engine, replace(ANSWER, grammar=grammar))
        with pytest.raises(InvalidRequest, match="`not`"):
            await engine.check_grammar(JsonGrammar('{"not": {}}'))
    assert [event.ids for event in events if isinstance(event, Tokens)] == [(byte,) for byte in b"[1]"]
    sent = server.bodies[-1]["grammar"]
    assert sent.startswith('%llguidance {"no_forcing": true}\nstart: %json {')
    assert '"maxItems": 2' in sent


async def test_closing_ends_the_process_that_tries_grammars() -> None:
    async with engine_of(FakeLlamaServer(obeys)) as engine:
        await engine.check_grammar(JsonGrammar("{}"))
        (child,) = trial_children()
    assert not child.is_running()
    with pytest.raises(EngineUnavailable, match="has been closed"):
        await engine.check_grammar(JsonGrammar("{}"))


@pytest.mark.parametrize("says", ["[1,2]", "[1", "[1]]", "Sure!", ""])
async def test_an_answer_that_leaves_its_grammar_fails_instead_of_going_on(says: str) -> None:
    server = FakeLlamaServer(obeys, says)
    async with engine_of(server) as engine:
        with pytest.raises(EngineFailed, match="did not keep this answer to its grammar"):
            await run(engine, replace(ANSWER, grammar=LarkGrammar('start: "[1]"')))
        assert isinstance((await run(engine, ANSWER))[-1], Finished)


def packed(*numbers: float) -> Body:
    return {"data": [{"embedding": base64.b64encode(struct.pack(f"<{len(numbers)}f", *numbers)).decode()}]}


async def test_a_server_that_embeds_is_asked_with_the_ids_and_never_for_text() -> None:
    server = FakeLlamaServer(obeys, embedding=packed(0.6, -0.8))
    async with engine_of(server, embeds=True) as engine:
        vector = await engine.embed(EmbedRequest((5, 6, 256)))
    assert vector.tolist() == pytest.approx([0.6, -0.8])
    assert server.bodies[-1] == {"input": [5, 6, 256], "encoding_format": "base64"}
    assert not [body for body in server.bodies if "prompt" in body]


NO_EMBEDDINGS: dict[str, Body] = {
    "it was not started for them": {"error": {"code": 501, "message": "This server does not support embeddings."}},
    "it gives one for every token": {"data": [{"embedding": [[0.1, 0.2], [0.3, 0.4]]}]},
    "it gives something else": {"data": [{"embedding": "###"}]},
    "it gives half a number": {"data": [{"embedding": "AAA="}]},
    "it gives none": {"data": []},
}


@pytest.mark.parametrize("why", NO_EMBEDDINGS)
async def test_a_server_that_makes_no_embeddings_is_refused_with_what_to_start_it_with(why: str) -> None:
    with pytest.raises(ModelLoadError, match=r"--embeddings --pooling last"):
        async with engine_of(FakeLlamaServer(obeys, embedding=NO_EMBEDDINGS[why]), embeds=True):
            pass


async def test_an_embedding_may_take_longer_than_an_answer_may_be_silent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "SILENCE_SECONDS", 0.2)
    server = FakeLlamaServer(obeys, embedding=packed(1.0))
    async with engine_of(server, embeds=True) as engine:
        server.embedding_seconds = 1.0
        assert (await engine.embed(EmbedRequest((5,)))).tolist() == [1.0]


async def test_closing_ends_an_embedding_that_never_comes() -> None:
    server = FakeLlamaServer(obeys, embedding=packed(1.0))
    async with engine_of(server, embeds=True) as engine:
        server.embedding_seconds = 60.0
        waiting = asyncio.ensure_future(engine.embed(EmbedRequest((5,))))
        while engine.stats().running == 0:
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.1)
    with pytest.raises((EngineFailed, EngineUnavailable)):
        await asyncio.wait_for(waiting, 10)


async def test_a_server_that_says_nothing_of_a_running_answer_is_silent_and_one_without_work_is_not() -> None:
    server = FakeLlamaServer(obeys)
    async with engine_of(server) as engine:
        assert engine.stats().silent_seconds == 0
        server.may_say.clear()
        running = asyncio.ensure_future(run(engine, GenerateRequest((1,), SamplingParams(max_tokens=5))))
        async with asyncio.timeout(20):
            while engine.stats().silent_seconds < 0.2:
                await asyncio.sleep(0.02)
        server.may_say.set()
        assert await running
        assert engine.stats().silent_seconds == 0
