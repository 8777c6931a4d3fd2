"""Custom tools of Chat Completions: one text instead of arguments, and its grammar."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import httpx2
import openai
import pytest
from openai.types.chat import ChatCompletionMessageCustomToolCall

from quern.grammar.kinds import JsonGrammar, LarkGrammar
from quern.grammar.tool_calls import ToolFormat

from .answers_sent_back import JSON_CALL, XML_CALL, refusals
from .conftest import Quern, Start
from .engines import saying
from .openai_clients import official, prompt_text, responded
from .test_answers_sent_back import Chat
from .test_custom_tools import INPUTS, PATCH

USER = {"role": "user", "content": "hi"}
LARK = {"syntax": "lark", "definition": "start: /(.+)/ LF\n%import common.LF\n"}
REGEX = {"syntax": "regex", "definition": "[0-9]+"}
WEATHER: dict[str, Any] = {
    "type": "function",
    "function": {"name": "weather", "parameters": {"type": "object", "properties": {"city": {"type": "string"}}}},
}


def custom(name: str = "apply", **members: Any) -> dict[str, Any]:
    return {"type": "custom", "custom": {"name": name, "description": "Applies a patch.", **members}}


FREE = custom()
NAMELESS: dict[str, Any] = {"type": "custom", "custom": {}}
KEPT = custom(format={"type": "grammar", "grammar": LARK})


def calling(name: str, arguments: Any) -> str:
    return f"<tool_call>\n{json.dumps({'name': name, 'arguments': arguments}, ensure_ascii=False)}\n</tool_call>"


async def complete(quern: Quern, **body: Any) -> httpx2.Response:
    content = json.dumps({"messages": [USER], "tools": [FREE], **body})
    headers = {"content-type": "application/json"}
    return await quern.client.post("/v1/chat/completions", content=content, headers=headers)


async def completed(quern: Quern, **body: Any) -> dict[str, Any]:
    """The only choice of an answer."""
    answer = await complete(quern, **body)
    assert answer.status_code == 200, answer.text
    (choice,) = answer.json()["choices"]
    return choice


async def streamed(quern: Quern, **body: Any) -> list[dict[str, Any]]:
    """The choices of a stream's chunks."""
    answer = await complete(quern, **body, stream=True)
    assert answer.status_code == 200, answer.text
    lines = [line.removeprefix("data: ") for line in answer.text.splitlines() if line.startswith("data: {")]
    return [choice for line in lines for choice in json.loads(line)["choices"]]


