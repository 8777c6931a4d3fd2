"""What only the llama.cpp engine has to show: a real child process, its protocol's gaps, and servers of others."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import AsyncGenerator
from contextlib import aclosing, asynccontextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import httpx2
import psutil
import pytest
import pytest_asyncio
from tests.unit.engine.cpu.scripted import ScriptedVocabulary

from quern.config_models import EngineSettings
from quern.engine.base import EngineState, GenerateRequest, Tokens
from quern.engine.llamacpp.child import ChildConfig
from quern.engine.llamacpp.client import LlamaServer
from quern.engine.llamacpp.engine import LlamaCppEngine
from quern.engine.llamacpp.process import COMMAND
from quern.engine.llamacpp.request import completion_request
from quern.engine.served import backend, client
from quern.engine.served.answer import Answer
from quern.engine.slots import Lease
from quern.errors import EngineFailed, InvalidRequest, ModelLoadError
from quern.events import Prefill
from quern.grammar.kinds import JsonGrammar, LarkGrammar
from quern.grammar.tool_calls import OPENING, ToolFormat, demanded_call
from quern.prompt.codec import TextCodec
from quern.sampling import SamplingParams
from quern.types import FinishReason, Message, Role, Tool

from .engines import SETTINGS, Subject, collect, exhaust, inference_process, inference_processes, llamacpp_subject

pytestmark = pytest.mark.asyncio(loop_scope="module")

SMALL = EngineSettings(parallel=2, context_length=256, kv_tokens=256, batch_tokens=32, threads=1)
KEY = "a key of the test's own"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def codec(small_model_path: Path) -> AsyncGenerator[TextCodec]:
    codec = TextCodec.load(small_model_path)
    yield codec
    codec.close()


@asynccontextmanager
async def _started(model: Path, codec: TextCodec, settings: EngineSettings = SETTINGS) -> AsyncGenerator[Subject]:
    subject = llamacpp_subject(model, codec, settings)
    await subject.engine.start()
    try:
        yield subject
    finally:
        await subject.engine.close()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def subject(small_model_path: Path, codec: TextCodec) -> AsyncGenerator[Subject]:
    async with _started(small_model_path, codec) as subject:
        yield subject


def _child(subject: Subject) -> psutil.Process:
    assert isinstance(subject.engine, LlamaCppEngine)
    return inference_process(subject.engine)


def _server(subject: Subject) -> LlamaServer:
    assert isinstance(subject.engine, LlamaCppEngine)
    assert subject.engine._ready is not None
    return subject.engine._ready.server


async def _processing(subject: Subject) -> list[int]:
    """The slots that llama-server itself says are at work."""
    slots = (await _server(subject)._http.get("/slots")).json()
    return [slot["id"] for slot in slots if slot["is_processing"]]


@pytest.mark.parametrize("rare", ["🦄", "🀄", "𠜎", "🦄龘"])
async def test_every_character_arrives_although_the_protocol_swallows_ids_inside_of_one(
    subject: Subject, rare: str
) -> None:
    """Against the text that llama-server tells where it doesn't stream."""
    prompt = tuple(subject.codec.tokenizer.encode(f"{rare} x " * 8))
    sampling = SamplingParams(max_tokens=16, temperature=0, repetition_penalty=1)
    request = GenerateRequest(prompt, sampling, cache_salt=rare)
    body = {**completion_request(request, Lease(0, 0)), "stream": False}
    told = (await _server(subject)._http.post("/completion", json=body, timeout=60)).json()["content"]
    assert rare in told, "the model did not write what this test is about"
    run = await subject.run(request)
    assert subject.codec.tokenizer.decode(run.ids).rstrip("\ufffd") == told.rstrip("\ufffd")
    assert run.finished.usage.completion_tokens == 16


async def test_a_character_of_several_tokens_comes_without_probabilities_and_all_others_with_theirs(
    subject: Subject,
) -> None:
    prompt = tuple(subject.codec.tokenizer.encode("🦄 x " * 8))
    sampling = SamplingParams(max_tokens=16, temperature=0, repetition_penalty=1, logprobs=1)
    run = await subject.run(GenerateRequest(prompt, sampling, cache_salt="unicorn"))
    decode = subject.codec.tokenizer.decode
    assert {decode(event.ids).strip() for event in run.tokens if event.logprobs is None} == {"🦄"}
    assert all(len(event.ids) == 1 for event in run.tokens if event.logprobs is not None)


