"""What clients of Chat Completions and Completions send beside the vendor's fields, and in older or other forms."""

from __future__ import annotations

import json
from typing import Any

import httpx2
import pytest

from quern.grammar.compiler import GrammarCompiler
from quern.grammar.kinds import Grammar, JsonGrammar, LarkGrammar
from quern.prompt.codec import TextCodec

from .conftest import Quern, Start
from .engines import saying

USER = [{"role": "user", "content": "hi"}]
FUNCTION: dict[str, Any] = {
    "name": "weather",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
}
TOOL = {"type": "function", "function": FUNCTION}
OTHER = {"type": "function", "function": {"name": "other"}}
CALL = '<tool_call>\n{"name": "weather", "arguments": {"city": "Paris"}}\n</tool_call>'
BODIES: dict[str, dict[str, Any]] = {"/v1/chat/completions": {"messages": USER}, "/v1/completions": {"prompt": "hi"}}
SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}}


async def post(quern: Quern, path: str, **body: Any) -> httpx2.Response:
    response = await quern.client.post(path, json={**BODIES[path], **body})
    assert response.status_code == 200, response.text
    return response


async def chat(quern: Quern, **body: Any) -> httpx2.Response:
    return await post(quern, "/v1/chat/completions", **body)


def chunks_of(response: httpx2.Response) -> list[dict[str, Any]]:
    *frames, done, end = response.text.split("\n\n")
    assert (done, end) == ("data: [DONE]", "")
    return [json.loads(frame.removeprefix("data: ")) for frame in frames]


def deltas_of(response: httpx2.Response) -> list[dict[str, Any]]:
    return [choice["delta"] for chunk in chunks_of(response) for choice in chunk["choices"]]


def accepted(grammar: Grammar | None, text: str) -> bool:
    """Whether the whole text is an answer that the grammar allows."""
    assert grammar is not None
    codec = TextCodec.builtin()
    constraint = GrammarCompiler(codec.tokenizer, codec.vocabulary_size).compile(grammar).constraint()
    constraint.consume(text.encode())
    return not constraint.failure and (constraint.accepting or constraint.complete)


@pytest.mark.parametrize("choice", [{}, {"function_call": "auto"}, {"function_call": {"name": "weather"}}])
async def test_functions_are_called_in_the_way_that_came_before_tools(start: Start, choice: dict[str, Any]) -> None:
    demanded = isinstance(choice.get("function_call"), dict)
    text = '{"name": "weather", "arguments": {"city": "Paris"}}' if demanded else f"Look.\n{CALL}\n{CALL}"
    async with start(saying(text)) as quern:
        whole = (await chat(quern, functions=[FUNCTION], **choice)).json()["choices"][0]
        streamed = await chat(quern, functions=[FUNCTION], stream=True, **choice)
    assert whole["finish_reason"] == "function_call"
    assert whole["message"]["function_call"] == {"name": "weather", "arguments": '{"city": "Paris"}'}
    assert whole["message"]["content"] == (None if demanded else "Look.")
    assert "tool_calls" not in whole["message"]
    calls = [delta["function_call"] for delta in deltas_of(streamed) if "function_call" in delta]
    assert calls[0] == {"name": "weather", "arguments": ""}
    assert "".join(call["arguments"] for call in calls) == '{"city": "Paris"}'
    assert chunks_of(streamed)[-1]["choices"][0]["finish_reason"] == "function_call"
    assert not any("tool_calls" in delta for delta in deltas_of(streamed))


async def test_functions_are_not_called_where_the_request_says_none(start: Start) -> None:
    async with start(saying(CALL)) as quern:
        choice = (await chat(quern, functions=[FUNCTION], function_call="none")).json()["choices"][0]
    assert (choice["message"]["content"], choice["finish_reason"]) == (CALL, "stop")