def call_deltas(choices: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [call for choice in choices for call in choice["delta"].get("tool_calls", [])]


@pytest.mark.parametrize(("arguments", "text"), INPUTS)
async def test_a_call_tells_its_text_whole_and_streamed(start: Start, arguments: Any, text: str) -> None:
    async with start(saying(calling("apply", arguments))) as quern:
        choice = await completed(quern)
        first, *more = call_deltas(await streamed(quern))
    (call,) = choice["message"]["tool_calls"]
    assert call.pop("id").startswith("call_")
    assert call == {"type": "custom", "custom": {"name": "apply", "input": text}}
    assert choice["message"]["content"] is None
    assert choice["finish_reason"] == "tool_calls"
    assert first.pop("id").startswith("call_")
    assert first == {"index": 0, "type": "custom", "custom": {"name": "apply", "input": ""}}
    assert all(one.keys() == {"index", "custom"} and one["custom"].keys() == {"input"} for one in more)
    assert "".join(one["custom"]["input"] for one in more) == text
    assert len(more) > 10 or arguments.get("input") != PATCH or "note" in arguments


async def test_calls_of_both_kinds_stand_side_by_side(start: Start) -> None:
    said = f"Look. {calling('weather', {'city': 'x'})}{calling('apply', {'input': PATCH})}{calling('odd', {'a': 1})}"
    async with start(saying(said)) as quern:
        choice = await completed(quern, tools=[FREE, WEATHER])
        chunks = await streamed(quern, tools=[FREE, WEATHER])
    function, own, unknown = choice["message"]["tool_calls"]
    assert (function["type"], function["function"]["arguments"]) == ("function", '{"city": "x"}')
    assert (own["type"], own["custom"]["input"]) == ("custom", PATCH)
    assert (unknown["type"], unknown["function"]["name"]) == ("function", "odd")
    told: dict[int, str] = {}
    for call in call_deltas(chunks):
        piece = call["custom"]["input"] if "custom" in call else call["function"]["arguments"]
        told[call["index"]] = told.get(call["index"], "") + piece
    assert told == {0: '{"city": "x"}', 1: PATCH, 2: '{"a": 1}'}
    assert chunks[-1]["finish_reason"] == "tool_calls"
    assert "".join(choice["delta"].get("content") or "" for choice in chunks).strip() == "Look."


async def test_a_call_in_the_xml_format_tells_its_text(start: Start) -> None:
    said = f"<tool_call>\n<function=apply>\n<parameter=input>\n{PATCH}\n</parameter>\n</function>\n</tool_call>"
    async with start(saying(said)) as quern:
        quern.codec.tool_format = ToolFormat.XML
        (call,) = (await completed(quern))["message"]["tool_calls"]
        assert call["custom"] == {"name": "apply", "input": PATCH}
        assert "".join(one["custom"]["input"] for one in call_deltas(await streamed(quern))) == PATCH


@pytest.mark.parametrize("cut", range(60, len(calling("apply", {"input": PATCH})) - 14, 7))
async def test_a_cut_call_is_text_in_a_whole_answer_and_never_ends_a_stream_for_calls(start: Start, cut: int) -> None:
    said = calling("apply", {"input": PATCH})[:cut]
    async with start(saying(said)) as quern:
        choice = await completed(quern)
        chunks = await streamed(quern)
        limited = await streamed(quern, max_tokens=len(said.encode()) - 3)
    assert "tool_calls" not in choice["message"]
    assert (choice["message"]["content"], choice["finish_reason"]) == (said, "stop")
    assert PATCH.startswith("".join(one["custom"]["input"] for one in call_deltas(chunks)))
    assert chunks[-1]["finish_reason"] == "stop"
    assert limited[-1]["finish_reason"] == "length"


@pytest.mark.parametrize("grammar", [LARK, REGEX], ids=["lark", "regex"])
@pytest.mark.parametrize("choice", [None, "auto", "required", "named"])
async def test_a_grammar_is_shown_and_kept_to_as_in_responses(
    start: Start, grammar: dict[str, Any], choice: Any
) -> None:
    tool = custom(format={"type": "grammar", "grammar": grammar})
    flat = {"type": "custom", **custom(format={"type": "grammar", **grammar})["custom"]}
    named = choice == "named"
    async with start(saying("x")) as quern:
        demanded = {"type": "custom", "custom": {"name": "apply"}} if named else choice
        await completed(quern, tools=[tool, WEATHER], tool_choice=demanded)
        function = {"type": "function", **WEATHER["function"]}
        demanded = {"type": "custom", "name": "apply"} if named else choice
        await responded(quern, tools=[flat, function], tool_choice=demanded)
        here, there = quern.engine.requests
        assert isinstance(here.grammar, LarkGrammar)
        assert (here.prompt, here.grammar) == (there.prompt, there.grammar)
        assert json.dumps(grammar["definition"])[1:-1] in prompt_text(quern)


@pytest.mark.parametrize(
    "format_", [None, {}, {"type": "text"}, {"type": "grammar", "grammar": LARK}, {"type": "grammar", **LARK}]
)
async def test_a_tool_may_stand_beside_its_type_and_its_grammar_beside_the_formats(start: Start, format_: Any) -> None:
    nested, grammar = custom(format=format_), format_ is not None and format_.get("type") == "grammar"
    flat = {"type": "custom", **nested["custom"]}
    async with start(saying("x")) as quern:
        for tool in (nested, flat, {"custom": nested["custom"]}):
            await completed(quern, tools=[tool])
        for tool in (nested, flat):
            shown = (await responded(quern, tools=[tool]))["tools"][0]["format"]
            assert shown == ({"type": "grammar", **LARK} if grammar else {"type": "text"})
        first, *others = quern.engine.requests
        assert all((one.prompt, one.grammar) == (first.prompt, first.grammar) for one in others)
        assert isinstance(first.grammar, LarkGrammar) == grammar


@pytest.mark.parametrize(
    "choice",
    [
        {"type": "custom", "custom": {"name": "apply"}},
        {"type": "custom", "name": "apply"},
        {"type": "function", "function": {"name": "apply"}},
        {"type": "tool", "name": "apply"},
    ],
)
async def test_a_custom_tool_can_be_demanded(start: Start, choice: Any) -> None:
    said = calling("apply", {"input": PATCH}).removeprefix("<tool_call>\n")
    async with start(saying(said)) as quern:
        answer = await completed(quern, tools=[WEATHER, FREE], tool_choice=choice)
        grammar = quern.engine.requests[-1].grammar
    assert isinstance(grammar, JsonGrammar)
    assert "weather" not in grammar.schema
    assert answer["message"]["tool_calls"][0]["custom"] == {"name": "apply", "input": PATCH}


@pytest.mark.parametrize("mode", ["auto", "required"])
async def test_custom_tools_can_be_among_those_that_are_allowed(start: Start, mode: str) -> None:
    allowed = [{"type": "custom", "custom": {"name": "apply"}}, {"type": "custom", "name": "tell"}, {"type": "mcp"}]
    choice = {"type": "allowed_tools", "allowed_tools": {"mode": mode, "tools": allowed}}
    async with start(saying("x")) as quern:
        answer = await complete(quern, tools=[WEATHER, FREE, custom("tell")], tool_choice=choice)
        assert answer.status_code == 200, answer.text
        assert answer.headers["x-quern-ignored"] == "tool_choice.allowed_tools.tools.2 (mcp)"
        prompt = prompt_text(quern)
    assert '"name": "apply"' in prompt
    assert '"name": "tell"' in prompt
    assert "weather" not in prompt


async def test_what_is_served_is_not_named(quern: Quern) -> None:
    assert "x-quern-ignored" not in (await complete(quern, tools=[KEPT, WEATHER])).headers


@pytest.mark.parametrize(
    ("body", "field", "words"),
    [
        ({"tools": [{"type": "custom"}]}, "tools.0.custom", "missing"),
        ({"tools": [NAMELESS]}, "tools.0.custom.name", "missing"),
        ({"tools": [custom("a b")]}, "tools.0.custom.name", "match"),
        ({"tools": [custom(format={"type": "json"})]}, "tools.0.custom.format", "'json'"),
        ({"tools": [custom(format={"type": "grammar"})]}, "tools.0.custom.format", "missing"),
        (
            {"tools": [custom(format={"type": "grammar", "grammar": {"syntax": "ebnf", "definition": ""}})]},
            "tools.0.custom.format.grammar.syntax",
            "'lark' or 'regex'",
        ),
        ({"tools": [FREE, {**WEATHER, "function": {"name": "apply"}}]}, "tools", "Two tools"),
        ({"tool_choice": {"type": "custom", "custom": {"name": "other"}}}, "tool_choice", "'other'"),
        ({"tool_choice": {"type": "custom"}}, "tool_choice", "missing"),
    ],
)
async def test_what_cannot_be_used_is_refused_by_name(
    quern: Quern, body: dict[str, Any], field: str, words: str
) -> None:
    answer = await complete(quern, **body)
    assert answer.status_code == 400, answer.text
    error = answer.json()["error"]
    assert (error["param"] or "").startswith(field)
    assert words in error["message"]


async def test_calls_and_results_of_before_are_shown(start: Start) -> None:
    async with start(saying(calling("apply", {"input": PATCH}), "done")) as quern:
        message = (await completed(quern))["message"]
        result = {"role": "tool", "tool_call_id": message["tool_calls"][0]["id"], "content": "2 lines"}
        answer = await complete(quern, messages=[USER, message, result])
        assert answer.json()["choices"][0]["message"]["content"] == "done"
        assert "x-quern-ignored" not in answer.headers
        shown = json.dumps({"name": "apply", "arguments": {"input": PATCH}}, ensure_ascii=False)
        assert shown in prompt_text(quern)
        assert "2 lines" in prompt_text(quern)


async def test_a_conversation_remembers_which_kind_a_call_and_its_result_are_of(start: Start) -> None:
    async with start(saying(calling("apply", {"input": PATCH}), "done")) as quern:
        conversation = (await quern.client.post("/v1/conversations", json={})).json()["id"]
        headers = {"x-quern-conversation": conversation}
        body: dict[str, Any] = {"messages": [USER], "tools": [FREE]}
        first = await quern.client.post("/v1/chat/completions", json=body, headers=headers)
        call = first.json()["choices"][0]["message"]["tool_calls"][0]
        body["messages"] = [{"role": "tool", "tool_call_id": call["id"], "content": "2 lines"}]
        second = await quern.client.post("/v1/chat/completions", json=body, headers=headers)
        assert second.status_code == 200, second.text
        items = (await quern.client.get(f"/v1/conversations/{conversation}/items", params={"order": "asc"})).json()
    kinds = [item["type"] for item in items["data"]]
    assert kinds == ["message", "custom_tool_call", "custom_tool_call_output", "message"]
    assert items["data"][1]["input"] == PATCH


class CustomChat(Chat):
    """Chat Completions with a custom tool."""

    tools: dict[str, Any] = {"tools": [custom("run")]}  # noqa: RUF012

    def _add(self, message: dict[str, Any], delta: dict[str, Any]) -> None:
        message["content"] += delta.get("content") or ""
        for call in delta.get("tool_calls", ()):
            calls = message.setdefault("tool_calls", [])
            if call["index"] == len(calls):
                calls.append(json.loads(json.dumps(call)))
            else:
                kind = calls[call["index"]]["type"]
                for name, piece in call[kind].items():
                    calls[call["index"]][kind][name] += piece


@pytest.mark.parametrize(("format_", "reply"), [(ToolFormat.JSON, JSON_CALL), (ToolFormat.XML, XML_CALL)])
async def test_an_answer_cut_anywhere_can_be_sent_back(start: Start, format_: ToolFormat, reply: str) -> None:
    assert not await refusals(start, CustomChat(), format_, reply)


async def test_the_official_client_reads_a_whole_answer(start: Start) -> None:
    async with start(saying(calling("apply", {"input": PATCH})), live=True) as quern, official(quern) as client:
        messages, tools = _official([USER]), _official([KEPT])
        answer = await client.chat.completions.create(model="fake", messages=messages, tools=tools)
    (call,) = answer.choices[0].message.tool_calls or []
    assert isinstance(call, ChatCompletionMessageCustomToolCall)
    assert (call.custom.name, call.custom.input) == ("apply", PATCH)


async def test_the_official_clients_streaming_helper_gathers_a_call(start: Start) -> None:
    said = calling("weather", {"city": "x"}) + calling("apply", {"input": PATCH})
    async with start(saying(said), live=True) as quern, lenient(quern) as client:
        messages, tools = _official([USER]), _official([WEATHER, FREE])
        async with client.chat.completions.stream(model="fake", messages=messages, tools=tools) as stream:
            kinds = [event.type async for event in stream]
            gathered = stream.current_completion_snapshot.choices[0]
    assert "tool_calls.function.arguments.done" in kinds
    function, call = _official(gathered.message.tool_calls)
    assert function.function.arguments == '{"city": "x"}'
    assert (call.type, call.custom) == ("custom", {"name": "apply", "input": PATCH})
    assert gathered.finish_reason == "tool_calls"


@asynccontextmanager
async def lenient(quern: Quern) -> AsyncGenerator[openai.AsyncOpenAI]:
    """The official client as people use it. Its types have no custom calls in chunks, although its vendor sends them:
    one that checks each chunk refuses them, and `get_final_completion` fails on any.
    """
    url = str(quern.client.base_url).rstrip("/")
    async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="unused", max_retries=0) as client:
        yield client


def _official(value: Any) -> Any:
    return value
