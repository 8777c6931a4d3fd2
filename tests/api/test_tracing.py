"""Traces for OpenTelemetry, as an exporter gets them."""

from __future__ import annotations

import asyncio
import http.server
import json
import socket
import threading
from collections.abc import AsyncIterator, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from quern.app import Application
from quern.config import Settings
from quern.engine.base import GenerateRequest
from quern.engine.fake import FakeEngine
from quern.obs.tracing import Tracing, tracing_of
from quern.prompt.codec import TextCodec
from quern.turns.models import ServedModel

TRACE = "0af7651916cd43dd8448eb211c80319c"
PARENT = f"00-{TRACE}-b7ad6b7169203331-01"
MESSAGES = [{"role": "user", "content": "a secret of mine"}]

Served = tuple[httpx2.AsyncClient, InMemorySpanExporter, FakeEngine]


@pytest.fixture
async def served(tmp_path: Path) -> AsyncIterator[Served]:
    codec, exporter = TextCodec.builtin(), InMemorySpanExporter()
    engine = FakeEngine(vocabulary_size=codec.vocabulary_size)
    settings = Settings.model_validate({"data_dir": tmp_path})
    application = Application(settings, [ServedModel("fake", engine, codec)], tracing=Tracing(exporter, at_once=True))
    async with application.running() as loading:
        await loading
        transport = httpx2.ASGITransport(app=application.asgi, raise_app_exceptions=False)
        async with httpx2.AsyncClient(transport=transport, base_url="http://localhost") as client:
            yield client, exporter, engine


def by_name(exporter: InMemorySpanExporter) -> dict[str, ReadableSpan]:
    return {span.name: span for span in exporter.get_finished_spans()}


def attributes(span: ReadableSpan) -> dict[str, Any]:
    return dict(span.attributes or {})


def parent_of(span: ReadableSpan) -> int | None:
    return span.parent.span_id if span.parent is not None else None


def id_of(span: ReadableSpan) -> int:
    assert span.context is not None
    return span.context.span_id


@pytest.mark.parametrize(
    ("path", "body", "operation"),
    [
        ("/v1/chat/completions", {"messages": MESSAGES, "max_tokens": 5}, "chat"),
        ("/v1/chat/completions", {"messages": MESSAGES, "max_tokens": 5, "stream": True}, "chat"),
        ("/v1/messages", {"messages": MESSAGES, "max_tokens": 5}, "chat"),
        ("/v1/responses", {"input": "a secret of mine", "max_output_tokens": 16}, "chat"),
        ("/api/chat", {"messages": MESSAGES, "options": {"num_predict": 5}}, "chat"),
        ("/v1/completions", {"prompt": "a secret of mine", "max_tokens": 5}, "text_completion"),
        ("/infill", {"input_prefix": "a secret", "input_suffix": " of mine", "n_predict": 5}, "text_completion"),
    ],
)
async def test_a_request_has_a_span_with_its_turn_and_the_turns_parts_below(
    served: Served, path: str, body: dict[str, Any], operation: str
) -> None:
    client, exporter, engine = served
    assert (await client.post(path, json=body)).status_code == 200
    spans = by_name(exporter)
    request, turn = spans[f"POST {path}"], spans[f"{operation} {engine.info.model_id}"]
    assert parent_of(request) is None
    assert parent_of(turn) == id_of(request)
    for part in ("queued", "prefill", "decode"):
        assert parent_of(spans[part]) == id_of(turn)
    moments = [(spans[part].start_time or 0, spans[part].end_time or 0) for part in ("queued", "prefill", "decode")]
    assert [begin for begin, _ in moments] == sorted(begin for begin, _ in moments)
    assert all(begin <= end for begin, end in moments)
    told = attributes(turn)
    assert told["gen_ai.operation.name"] == operation
    assert told["gen_ai.usage.output_tokens"] > 0
    assert told["gen_ai.usage.input_tokens"] > 0
    assert told["gen_ai.response.finish_reasons"] in {("length",), ("stop",)}
    assert attributes(request)["http.response.status_code"] == 200


async def test_an_incoming_trace_goes_on(served: Served) -> None:
    client, exporter, _ = served
    await client.post("/v1/chat/completions", json={"messages": MESSAGES}, headers={"traceparent": PARENT})
    spans = exporter.get_finished_spans()
    assert len(spans) == 5
    assert {f"{span.context.trace_id:032x}" for span in spans if span.context is not None} == {TRACE}
    assert parent_of(by_name(exporter)["POST /v1/chat/completions"]) == 0xB7AD6B7169203331


@pytest.mark.parametrize("given", ["", "nonsense", f"00-{'0' * 32}-b7ad6b7169203331-01", "00-x-y-01", PARENT * 20])
async def test_a_traceparent_that_is_none_begins_a_trace_of_its_own(served: Served, given: str) -> None:
    client, exporter, _ = served
    answer = await client.post("/v1/chat/completions", json={"messages": MESSAGES}, headers={"traceparent": given})
    assert answer.status_code == 200
    assert parent_of(by_name(exporter)["POST /v1/chat/completions"]) is None