@pytest.mark.parametrize(
    "penalties",
    [
        {"repetition_penalty": 1.3},
        {"repetition_penalty": 1.0, "presence_penalty": 1.5, "frequency_penalty": 0.5},
    ],
)
async def test_a_request_for_the_rest_of_an_answer_draws_what_the_whole_would_have_drawn_under_penalties_too(
    subject: Subject, penalties: dict[str, float]
) -> None:
    """Nothing else is computed meanwhile, for that would change how llama.cpp rounds."""
    sampling = SamplingParams(max_tokens=40, temperature=0, ignore_eos=True, **penalties)  # pyright: ignore[reportArgumentType]
    request = GenerateRequest(subject.ids("Write a sorting function."), sampling, cache_salt=f"rest {penalties}")
    whole = await subject.run(request)
    for count in (1, 25):
        answer = Answer(replace(request, cache_salt=f"{request.cache_salt} {count}"))
        first = answer.next_run()
        beginning = await subject.run(replace(first, sampling=replace(first.sampling, max_tokens=count)))
        for event in beginning.tokens:
            answer.tell(event)
        rest = answer.next_run()
        assert (rest.sampling.max_tokens, len(rest.prompt)) == (40 - count, len(request.prompt) + count)
        assert beginning.ids + (await subject.run(rest)).ids == whole.ids


async def test_what_does_not_compile_here_is_refused_before_it_runs_unconstrained_there(subject: Subject) -> None:
    grammar = LarkGrammar("start: A")
    for attempt in (subject.engine.check_grammar(grammar), subject.run(replace(subject.request(), grammar=grammar))):
        with pytest.raises(InvalidRequest, match="unknown name"):
            await attempt


async def test_a_demanded_xml_call_is_written_and_its_text_ends_where_the_model_ends_it(subject: Subject) -> None:
    properties: dict[str, Any] = {"text": {"type": "string"}, "count": {"type": "integer", "minimum": 3, "maximum": 5}}
    tool = Tool("send", "Sends a text.", {"type": "object", "properties": properties, "required": list(properties)})
    prompt = subject.codec.encode_chat([Message(Role.USER, "Send the text hello.")], [tool], OPENING)
    grammar, *_ = demanded_call(ToolFormat.XML, [tool])
    sampling = SamplingParams(max_tokens=200, temperature=0)
    run = await subject.run(GenerateRequest(prompt, sampling, cache_salt="xml", grammar=grammar))
    text = subject.codec.tokenizer.decode(run.ids)
    assert re.match(r"(?i)<function=send>\n<parameter=text>\n.*hello", text)
    assert text.endswith("\n</parameter>\n</function>")
    assert run.finished.reason is FinishReason.STOP


@pytest.mark.parametrize("phase", [Prefill, Tokens])
async def test_after_closing_llama_server_itself_is_idle_once_the_sequence_counts_as_free(
    subject: Subject, phase: type
) -> None:
    request = subject.long_prompt(1500) if phase is Prefill else subject.endless()
    async with aclosing(subject.engine.generate(request)) as events:
        async for event in events:
            if isinstance(event, phase):
                break
        assert await _processing(subject)
    await subject.wait_until(lambda: subject.engine.stats().running == 0, seconds=10)
    assert not await _processing(subject)


async def test_secrets_are_neither_in_the_childs_arguments_nor_in_its_environment_and_others_are_refused(
    subject: Subject,
) -> None:
    child, server = _child(subject), _server(subject)
    key = server._http.headers["authorization"].removeprefix("Bearer ")
    assert len(key) > 30
    assert key not in " ".join(child.cmdline())
    assert key not in str(child.environ())
    async with httpx2.AsyncClient(base_url=server._http.base_url, trust_env=False) as stranger:
        assert (await stranger.get("/slots")).status_code == 401
        assert (await stranger.post("/completion", json={"prompt": [1]})).status_code == 401
    assert all(connection.laddr.ip == "127.0.0.1" for connection in child.net_connections())


async def test_signals_to_the_whole_group_leave_the_child_to_its_parent(subject: Subject) -> None:
    child = _child(subject)
    assert os.getsid(child.pid) != os.getsid(0)
    for number in (signal.SIGINT, signal.SIGTERM):
        child.send_signal(number)
    assert (await subject.run(subject.request(max_tokens=2))).ids
    assert subject.engine.stats().state is EngineState.READY


