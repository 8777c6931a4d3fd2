"""Chat Completions: whole and streamed answers, tools, formats, and what is refused."""

from __future__ import annotations

import json
from typing import Any

import httpx2
import pytest

from quern.api.shared import sse
from quern.engine.fake import FakeEngine
from quern.grammar.kinds import JsonGrammar
from quern.prompt.codec import TextCodec

from .conftest import Quern, Start
from .engines import saying
from .streams import frames

USER = [{"role": "user", "content": "hi"}]
WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "The weather of a city.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}


def named(name: str) -> dict[str, Any]:
    """A choice of a tool."""
    return {"type": "function", "function": {"name": name}}


def allowed(*names: str, mode: str = "auto") -> dict[str, Any]:
    """A choice among tools."""
    return {"type": "allowed_tools", "allowed_tools": {"mode": mode, "tools": [named(name) for name in names]}}


CALL = '<tool_call>\n{"name": "weather", "arguments": {"city": "北京"}}\n</tool_call>'


async def complete(quern: Quern, **body: Any) -> httpx2.Response:
    return await quern.client.post("/v1/chat/completions", json={"messages": USER, **body})


def prompt_text(quern: Quern) -> str:
    return quern.codec.tokenizer.decode(quern.engine.requests[-1].prompt)


async def test_an_answer_in_one_piece_has_the_documented_shape(start: Start) -> None:
    async with start(saying("你好!")) as quern:
        response = await complete(quern, model="fake")
    body = response.json()
    assert response.status_code == 200
    assert body.pop("id").startswith("chatcmpl-")
    assert isinstance(body.pop("created"), int)
    assert body == {
        "model": "fake",
        "object": "chat.completion",
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": "你好!", "refusal": None},
                "logprobs": None,
                "finish_reason": "stop",
            }
        ],
        "usage": {
            "prompt_tokens": 21,
            "completion_tokens": 7,
            "total_tokens": 28,
            "prompt_tokens_details": {"cached_tokens": 0},
        },
    }


async def test_a_stream_is_a_role_then_text_then_a_reason_then_usage_then_done(start: Start) -> None:
    async with start(saying("你!")) as quern:
        sent = frames(await complete(quern, stream=True, stream_options={"include_usage": True}))
    *chunks, usage, done = sent
    assert done == "[DONE]"
    assert [chunk["choices"][0]["delta"] for chunk in chunks] == [
        {"role": "assistant", "content": ""},
        {"content": "你"},
        {"content": "!"},
        {},
    ]
    assert [chunk["choices"][0]["finish_reason"] for chunk in chunks] == [None, None, None, "stop"]
    assert all(chunk["usage"] is None and chunk["object"] == "chat.completion.chunk" for chunk in chunks)
    assert len({chunk["id"] for chunk in sent[:-1]}) == 1
    assert (usage["choices"], usage["usage"]["completion_tokens"]) == ([], 4)


async def test_silence_is_filled_with_chunks_that_add_nothing(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sse, "KEEP_ALIVE_SECONDS", 0.005)
    async with start(saying("ab", token_delay=0.05)) as quern:
        *chunks, _done = frames(await complete(quern, stream=True))
    assert len({(chunk["id"], chunk["object"]) for chunk in chunks}) == 1
    told = [choice for chunk in chunks for choice in chunk["choices"]]
    silent = {"index": 0, "delta": {"content": ""}, "logprobs": None, "finish_reason": None}
    assert told.count(silent) > 1
    assert "".join(choice["delta"].get("content", "") for choice in told) == "ab"