async def test_a_caller_who_asks_not_to_be_traced_is_not(served: Served) -> None:
    client, exporter, _ = served
    await client.post("/v1/chat/completions", json={"messages": MESSAGES}, headers={"traceparent": f"{PARENT[:-2]}00"})
    assert exporter.get_finished_spans() == ()


async def test_no_span_has_a_word_of_a_prompt_or_of_an_answer(served: Served) -> None:
    client, exporter, engine = served

    def reply(_request: GenerateRequest) -> bytes:
        return b"the secret answer"

    engine.reply = reply
    await client.post("/v1/chat/completions", json={"messages": MESSAGES, "stop": ["my secret stop"]})
    await client.get("/v1/conversations/a-secret-id?after=secret")
    told = "".join(str(span.to_json()) for span in exporter.get_finished_spans())
    assert "secret" not in told


async def test_a_failed_turn_is_an_error(served: Served) -> None:
    client, exporter, engine = served
    engine.fail_after = 2
    assert (await client.post("/v1/chat/completions", json={"messages": MESSAGES})).status_code == 500
    spans = by_name(exporter)
    turn = spans[f"chat {engine.info.model_id}"]
    assert not turn.status.is_ok
    assert attributes(turn)["error.type"] == "failed"
    assert attributes(spans["POST /v1/chat/completions"])["http.response.status_code"] == 500


async def test_health_and_metrics_have_no_spans(served: Served) -> None:
    client, exporter, _ = served
    for path in ("/health", "/ready", "/metrics"):
        await client.get(path)
    assert exporter.get_finished_spans() == ()


def test_without_a_setting_or_a_variable_there_are_no_traces(tmp_path: Path) -> None:
    assert tracing_of(None, {}) is None
    application = Application(Settings(data_dir=tmp_path), [ServedModel("fake", FakeEngine(), TextCodec.builtin())])
    assert application.tracing is None


@contextmanager
def collector(status: int = 200) -> Generator[tuple[str, list[tuple[str, bytes]]]]:
    """A collector on this machine: its address, and the paths and bodies that it got. `status`: what it answers."""
    got: list[tuple[str, bytes]] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            got.append((self.path, self.rfile.read(int(self.headers["content-length"]))))
            self.send_response(status)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
            """Nothing: it would be on standard error."""

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    serving = threading.Thread(target=server.serve_forever, daemon=True)
    serving.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", got
    finally:
        server.shutdown()
        server.server_close()
        serving.join()


@pytest.mark.parametrize("end", ["", "/", "/v1/traces"])
async def test_a_collector_gets_the_traces_at_the_latest_when_the_server_ends(tmp_path: Path, end: str) -> None:
    with collector() as (url, got):
        settings = Settings.model_validate({"data_dir": tmp_path, "tracing": {"otlp_endpoint": f"{url}{end}"}})
        codec = TextCodec.builtin()
        engine = FakeEngine(vocabulary_size=codec.vocabulary_size)
        application = Application(settings, [ServedModel("fake", engine, codec)])
        async with application.running() as loading:
            await loading
            transport = httpx2.ASGITransport(app=application.asgi)
            async with httpx2.AsyncClient(transport=transport, base_url="http://localhost") as client:
                await client.post("/v1/chat/completions", content=json.dumps({"messages": MESSAGES}))
    assert {path for path, _ in got} == {"/v1/traces"}
    sent = b"".join(body for _, body in got)
    assert b"gen_ai.usage.output_tokens" in sent
    assert b"secret" not in sent


@pytest.fixture(params=["nobody listens", "nobody answers", "it refuses"])
def broken_collector(request: pytest.FixtureRequest) -> Generator[str]:
    """A collector's address at which no trace can be delivered."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        if request.param == "nobody answers":
            listener.listen()
        if request.param == "it refuses":
            with collector(status=500) as (url, _):
                yield url
        else:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"


async def test_a_collector_that_takes_nothing_costs_the_traces_only(tmp_path: Path, broken_collector: str) -> None:
    settings = Settings.model_validate({"data_dir": tmp_path, "tracing": {"otlp_endpoint": broken_collector}})
    codec = TextCodec.builtin()
    application = Application(settings, [ServedModel("fake", FakeEngine(vocabulary_size=codec.vocabulary_size), codec)])
    async with asyncio.timeout(20), application.running() as loading:
        await loading
        transport = httpx2.ASGITransport(app=application.asgi)
        async with httpx2.AsyncClient(transport=transport, base_url="http://localhost") as client:
            for _ in range(20):
                response = await client.post("/v1/chat/completions", content=json.dumps({"messages": MESSAGES}))
                assert response.status_code == 200