async def test_a_child_that_hangs_fails_its_answers_and_is_started_anew_for_those_who_wait(
    tiny_model_path: Path, codec: TextCodec
) -> None:
    settings = SMALL.model_copy(update={"hung_seconds": 0.9, "parallel": 1})
    async with (
        _started(tiny_model_path, codec, settings) as subject,
        subject.running(subject.endless(max_tokens=200)) as runs,
    ):
        waits = asyncio.ensure_future(collect(subject.engine, subject.request(max_tokens=2)))
        await subject.wait_until(lambda: subject.engine.stats().waiting == 1)
        hangs = _child(subject)
        hangs.suspend()
        with pytest.raises(EngineFailed, match="this answer was lost"):
            await exhaust(runs)
        assert (await waits).ids
        assert not hangs.is_running()
        assert subject.engine.stats().state is EngineState.READY


async def test_a_child_that_is_at_work_for_long_is_not_taken_for_one_that_hangs(subject: Subject) -> None:
    watching = asyncio.ensure_future(backend.hangs(_server(subject).ready, 0.9))
    prompt = replace(subject.long_prompt(200), sampling=SamplingParams(max_tokens=2))
    assert (await subject.run(prompt)).ids
    assert not watching.done()
    watching.cancel()


async def test_finished_conversations_make_room_in_a_full_cache(tiny_model_path: Path, codec: TextCodec) -> None:
    async with _started(tiny_model_path, codec, SMALL) as subject:
        for text in ("alpha", "beta", "gamma"):
            request = replace(subject.endless(max_tokens=40), prompt=tuple(codec.tokenizer.encode(text) * 100)[:100])
            assert len((await subject.run(request)).ids) == 40


async def test_each_slot_has_its_own_part_of_the_cache_where_that_is_enough(
    small_model_path: Path, codec: TextCodec
) -> None:
    settings = SMALL.model_copy(update={"kv_tokens": 512})
    async with _started(small_model_path, codec, settings) as subject:
        async with asyncio.TaskGroup() as group:
            runs = [group.create_task(subject.run(subject.endless(max_tokens=200))) for _ in range(2)]
            await subject.wait_until(lambda: subject.engine.stats().running == 2)
            for run in runs:
                run.cancel()
        assert subject.engine.info.context_length == 256


PARENT = """
import asyncio, psutil, sys
from pathlib import Path
from quern.config_models import EngineSettings
from quern.engine.llamacpp.engine import LlamaCppEngine
from quern.prompt.codec import TextCodec

async def main():
    settings = EngineSettings(parallel=2, context_length=256, kv_tokens=512)
    codec = TextCodec.load(Path(sys.argv[1]))
    engine = LlamaCppEngine(
        Path(sys.argv[1]), model_id="m", quantisation="q", settings=settings, vocabulary=codec.tokenizer
    )
    loading = asyncio.ensure_future(engine.start())
    while not (children := psutil.Process().children()):
        await asyncio.sleep(0.001)
    if sys.argv[2] == "ready":
        await loading
    print("child", children[0].pid, flush=True)
    await asyncio.sleep(60)

asyncio.run(main())
"""