@pytest.mark.parametrize("n", [1, 2])
async def test_progress_in_a_long_prompt_is_silence_too(start: Start, monkeypatch: pytest.MonkeyPatch, n: int) -> None:
    monkeypatch.setattr(sse, "KEEP_ALIVE_SECONDS", 0.05)
    long = [{"role": "user", "content": "word " * 50}]
    slow = FakeEngine(vocabulary_size=TextCodec.builtin().vocabulary_size, prefill_chunk=4, prefill_delay=0.02)
    async with start(slow) as quern:
        *chunks, _done = frames(await complete(quern, messages=long, stream=True, n=n, max_tokens=1))
    told = [choice for chunk in chunks for choice in chunk["choices"]]
    assert told.count({"index": 0, "delta": {"content": ""}, "logprobs": None, "finish_reason": None}) > 1


async def test_without_include_usage_no_chunk_has_usage(quern: Quern) -> None:
    *chunks, done = frames(await complete(quern, stream=True))
    assert done == "[DONE]"
    assert all("usage" not in chunk for chunk in chunks)


async def test_every_role_reaches_the_template_in_order(quern: Quern) -> None:
    call = {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Paris"}'}}
    messages = [
        {"role": "developer", "content": "Be brief."},
        {"role": "user", "content": [{"type": "text", "text": "one"}, {"type": "text", "text": "two"}]},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c1", "content": "sunny"},
    ]
    assert (await complete(quern, messages=messages)).status_code == 200
    assert prompt_text(quern) == (
        'system\nBe brief.\nuser\none\ntwo\nassistant\n\n<tool_call>\n{"name": "weather", "arguments": '
        '{"city": "Paris"}}\n</tool_call>\ntool\nsunny\nassistant\n'
    )


async def test_a_call_is_streamed_as_name_then_arguments(start: Start) -> None:
    async with start(saying("Let me look.\n" + CALL)) as quern:
        *chunks, _done = frames(await complete(quern, stream=True, tools=[WEATHER]))
    deltas = [chunk["choices"][0]["delta"] for chunk in chunks]
    assert "".join(delta.get("content") or "" for delta in deltas) == "Let me look."
    calls = [delta["tool_calls"][0] for delta in deltas if "tool_calls" in delta]
    assert calls[0]["index"] == 0
    assert calls[0]["id"].startswith("call_")
    assert calls[0]["function"] == {"name": "weather", "arguments": ""}
    assert json.loads("".join(call["function"]["arguments"] for call in calls)) == {"city": "北京"}
    assert len(calls) > 3
    assert chunks[-1]["choices"][0]["finish_reason"] == "tool_calls"


async def test_a_call_in_one_piece_leaves_the_content_null(start: Start) -> None:
    async with start(saying(CALL)) as quern:
        (choice,) = (await complete(quern, tools=[WEATHER])).json()["choices"]
    assert choice["finish_reason"] == "tool_calls"
    assert choice["message"]["content"] is None
    (call,) = choice["message"]["tool_calls"]
    assert (call["type"], call["function"]["name"]) == ("function", "weather")
    assert json.loads(call["function"]["arguments"]) == {"city": "北京"}


async def test_calls_are_parallel_unless_the_request_wants_one(start: Start) -> None:
    async with start(saying(f"{CALL}\n{CALL}")) as quern:
        both = (await complete(quern, tools=[WEATHER])).json()["choices"][0]["message"]["tool_calls"]
        one = (await complete(quern, tools=[WEATHER], parallel_tool_calls=False)).json()["choices"][0]
    assert len({call["id"] for call in both}) == 2
    assert len(one["message"]["tool_calls"]) == 1
    assert one["finish_reason"] == "tool_calls"


async def test_with_tool_choice_none_the_model_sees_no_tools(start: Start) -> None:
    async with start(saying(CALL)) as quern:
        (choice,) = (await complete(quern, tools=[WEATHER], tool_choice="none")).json()["choices"]
        assert "weather" not in prompt_text(quern)
    assert choice["message"]["content"] == CALL
    assert choice["finish_reason"] == "stop"


@pytest.mark.parametrize("choice", ["required", {"type": "function", "function": {"name": "weather"}}])
async def test_a_demanded_call_is_opened_in_the_prompt_and_kept_to_by_a_grammar(start: Start, choice: Any) -> None:
    other = {"type": "function", "function": {"name": "other"}}
    async with start(saying('{"name": "weather", "arguments": {"city": "x"}}')) as quern:
        body = (await complete(quern, tools=[WEATHER, other], tool_choice=choice)).json()
        assert prompt_text(quern).endswith("assistant\n<tool_call>\n")
        grammar = quern.engine.requests[-1].grammar
    assert isinstance(grammar, JsonGrammar)
    assert ("other" in grammar.schema) == (choice == "required")
    assert body["choices"][0]["message"]["tool_calls"][0]["function"]["name"] == "weather"
    assert body["choices"][0]["finish_reason"] == "tool_calls"


async def test_formats_become_grammars(quern: Quern) -> None:
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}}
    named = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema, "strict": True}}
    for given, wanted in (({"type": "json_object"}, {"type": "object"}), (named, schema)):
        assert (await complete(quern, response_format=given)).status_code == 200
        grammar = quern.engine.requests[-1].grammar
        assert isinstance(grammar, JsonGrammar)
        assert json.loads(grammar.schema) == wanted
    assert (await complete(quern, response_format={"type": "text"})).status_code == 200
    assert quern.engine.requests[-1].grammar is None