@pytest.mark.parametrize("mode", ["auto", "required"])
async def test_of_allowed_tools_the_model_is_shown_those_only(quern: Quern, mode: str) -> None:
    allowed = {"mode": mode, "tools": [{"type": "function", "function": {"name": "weather"}}]}
    await chat(quern, tools=[OTHER, TOOL], tool_choice={"type": "allowed_tools", "allowed_tools": allowed})
    (request,) = quern.engine.requests
    prompt = quern.codec.tokenizer.decode(request.prompt)
    assert '"weather"' in prompt
    assert '"other"' not in prompt
    assert prompt.endswith("<tool_call>\n") == (mode == "required")


@pytest.mark.parametrize(
    "tool",
    [
        {"function": FUNCTION},
        {"type": "function", **FUNCTION},
        FUNCTION,
        {**TOOL, "function": {**FUNCTION, "strict": None, "description": None}},
    ],
)
async def test_a_tool_in_another_form_is_the_same_tool(quern: Quern, tool: dict[str, Any]) -> None:
    await chat(quern, tools=[TOOL])
    await chat(quern, tools=[tool])
    await chat(quern, tools=[tool, TOOL, tool])
    first, *others = [request.prompt for request in quern.engine.requests]
    assert others == [first, first]


@pytest.mark.parametrize(
    "choice",
    [
        "any",
        {"type": "function", "name": "weather"},
        {"type": "any"},
        {"type": "required"},
        {"type": "tool", "name": "weather"},
    ],
)
async def test_a_choice_in_another_form_demands_the_same(quern: Quern, choice: Any) -> None:
    await chat(quern, tools=[TOOL], tool_choice="required")
    await chat(quern, tools=[TOOL], tool_choice=choice)
    first, second = quern.engine.requests
    assert (first.prompt, first.grammar) == (second.prompt, second.grammar)


@pytest.mark.parametrize("mode", ["auto", "none"])
async def test_a_mode_in_anthropics_shape_is_the_same_mode(quern: Quern, mode: str) -> None:
    await chat(quern, tools=[TOOL], tool_choice=mode)
    await chat(quern, tools=[TOOL], tool_choice={"type": mode})
    first, second = quern.engine.requests
    assert (first.prompt, first.grammar) == (second.prompt, second.grammar)


@pytest.mark.parametrize("path", BODIES)
@pytest.mark.parametrize(
    "body",
    [
        {"guided_json": SCHEMA},
        {"guided_json": json.dumps(SCHEMA)},
        {"structured_outputs": {"json": SCHEMA}},
        {"response_format": {"type": "json_object", "schema": SCHEMA}},
        {"response_format": {"type": "json_schema", "schema": SCHEMA}},
        {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA}}},
        {"response_format": {"type": "text"}, "guided_json": SCHEMA, "guided_regex": None, "guided_choice": []},
    ],
)
async def test_a_schema_is_kept_to_by_whichever_name(quern: Quern, path: str, body: dict[str, Any]) -> None:
    await post(quern, path, **body)
    grammar = quern.engine.requests[-1].grammar
    assert isinstance(grammar, JsonGrammar)
    assert json.loads(grammar.schema) == SCHEMA