@pytest.mark.parametrize("when", ["loading", "ready"])
async def test_the_child_never_outlives_its_parent_not_even_after_kill_9(small_model_path: Path, when: str) -> None:
    parent = await asyncio.create_subprocess_exec(
        sys.executable, "-c", PARENT, str(small_model_path), when, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    assert parent.stdout is not None
    while not (line := await parent.stdout.readline()).startswith(b"child "):
        assert line, "the parent has ended"
    child = psutil.Process(int(line.split()[1]))
    assert child.is_running()
    parent.kill()
    await parent.wait()
    _, alive = await asyncio.to_thread(psutil.wait_procs, [child], timeout=10)
    assert not alive


async def test_a_model_that_is_gone_after_a_crash_fails_those_who_wait_and_once_it_is_back_so_is_the_engine(
    small_model_path: Path, codec: TextCodec, tmp_path: Path
) -> None:
    model = tmp_path / "model.gguf"
    model.symlink_to(small_model_path)
    async with _started(model, codec, SMALL) as subject, subject.running(subject.endless(max_tokens=200)):
        waits = asyncio.ensure_future(collect(subject.engine, subject.endless(max_tokens=200)))
        await subject.wait_until(lambda: subject.engine.stats().waiting == 1)
        model.unlink()
        await subject.crash()
        with pytest.raises(EngineFailed, match=r"could not be brought back at once.*model\.gguf"):
            await waits
        assert subject.engine.stats().state is EngineState.RESTARTING
        model.symlink_to(small_model_path)
        await subject.wait_until(lambda: subject.engine.stats().state is EngineState.READY)


def _engine(model: Path, settings: EngineSettings = SMALL, *, vocabulary_size: int = 151936) -> LlamaCppEngine:
    vocabulary = ScriptedVocabulary(vocabulary_size)
    return LlamaCppEngine(model, model_id="small", quantisation="q", settings=settings, vocabulary=vocabulary)


async def _load_error(model: Path, settings: EngineSettings = SMALL, *, vocabulary_size: int = 151936) -> str:
    engine = _engine(model, settings, vocabulary_size=vocabulary_size)
    with pytest.raises(ModelLoadError) as error:
        await engine.start()
    assert engine.stats().state is EngineState.CLOSED
    await engine.close()
    return str(error.value)


async def test_a_missing_file_is_named_with_what_to_do(tmp_path: Path) -> None:
    message = await _load_error(tmp_path / "missing.gguf")
    assert str(tmp_path / "missing.gguf") in message
    assert "quern pull" in message


async def test_a_file_that_is_no_model_is_named(tmp_path: Path) -> None:
    (tmp_path / "page.gguf").write_text("<html>not found</html>")
    assert "not a GGUF file" in await _load_error(tmp_path / "page.gguf")


async def test_a_truncated_model_is_reported_with_llama_cpps_own_last_words(
    tmp_path: Path, small_model_path: Path
) -> None:
    """On a busy machine the process may end before llama.cpp's thread for its log has written: of three, one has."""
    with small_model_path.open("rb") as whole:
        (tmp_path / "half.gguf").write_bytes(whole.read(1_000_000))
    messages = [await _load_error(tmp_path / "half.gguf") for _ in range(3)]
    assert all("exit code 1. The file may be damaged" in message for message in messages)
    assert any("failed to load model" in message for message in messages)
    assert not any("Traceback" in message for message in messages)


async def _start_loading(engine: LlamaCppEngine) -> tuple[asyncio.Future[None], psutil.Process]:
    """The load, and the process that it has just started."""
    before = len(inference_processes())
    loading = asyncio.ensure_future(engine.start())
    while len(children := inference_processes()) == before:
        await asyncio.sleep(0.001)
    return loading, children[-1]


async def test_a_child_that_is_killed_while_loading_is_a_load_error(small_model_path: Path) -> None:
    engine = _engine(small_model_path)
    loading, child = await _start_loading(engine)
    child.kill()
    with pytest.raises(ModelLoadError, match="not enough memory"):
        await loading


async def test_a_child_that_stands_while_it_loads_is_a_load_error_that_says_so(small_model_path: Path) -> None:
    engine = _engine(small_model_path, SMALL.model_copy(update={"hung_seconds": 0.6}))
    loading, child = await _start_loading(engine)
    child.suspend()
    with pytest.raises(ModelLoadError, match=r"engine\.hung_seconds.*did nothing at all"):
        await loading
    assert not child.is_running()


async def test_a_load_that_is_cancelled_leaves_no_process(small_model_path: Path) -> None:
    engine = _engine(small_model_path)
    loading, child = await _start_loading(engine)
    loading.cancel()
    await asyncio.wait([loading])
    assert loading.cancelled()
    assert not child.is_running()
    await engine.close()


async def test_progress_grows_while_the_model_loads(small_model_path: Path) -> None:
    engine = _engine(small_model_path, SETTINGS)
    loading = asyncio.ensure_future(engine.start())
    seen: list[float] = []
    while not loading.done():
        await asyncio.sleep(0.05)
        if engine.stats().state is EngineState.LOADING:
            seen.append(engine.stats().load_progress)
            assert engine.stats().load_remaining > 0
    await engine.close()
    assert seen == sorted(seen)
    assert seen[-1] > 0


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def remote(tiny_model_path: Path) -> AsyncGenerator[str]:
    """A llama-server that the engine did not start: its URL."""
    async with _llama_server(tiny_model_path) as (url, _):
        yield url


@asynccontextmanager
async def _llama_server(model: Path) -> AsyncGenerator[tuple[str, asyncio.subprocess.Process]]:
    config = ChildConfig(
        model=str(model), api_key=KEY, slots=1, kv_tokens=512, slot_tokens=512, threads=1, batch_tokens=32
    )
    pipe = subprocess.PIPE
    server = await asyncio.create_subprocess_exec(*COMMAND, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL)
    assert server.stdin is not None
    assert server.stdout is not None
    server.stdin.write(json.dumps(asdict(config)).encode() + b"\n")
    try:
        yield json.loads(await server.stdout.readline())["address"], server
    finally:
        server.stdin.close()
        await server.wait()


def _at(url: str, key: str | None = KEY) -> EngineSettings:
    return EngineSettings.model_validate({"url": url, "api_key": key, "parallel": 16})


async def test_a_running_llama_server_is_used_by_its_url_within_its_own_limits(
    remote: str, tiny_model_path: Path, codec: TextCodec
) -> None:
    async with _started(tiny_model_path, codec, _at(remote)) as subject:
        info = subject.engine.info
        assert (info.parallel, info.context_length) == (1, 512)
        assert remote in info.device
        assert KEY not in repr(info)
        run = await subject.run(subject.request(max_tokens=5))
        assert run.finished.usage.completion_tokens == len(run.ids)
        grammar = JsonGrammar('{"enum": [[17, 23]]}')
        await subject.engine.check_grammar(grammar)
        run = await subject.run(replace(subject.request(), grammar=grammar))
        assert subject.codec.tokenizer.decode(run.ids) == "[17, 23]"


async def test_a_wrong_key_is_reported_as_that(remote: str, small_model_path: Path) -> None:
    for key in ("wrong", None):
        assert "engine.api_key" in await _load_error(small_model_path, _at(remote, key))


async def test_a_server_with_another_vocabulary_is_refused(remote: str, small_model_path: Path) -> None:
    message = await _load_error(small_model_path, _at(remote), vocabulary_size=1234)
    assert "151936" in message
    assert "1234" in message
    assert "not the same model" in message


async def test_an_address_where_nothing_answers_is_named(small_model_path: Path, unused_tcp_port: int) -> None:
    url = f"http://127.0.0.1:{unused_tcp_port}"
    assert f"No llama-server answers at {url}" in await _load_error(small_model_path, _at(url))


async def test_a_server_of_another_kind_is_refused(small_model_path: Path) -> None:
    async def hello(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{}")
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(hello, "127.0.0.1", 0) as other:
        url = f"http://127.0.0.1:{other.sockets[0].getsockname()[1]}"
        assert "does not speak llama-server's protocol" in await _load_error(small_model_path, _at(url))


async def test_a_remote_server_that_vanishes_is_noticed_and_its_running_answers_fail(
    small_model_path: Path, codec: TextCodec, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backend, "PROBE_INTERVAL_SECONDS", 0.05)
    async with (
        _llama_server(small_model_path) as (url, server),
        _started(small_model_path, codec, _at(url)) as subject,
        subject.running(subject.endless(max_tokens=400)) as runs,
    ):
        server.kill()
        with pytest.raises(EngineFailed, match="lost"):
            await exhaust(runs)
        await subject.wait_until(lambda: subject.engine.stats().state is EngineState.RESTARTING)


async def test_a_remote_server_that_hangs_is_noticed_and_its_running_answers_fail(
    tiny_model_path: Path, codec: TextCodec, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backend, "PROBE_INTERVAL_SECONDS", 0.05)
    monkeypatch.setattr(client, "PROBE_SECONDS", 0.3)
    async with (
        _llama_server(tiny_model_path) as (url, server),
        _started(tiny_model_path, codec, _at(url)) as subject,
        subject.running(subject.endless(max_tokens=400)) as runs,
    ):
        server.send_signal(signal.SIGSTOP)
        with pytest.raises(EngineFailed, match="lost"):
            await exhaust(runs)
        assert subject.engine.stats().state is EngineState.RESTARTING
        server.send_signal(signal.SIGCONT)
        await subject.wait_until(lambda: subject.engine.stats().state is EngineState.READY)
        assert (await subject.run(subject.request(max_tokens=2))).ids