async def test_several_choices_are_streamed_side_by_side_and_draw_with_seeds_of_their_own(quern: Quern) -> None:
    whole = (await complete(quern, n=3, seed=5)).json()
    assert [choice["index"] for choice in whole["choices"]] == [0, 1, 2]
    assert [request.sampling.seed for request in quern.engine.requests] == [5, 6, 7]
    assert whole["usage"]["completion_tokens"] == 3 * whole["usage"]["prompt_tokens"] - 3 * 3
    *chunks, done = frames(await complete(quern, n=2, stream=True))
    assert done == "[DONE]"
    for index in (0, 1):
        of_choice = [chunk["choices"][0] for chunk in chunks if chunk["choices"][0]["index"] == index]
        assert "".join(choice["delta"].get("content", "") for choice in of_choice) == "user\nhi\nassistant\n"
        assert of_choice[-1]["finish_reason"] == "stop"


async def test_where_one_of_several_choices_is_refused_none_goes_on(start: Start) -> None:
    async with start(saying("x" * 500, parallel=1, token_delay=0.01), turns={"max_queued": 1}) as quern:
        response = await complete(quern, n=3)
        assert response.status_code == 503
        assert int(response.headers["retry-after"]) >= 1
        assert response.json()["error"]["code"] == "overloaded"
        await quern.application.turns.drain(5)
        assert quern.application.turns.active == 0


async def test_logprobs_come_with_the_text_they_belong_to(start: Start) -> None:
    async with start(saying("你!")) as quern:
        whole = (await complete(quern, logprobs=True, top_logprobs=2)).json()["choices"][0]
        *chunks, _done = frames(await complete(quern, logprobs=True, top_logprobs=2, stream=True))
    told = whole["logprobs"]["content"]
    assert bytes(byte for token in told for byte in token["bytes"]) == "你!".encode()
    assert all(token["logprob"] <= 0 and len(token["top_logprobs"]) == 2 for token in told)
    with_text = [
        (chunk["choices"][0]["delta"].get("content"), chunk["choices"][0]["logprobs"]) for chunk in chunks[1:-1]
    ]
    assert [(text, len(logprobs["content"])) for text, logprobs in with_text] == [("你", 3), ("!", 1)]