@pytest.mark.parametrize("path", BODIES)
@pytest.mark.parametrize("body", [
    {"structured_outputs": {"json_object": True}},
    {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": None}}},
])  # fmt: skip
async def test_without_a_schema_any_object_will_do(quern: Quern, path: str, body: dict[str, Any]) -> None:
    await post(quern, path, **body)
    assert quern.engine.requests[-1].grammar == JsonGrammar('{"type":"object"}')


@pytest.mark.parametrize("path", BODIES)
@pytest.mark.parametrize(
    ("kind", "value", "texts"),
    [
        ("regex", r"a(b|c)\d{2}", (["ab12", "ac00"], ["ad12", "ab1", "xab12"])),
        ("regex", r"^\w+@\w+\.com$", (["me@x.com"], ["me@x.org", "^me@x.com"])),
        ("regex", r"https://x/[/a]+", (["https://x/a/a"], ["https:x"])),
        ("regex", "a\nb|\\$", (["a\nb", "$"], ["ab"])),
        ("regex", "", ([""], ["a"])),
        ("choice", ["yes", "no\n", 'qu"o', "\\", "ü😀", ""], (["yes", "no\n", 'qu"o', "\\", "ü😀"], ["x", "yesno"])),
        ("grammar", 'start: "a"+ NUMBER\nNUMBER: /[0-9]/', (["aa1"], ["a", "1"])),
        ("grammar", 'start: "x" inner\ninner: %json {"type": "integer"}', (["x12"], ["x", "12"])),
    ],
)  # fmt: skip
async def test_a_language_is_kept_to_by_both_of_vllms_names(
    quern: Quern, path: str, kind: str, value: Any, texts: tuple[list[str], list[str]]
) -> None:
    await post(quern, path, **{f"guided_{kind}": value})
    await post(quern, path, structured_outputs={kind: value})
    first, second = quern.engine.requests
    assert first.grammar == second.grammar
    assert isinstance(first.grammar, LarkGrammar)
    fit, other = texts
    assert [text for text in fit if not accepted(first.grammar, text)] == []
    assert [text for text in other if accepted(first.grammar, text)] == []


async def test_a_language_and_tools_keep_the_answer_to_the_language(quern: Quern) -> None:
    await chat(quern, tools=[TOOL], guided_choice=["a", "b"])
    assert isinstance(quern.engine.requests[-1].grammar, LarkGrammar)
    await chat(quern, tools=[TOOL], tool_choice="required", guided_choice=["a", "b"])
    assert isinstance(quern.engine.requests[-1].grammar, JsonGrammar)


@pytest.mark.parametrize("path", BODIES)
@pytest.mark.parametrize(
    ("given", "name", "value"),
    [
        ({"max_tokens": -1}, "max_tokens", 4096),
        ({"max_tokens": 7}, "max_tokens", 7),
        ({"repeat_penalty": 1.3}, "repetition_penalty", 1.3),
        ({"repeat_penalty": 1.3, "repetition_penalty": 1.2}, "repetition_penalty", 1.2),
        ({"ignore_eos": True, "max_tokens": 9}, "ignore_eos", True),
        ({"top_p": 0}, "greedy", True),
        ({"temperature": 0}, "greedy", True),
        ({"logit_bias": None}, "logit_bias", {}),
        ({"logit_bias": {}}, "logit_bias", {}),
        ({"logit_bias": {"65": 1}}, "logit_bias", {65: 1.0}),
        ({"top_k": -1}, "top_k", 0),
    ],
)
async def test_values_in_other_forms_reach_the_engine(
    quern: Quern, path: str, given: dict[str, Any], name: str, value: Any
) -> None:
    await post(quern, path, **given)
    assert getattr(quern.engine.requests[-1].sampling, name) == value


async def test_of_two_limits_the_one_with_the_newer_name_counts(quern: Quern) -> None:
    for newer, older, limit in ((5, 9, 5), (9, 5, 9), (None, 5, 5), (-1, 5, 5), (5, -1, 5)):
        await chat(quern, max_completion_tokens=newer, max_tokens=older)
        assert quern.engine.requests[-1].sampling.max_tokens == limit


@pytest.mark.parametrize("path", BODIES)
async def test_what_changes_nothing_changes_nothing(quern: Quern, path: str) -> None:
    idle: dict[str, Any] = {
        "n": None,
        "stop": [],
        "stream_options": {"include_usage": True, "continuous_usage_stats": True},
        "enable_thinking": False,
        "chat_template_kwargs": {"enable_thinking": False, "thinking": True},
        "extra": {"language": "python", "next_indent": 0, "trim_by_indentation": True},
        "nwo": "owner/repository",
        "user": "me",
        "keep_alive": "5m",
        "skip_special_tokens": True,
        "guided_decoding_backend": "xgrammar",
        "logit_bias": {},
    }
    plain = await post(quern, path)
    same = await post(quern, path, **idle)
    assert "x-quern-ignored" not in same.headers
    assert plain.json()["choices"] == same.json()["choices"]
    first, second = quern.engine.requests
    assert first == second


@pytest.mark.parametrize("path", BODIES)
async def test_empty_stop_texts_end_nothing(start: Start, path: str) -> None:
    async with start(saying("abc")) as quern:
        for stop, text in (("", "abc"), ([""], "abc"), (["", "b"], "a"), (None, "abc"), ("c", "ab")):
            answer = await post(quern, path, stop=stop)
            choice = answer.json()["choices"][0]
            assert (choice["text"] if "text" in choice else choice["message"]["content"]) == text
            empty = stop is not None and "" in (stop or [""])
            assert answer.headers.get("x-quern-ignored") == ("stop.0" if empty and stop != "c" else None)


async def test_no_likeliest_tokens_need_no_logprobs(quern: Quern) -> None:
    assert (await chat(quern, top_logprobs=0)).json()["choices"][0]["logprobs"] is None
    assert (await post(quern, "/v1/completions", logprobs=False)).json()["choices"][0]["logprobs"] is None


@pytest.mark.parametrize("path", BODIES)
@pytest.mark.parametrize("n", [1, 2])
async def test_vllms_continuous_usage_is_in_every_chunk(start: Start, path: str, n: int) -> None:
    options = {"include_usage": True, "continuous_usage_stats": True}
    async with start(saying("abc", token_delay=0.001)) as quern:
        chunks = chunks_of(await post(quern, path, stream=True, stream_options=options, n=n))
        alone = chunks_of(await post(quern, path, stream=True, stream_options={"continuous_usage_stats": True}))
    counts = [chunk["usage"]["completion_tokens"] for chunk in chunks]
    assert counts == sorted(counts)
    assert counts[-1] == 3 * n
    assert len({chunk["usage"]["prompt_tokens"] for chunk in chunks}) == 1
    assert not any("usage" in chunk for chunk in alone)


async def test_an_answer_begins_anew_where_the_request_says_so(quern: Quern) -> None:
    messages = [*USER, {"role": "assistant", "content": "one, "}]
    for continued, end in ((None, "one, "), (True, "one, "), (False, "assistant\n")):
        await chat(quern, messages=messages, continue_final_message=continued, add_generation_prompt=None)
        prompt = quern.codec.tokenizer.decode(quern.engine.requests[-1].prompt)
        assert prompt.endswith(end)
        body = {"messages": messages, "continue_final_message": continued}
        rendered = (await quern.client.post("/apply-template", json=body)).json()["prompt"]
        assert rendered.endswith(end)


async def test_what_tabbys_plug_ins_send_is_a_gap_with_its_files(start: Start) -> None:
    segments = {
        "prefix": "def f():\n    ",
        "suffix": "\n",
        "filepath": "a.py",
        "git_url": "https://example.com/x",
        "declarations": [{"filepath": "b.py", "body": "B = 1"}],
    }
    async with start(saying("return 1")) as quern:
        body = {"language": "python", "segments": segments, "user": "me", "temperature": 0.1, "seed": 1}
        response = await quern.client.post("/v1/completions", json=body)
        assert response.status_code == 200, response.text
        assert "x-quern-ignored" not in response.headers
        assert response.json()["choices"][0]["text"] == "return 1"
        prompt = quern.codec.tokenizer.decode(quern.engine.requests[-1].prompt)
        assert "b.py\nB = 1" in prompt
        assert prompt.endswith("def f():\n    \n")
        del segments["suffix"], segments["declarations"]
        bare = await quern.client.post("/v1/completions", json={"segments": segments})
    assert bare.status_code == 200, bare.text
