"""Ollama's API: what its own client reads, and what editors and scripts send."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import ollama
import pytest

from quern.api.ollama.messages import ChatMessage, message_items
from quern.engine.base import GenerateRequest, Priority
from quern.engine.fake import FakeEngine
from quern.errors import EngineFailed
from quern.prompt.codec import TextCodec
from quern.types import ToolCall, ToolResult

from .conftest import Quern, Start
from .engines import saying

WEATHER: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "The weather of a city.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}
CALL = '<tool_call>\n{"name": "weather", "arguments": {"city": "Paris"}}\n</tool_call>'
USER: list[Any] = [{"role": "user", "content": "hi"}]


@asynccontextmanager
async def official(quern: Quern) -> AsyncGenerator[Any]:
    """The official client of an application on a real socket."""
    client = ollama.AsyncClient(host=str(quern.client.base_url))
    try:
        yield client
    finally:
        await client.close()


def listed(value: Any) -> list[Any]:
    return value or []


async def collected(stream: Any) -> list[Any]:
    return [piece async for piece in await stream]


def prompt_text(request: GenerateRequest) -> str:
    return TextCodec.builtin().tokenizer.decode(request.prompt)


async def test_at_the_root_is_what_ollamas_clients_compare_to_the_letter(start: Start) -> None:
    async with start(live=True) as quern:
        for accept in ("*/*", "application/json", "text/html, image/gif, image/jpeg, */*; q=.2", ""):
            response = await quern.client.get("/", headers={"accept": accept})
            assert (response.status_code, response.content) == (200, b"Ollama is running")
            assert response.headers["content-type"] == "text/plain; charset=utf-8"
        head = await quern.client.head("/")
        assert (head.status_code, head.content, head.headers["content-length"]) == (200, b"", "17")
        assert (await quern.client.get(str(quern.client.base_url).rstrip("/"))).text == "Ollama is running"
        assert (await quern.client.post("/", json={})).status_code == 405


async def test_at_the_root_a_browser_reads_what_this_server_is(quern: Quern) -> None:
    accept = "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"
    response = await quern.client.get("/", headers={"accept": accept, "sec-fetch-site": "none"})
    assert response.status_code == 200
    assert response.text.startswith("Quern is running")
    assert "/docs" in response.text
    assert "accept" in response.headers["vary"].lower()


async def test_the_official_client_chats_whole_and_streamed(start: Start) -> None:
    async with start(saying("Hello there"), live=True) as quern, official(quern) as client:
        model = quern.engine.info.model_id
        whole = await client.chat(model, [{"role": "user", "content": "hi"}])
        pieces = await collected(client.chat(model, USER, stream=True))
    assert whole.message.content == "Hello there"
    assert (whole.done, whole.done_reason, whole.model) == (True, "stop", model)
    assert whole.prompt_eval_count
    assert whole.eval_count == len("Hello there")
    assert "".join(piece.message.content or "" for piece in pieces) == "Hello there"
    assert [piece.done for piece in pieces[-2:]] == [False, True]
    assert pieces[-1].eval_count == len("Hello there")


async def test_the_official_client_generates_whole_and_streamed(start: Start) -> None:
    async with start(saying("Hello"), live=True) as quern, official(quern) as client:
        model = quern.engine.info.model_id
        whole = await client.generate(model, "hi", system="Be brief.", options={"num_predict": 9, "temperature": 0})
        pieces = await collected(client.generate(model, "hi", stream=True))
        prompt = prompt_text(quern.engine.requests[0])
        sampling = quern.engine.requests[0].sampling
    assert whole.response == "Hello"
    assert "".join(piece.response or "" for piece in pieces) == "Hello"
    assert prompt.index("Be brief.") < prompt.index("hi")
    assert (sampling.max_tokens, sampling.temperature) == (9, 0)


async def test_the_official_client_calls_tools_whole_and_streamed_and_sends_the_results_back(start: Start) -> None:
    engine = saying(f"I look.\n{CALL}", f"I look.\n{CALL}", "12 degrees")
    async with start(engine, live=True) as quern, official(quern) as client:
        model = quern.engine.info.model_id
        whole = await client.chat(model, USER, tools=[WEATHER])
        streamed = await collected(client.chat(model, USER, tools=[WEATHER], stream=True))
        assert whole.message.tool_calls is not None
        back: list[Any] = [*USER, whole.message, {"role": "tool", "tool_name": "weather", "content": "12"}]
        last = await client.chat(model, back, tools=[WEATHER])
        prompt = prompt_text(engine.requests[-1])
    calls: list[Any] = [call for piece in streamed for call in listed(piece.message.tool_calls)]
    for call in [whole.message.tool_calls[0], *calls]:
        assert (call.function.name, call.function.arguments) == ("weather", {"city": "Paris"})
    assert whole.done_reason == "stop"
    assert last.message.content == "12 degrees"
    assert '"city": "Paris"' in prompt


async def test_formats_are_kept_to(start: Start) -> None:
    schema = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}
    async with start(saying('{"n": 1}'), live=True) as quern, official(quern) as client:
        model = quern.engine.info.model_id
        await client.chat(model, USER, format=schema)
        await client.generate(model, "hi", format="json")
        await client.chat(model, USER, format="")
        grammars = [request.grammar for request in quern.engine.requests]
    assert json.loads(getattr(grammars[0], "schema", "null")) == schema
    assert json.loads(getattr(grammars[1], "schema", "null")) == {"type": "object"}
    assert grammars[2] is None


async def test_a_gap_is_filled_before_everybodys_chats_and_raw_prompts_are_continued(start: Start) -> None:
    async with start(saying("x"), live=True) as quern, official(quern) as client:
        model = quern.engine.info.model_id
        filled = await client.generate(model, "def f(", suffix="): pass")
        await client.generate(model, "def f(", raw=True)
        gap, raw = quern.engine.requests
    assert filled.response == "x"
    assert prompt_text(gap) == "def f(): pass", "the marks between are tokens"
    assert gap.priority is Priority.INTERACTIVE
    assert prompt_text(raw) == "def f("


async def test_probabilities_are_told(start: Start) -> None:
    async with start(saying("ab"), live=True) as quern, official(quern) as client:
        model = quern.engine.info.model_id
        whole = await client.chat(model, USER, logprobs=True, top_logprobs=2)
        pieces = await collected(client.generate(model, "hi", logprobs=True, stream=True))
    assert whole.logprobs is not None
    assert [token.token for token in whole.logprobs] == ["a", "b"]
    assert len(whole.logprobs[0].top_logprobs or []) == 2
    told: list[Any] = [token for piece in pieces for token in listed(piece.logprobs)]
    assert [token.token for token in told] == ["a", "b"]


async def test_the_official_client_lists_and_shows_the_model(start: Start) -> None:
    settings = {"aliases": ["coder"]}
    async with start(live=True, model=settings) as quern, official(quern) as client:
        model = quern.engine.info.model_id
        listed = await client.list()
        running = await client.ps()
        shown = await client.show(f"{model}:latest")
        pulled = await client.pull("coder")
    assert [entry.model for entry in listed.models] == [f"{model}:latest", "coder:latest"]
    assert [entry.model for entry in running.models] == [f"{model}:latest"]
    assert set(shown.capabilities or []) == {"completion", "tools", "insert"}
    assert shown.modelinfo is not None
    assert shown.modelinfo["bytes.context_length"] == quern.engine.info.context_length
    assert pulled.status == "success"


async def test_a_request_without_a_prompt_only_loads_the_model(quern: Quern) -> None:
    cases: list[tuple[str, dict[str, Any], str]] = [
        ("/api/chat", {"messages": []}, "load"),
        ("/api/generate", {}, "load"),
        ("/api/generate", {"keep_alive": 0}, "unload"),
        ("/api/chat", {"keep_alive": "0s"}, "unload"),
    ]
    for path, body, reason in cases:
        response = await quern.client.post(path, json={"model": quern.engine.info.model_id, **body})
        assert response.status_code == 200, response.text
        assert (response.json()["done"], response.json()["done_reason"]) == (True, reason)
    assert not quern.engine.requests


async def test_what_editors_send_besides_is_accepted(quern: Quern) -> None:
    """VS Code's model picker, JetBrains, Zed, Obsidian's plug-ins, in the versions of 2026."""
    version = (await quern.client.get("/api/version")).json()["version"]
    assert [int(part) for part in version.split(".")] >= [0, 6, 4], "older ones are refused by VS Code"
    body: dict[str, Any] = {
        "messages": [{"role": "system", "content": ""}, *USER],
        "stream": False,
        "think": False,
        "keep_alive": "5m",
        "options": {"num_ctx": 32768, "num_predict": -1, "stop": None, "seed": -1, "mirostat": 0, "top_k": 40},
        "truncate": True,
        "shift": True,
    }
    response = await quern.client.post("/api/chat", json=body)
    assert response.status_code == 200, response.text
    assert response.headers["x-quern-ignored"] == "truncate, shift, options.mirostat"


@pytest.mark.parametrize("kind", ["web_search", "mcp", "custom", "something_new"])
async def test_tools_that_only_vendors_have_are_left_out_and_named(quern: Quern, kind: str) -> None:
    function = {"function": {"name": "weather", "parameters": {"type": "object"}}}
    body = {"messages": [{"role": "user", "content": "hi"}], "stream": False, "tools": [function, {"type": kind}]}
    answer = await quern.client.post("/api/chat", json=body)
    assert answer.status_code == 200, answer.text
    assert answer.headers["x-quern-ignored"] == f"tools.1 ({kind})"
    prompt = quern.codec.tokenizer.decode(quern.engine.requests[-1].prompt)
    assert "weather" in prompt
    assert kind not in prompt


ODD: list[Any] = [
    {"role": "tool", "content": {"lines": 4}, "tool_name": None, "tool_call_id": 5},
    {"role": "assistant", "content": [{"type": "text", "text": {"lines": 4}}], "tool_calls": [{"id": 5}, {}]},
    {"role": "assistant", "content": None, "tool_calls": [{"function": {"arguments": '{"lines": 4'}}]},
    {"role": "system", "content": {"lines": 4}},
    {"role": "user", "content": '{"lines": 4}', "images": "aGk="},
    {"role": "user", "content": '{"lines": 4}', "images": [{"url": "x"}, None]},
    {"role": "user", "content": [{"type": [], "text": "x"}, {"text": '{"lines": 4}'}]},
    {"role": "assistant", "tool_calls": {"function": {"name": "f", "arguments": {"lines": 4}}}},
    {"role": "assistant", "tool_calls": [None, '{"lines": 4}']},
    {
        "role": "assistant",
        "tool_calls": [{"function": {"name": "f", "arguments": '{"lines": 4}'}}, {"function": 5}],
    },
]


@pytest.mark.parametrize("odd", ODD)
async def test_what_was_said_before_is_shown_whatever_it_is(quern: Quern, odd: dict[str, Any]) -> None:
    user = {"role": "user", "content": "hi"}
    answer = await quern.client.post("/api/chat", json={"messages": [user, odd, user], "stream": False})
    assert answer.status_code == 200, answer.text
    assert '{"lines": 4}' in quern.codec.tokenizer.decode(quern.engine.requests[-1].prompt)


async def test_images_are_refused_in_what_is_said_now_and_a_sentence_in_what_was_said_before(quern: Quern) -> None:
    picture: list[Any] = [{"role": "user", "content": "Look", "images": ["aGk="]}]
    refused = await quern.client.post("/api/chat", json={"messages": picture})
    assert refused.status_code == 400
    assert "messages.0.images" in refused.json()["error"]
    later = [*picture, {"role": "assistant", "content": "I can't."}, *USER]
    served = await quern.client.post("/api/chat", json={"messages": later, "stream": False})
    assert served.status_code == 200, served.text
    assert "Look\n[an image was here]" in prompt_text(quern.engine.requests[0])


@pytest.mark.parametrize(
    ("path", "body", "status", "sentence"),
    [
        ("/api/chat", {"model": "llama3", "messages": USER}, 404, "'llama3' is not served here"),
        ("/api/generate", {"prompt": "x", "context": [1, 2]}, 400, "context"),
        ("/api/generate", {"prompt": "x", "template": "{{ .Prompt }}"}, 400, "template"),
        ("/api/generate", {"prompt": "x", "images": ["aGk="]}, 400, "images"),
        ("/api/generate", {"prompt": "x", "raw": True, "format": "json"}, 400, "Leave out format"),
        ("/api/chat", {"messages": USER, "format": "yaml"}, 400, "format"),
        ("/api/chat", {"messages": "hi"}, 400, "messages"),
        ("/api/chat", {"messages": USER, "options": {"temperature": -1}}, 400, "options.temperature"),
        ("/api/show", {"model": "llama3"}, 404, "llama3"),
        ("/api/pull", {"name": "llama3"}, 404, "llama3"),
    ],
)
async def test_errors_are_told_as_ollama_tells_them(
    quern: Quern, path: str, body: dict[str, Any], status: int, sentence: str
) -> None:
    response = await quern.client.post(path, json=body)
    assert response.status_code == status, response.text
    assert set(response.json()) == {"error"}
    assert sentence in response.json()["error"]
    assert not quern.engine.requests


async def test_a_stream_that_fails_ends_with_the_error_as_its_last_line(start: Start) -> None:
    async with start(FakeEngine(fail_after=2, reply=lambda _request: b"abcd")) as quern:
        response = await quern.client.post("/api/chat", json={"messages": USER})
    *pieces, last = [json.loads(line) for line in response.text.splitlines()]
    assert "".join(piece["message"]["content"] for piece in pieces) == "ab"
    assert set(last) == {"error"}
    assert EngineFailed.__name__ not in last["error"]


def test_results_belong_to_the_calls_before_them_by_name_or_in_order() -> None:
    calls: list[Any] = [{"function": {"name": name, "arguments": {}}} for name in ("clock", "weather", "clock")]
    messages: list[Any] = [
        *USER,
        {"role": "assistant", "content": "", "tool_calls": calls},
        {"role": "tool", "tool_name": "weather", "content": "cold"},
        {"role": "tool", "content": "noon"},
        {"role": "tool", "name": "unknown", "content": "?"},
        {"role": "tool", "tool_name": "clock", "content": "one"},
    ]
    items = message_items([ChatMessage.model_validate(message) for message in messages])
    ids = [item.id for item in items if isinstance(item, ToolCall)]
    assert len(set(ids)) == 3
    results = {item.output: item.call_id for item in items if isinstance(item, ToolResult)}
    assert (results["cold"], results["noon"], results["one"]) == (ids[1], ids[0], ids[2])
    assert results["?"] not in ids


async def test_an_answer_goes_on_after_the_assistants_last_message(start: Start) -> None:
    async with start(saying("two")) as quern:
        messages = [*USER, {"role": "assistant", "content": "one, "}]
        response = await quern.client.post("/api/chat", json={"messages": messages, "stream": False})
        assert response.json()["message"]["content"] == "two"
        assert prompt_text(quern.engine.requests[0]).endswith("one, ")


async def test_the_official_client_embeds(start: Start) -> None:
    async with start(live=True, embedding_length=64) as quern, official(quern) as client:
        model = quern.engine.info.model_id
        both = await client.embed(model, ["a", "b"], truncate=True, keep_alive="5m")
        one = await client.embed(model, "a", dimensions=4)
        older = await client.embeddings(model, "b")
        shown = await client.show(model)
        refused = await quern.client.post("/api/chat", json={"messages": USER})
    assert [len(vector) for vector in both.embeddings] == [64, 64]
    assert both.prompt_eval_count == 4
    assert len(one.embeddings[0]) == 4
    assert older.embedding == both.embeddings[1]
    assert shown.capabilities == ["embedding"]
    assert refused.status_code == 400


async def test_a_model_that_writes_makes_no_embeddings(quern: Quern) -> None:
    for path, body in (("/api/embed", {"input": "a"}), ("/api/embeddings", {"prompt": "a"})):
        response = await quern.client.post(path, json=body)
        assert response.status_code == 400
        assert "makes no embeddings" in response.json()["error"]