async def test_sampling_values_reach_the_engine(quern: Quern) -> None:
    values = {
        "temperature": 0.3,
        "top_p": 0.9,
        "top_k": 7,
        "min_p": 0.1,
        "repetition_penalty": 1.2,
        "presence_penalty": 0.5,
        "frequency_penalty": -0.5,
        "seed": 11,
        "logit_bias": {"65": -100},
        "max_completion_tokens": 9,
        "stop": "zzz",
    }
    assert (await complete(quern, **values)).status_code == 200
    sampling = quern.engine.requests[-1].sampling
    assert (sampling.temperature, sampling.top_p, sampling.top_k, sampling.min_p) == (0.3, 0.9, 7, 0.1)
    assert (sampling.repetition_penalty, sampling.presence_penalty, sampling.frequency_penalty) == (1.2, 0.5, -0.5)
    assert (sampling.seed, sampling.logit_bias, sampling.max_tokens) == (11, {65: -100.0}, 9)


async def test_a_limit_beyond_the_context_gives_what_room_there_is_and_a_full_context_is_refused(start: Start) -> None:
    async with start(saying("x", context_length=1024)) as quern:
        assert (await complete(quern, max_tokens=100_000)).status_code == 200
        assert quern.engine.requests[-1].sampling.max_tokens == 1024 - 21
        full = await complete(quern, messages=[{"role": "user", "content": "x" * 900}])
    assert full.status_code == 400
    assert full.json()["error"]["code"] == "context_length_exceeded"
    sentence = full.json()["error"]["message"]
    assert sentence.startswith(
        "This model's maximum context length is 1024 tokens. However, your messages resulted in 919 tokens."
    )
    assert "256 reserved for the answer" in sentence


async def test_an_engine_that_fails_is_an_error_or_the_last_frame(start: Start) -> None:
    async with start(saying("abcdef", fail_after=3)) as quern:
        whole = await complete(quern)
        sent = frames(await complete(quern, stream=True))
    assert whole.status_code == 500
    assert whole.json()["error"]["type"] == "server_error"
    assert sent[-1]["error"]["type"] == "server_error"
    assert "failed after 3 tokens" in sent[-1]["error"]["message"]


async def test_a_conversation_of_the_original_endpoints_goes_on_here_and_back(quern: Quern) -> None:
    conversation = await quern.begin("first")
    header = {"x-quern-conversation": conversation}
    body = {"messages": [{"role": "user", "content": "second"}]}
    assert (await quern.client.post("/v1/chat/completions", json=body, headers=header)).status_code == 200
    assert "first" in prompt_text(quern)
    await quern.chat("third", conversation)
    assert "second" in prompt_text(quern)
    unknown = await quern.client.post("/v1/chat/completions", json=body, headers={"x-quern-conversation": "nope"})
    assert unknown.status_code == 404
    assert unknown.json()["error"]["code"] == "not_found"


@pytest.mark.parametrize(
    ("body", "param", "words"),
    [
        ({"messages": []}, "messages", "at least 1 item"),
        ({"messages": [{"role": "user"}]}, "messages.0.content", "missing"),
        ({"messages": [None, {}, 5, {"role": "robot"}]}, "messages", "an object with a role and content"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "messages.0.content.0", "image_url"),
        ({"messages": [*USER, {"role": "user", "content": None}]}, "messages.1.content", "missing"),
        ({"temperature": 2.5}, "temperature", "less than or equal to 2"),
        ({"top_p": -0.1}, "top_p", "greater than or equal to 0"),
        ({"n": 0}, "n", "greater than or equal to 1"),
        ({"n": 17}, "n", "less than or equal to 16"),
        ({"max_tokens": 0}, "max_tokens", "greater than or equal to 1"),
        ({"max_completion_tokens": -2}, "max_completion_tokens", "greater than or equal to 1"),
        ({"top_logprobs": 2}, "top_logprobs", "needs logprobs"),
        ({"logprobs": True, "top_logprobs": 21}, "top_logprobs", "20"),
        ({"stop": [1]}, "stop.0", "valid string"),
        ({"stop": ["x"] * 17}, "stop", "at most 16"),
        ({"functions": [{"description": "x"}]}, "functions.0.name", "missing"),
        ({"functions": [WEATHER["function"]], "function_call": {"name": "f"}}, "function_call", "not among the tools"),
        ({"audio": {"voice": "x", "format": "wav"}}, "audio", "text only"),
        ({"modalities": ["text", "audio"]}, "modalities", "text only"),
        ({"tool_choice": "required"}, "tool_choice", "no tools"),
        ({"tools": [WEATHER, {"function": {"name": "weather"}}]}, "tools", "Two tools"),
        ({"tools": [{"type": "web_search"}], "tool_choice": "required"}, "tool_choice", "no tools"),
        ({"tools": [WEATHER], "tool_choice": {"type": "web_search"}}, "tool_choice", "'web_search'"),
        ({"tools": [WEATHER], "tool_choice": {"type": "custom", "custom": {"name": "x"}}}, "tool_choice", "'x'"),
        ({"tools": [WEATHER], "tool_choice": named("other")}, "tool_choice", "'other'"),
        ({"tools": [WEATHER], "tool_choice": allowed("other")}, "tool_choice", "'other'"),
        ({"tools": [WEATHER], "tool_choice": allowed()}, "tool_choice.allowed_tools.tools", "at least 1"),
        ({"guided_json": "{"}, "guided_json", "the text of one"),
        ({"guided_regex": "a", "guided_grammar": "b"}, "guided_regex", "ask for two"),
        ({"guided_json": {}, "response_format": {"type": "json_object"}}, "guided_json", "response_format"),
        ({"guided_grammar": "%llguidance {}\nstart: /a/"}, "guided_grammar", "%llguidance"),
        ({"structured_outputs": {"structural_tag": "{}"}}, "structured_outputs.structural_tag", "not served"),
        ({"response_format": {"type": "json_schema"}}, "response_format.json_schema", "missing"),
        ({"response_format": {"type": "xml"}}, "response_format.type", "'xml' is none of"),
        ({"logit_bias": {"a": 1}}, "logit_bias.a.[key]", "integer"),
    ],
)
async def test_what_cannot_be_used_is_refused_by_name(
    quern: Quern, body: dict[str, Any], param: str, words: str
) -> None:
    response = await complete(quern, **body)
    error = response.json()["error"]
    assert response.status_code == 400, error
    assert (error["type"], error["param"]) == ("invalid_request_error", param)
    assert words in error["message"]
    assert quern.engine.requests == []


async def test_a_body_that_is_no_json_object_is_refused_with_a_sentence(quern: Quern) -> None:
    for content, words in ((b"{", "not valid JSON"), (b"[]", "one JSON object"), (b"", "missing")):
        response = await quern.client.post(
            "/v1/chat/completions", content=content, headers={"content-type": "application/json"}
        )
        assert response.status_code == 400
        assert words in response.json()["error"]["message"], response.text


async def test_another_model_is_refused_unless_it_is_an_alias(start: Start) -> None:
    async with start() as quern:
        response = await complete(quern, model="gpt-4o")
    assert response.status_code == 404
    assert response.json()["error"]["code"] == "model_not_found"
    assert "'fake'" in response.json()["error"]["message"]
    async with start(model={"aliases": "gpt-4o, other"}) as quern:
        assert (await complete(quern, model="gpt-4o")).json()["model"] == "fake"
    async with start(model={"aliases": ("*",)}) as quern:
        assert (await complete(quern, model="anything")).status_code == 200


async def test_a_model_without_a_name_is_the_one_that_is_served(start: Start) -> None:
    async with start() as quern:
        assert (await complete(quern, model="")).json()["model"] == "fake"


async def test_what_llama_vim_sends_for_an_edit_is_streamed(start: Start) -> None:
    asked = {"id_slot": 0, "samplers": ["min_p", "temperature"], "cache_prompt": True, "min_p": 0.1, "temperature": 0.1}
    async with start(saying("a + b")) as quern:
        chunks = frames(await complete(quern, **asked, stream=True, model=""))
    assert chunks.pop() == "[DONE]"
    assert "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in chunks) == "a + b"
