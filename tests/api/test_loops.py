"""Answers and agents that go round in circles are ended, and every dialect says so in its own words."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import httpx2
import pytest

from quern.engine.fake import FakeEngine

from .conftest import Quern, Start
from .engines import saying
from .test_metrics import value

LIMITS: dict[str, Any] = {"loop_repeats": 20, "loop_tokens": 200, "loop_calls": 3}
PERIOD = "ha! "
SAID = "Well: " + PERIOD * 500
ENDED = SAID[:256]
"""The first look after 200 repeated tokens is at 256."""

LOOP = {
    "kind": "tokens",
    "period": 4,
    "repeats": 50,
    "detail": "loop: the last 200 tokens repeat a period of 4, 50 times.",
}
SCHEMA: dict[str, Any] = {"type": "object", "properties": {"a": {"type": "string"}}, "required": ["a"]}
HI: dict[str, Any] = {"messages": [{"role": "user", "content": "hi"}]}
JSON_CHAT = {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA}}}
JSON_RESPONSE = {"text": {"format": {"type": "json_schema", "name": "x", "schema": SCHEMA}}}
JSON_MESSAGE = {"output_config": {"format": {"type": "json_schema", "schema": SCHEMA}}}
MESSAGE: dict[str, Any] = {**HI, "model": "fake", "max_tokens": 4000}
OLLAMA: dict[str, Any] = {**HI, "model": "fake", "stream": False}


def choice(body: Any) -> tuple[str, str]:
    one = body["choices"][0]
    return one["message"]["content"] if "message" in one else one["text"], one["finish_reason"]


def response(body: Any) -> tuple[str, Any]:
    text = "".join(part["text"] for item in body["output"] for part in item.get("content", []))
    return text, (body["status"], body["incomplete_details"])


def message(body: Any) -> tuple[str, str]:
    return "".join(block.get("text", "") for block in body["content"]), body["stop_reason"]


Read = Callable[[Any], tuple[str, Any]]
ANSWERS: list[tuple[str, dict[str, Any], Read, Any]] = [
    ("/v1/chat/completions", HI, choice, "stop"),
    ("/v1/chat/completions", {**HI, **JSON_CHAT}, choice, "length"),
    ("/v1/completions", {"prompt": "hi", "max_tokens": 4000}, choice, "stop"),
    ("/v1/fim/completions", {"prompt": "a", "suffix": "b", "max_tokens": 4000}, choice, "stop"),
    ("/v1/responses", {"input": "hi"}, response, ("completed", None)),
    ("/v1/responses", {"input": "hi", **JSON_RESPONSE}, response, ("incomplete", {"reason": "max_output_tokens"})),
    ("/v1/messages", MESSAGE, message, "end_turn"),
    ("/v1/messages", {**MESSAGE, **JSON_MESSAGE}, message, "max_tokens"),
    ("/v1/messages", {**MESSAGE, **JSON_MESSAGE, "max_tokens": 10**6}, message, "max_tokens"),
    ("/api/chat", OLLAMA, lambda body: (body["message"]["content"], body["done_reason"]), "stop"),
    (
        "/api/chat",
        {**OLLAMA, "format": SCHEMA},
        lambda body: (body["message"]["content"], body["done_reason"]),
        "length",
    ),
    (
        "/api/generate",
        {"model": "fake", "prompt": "hi", "stream": False},
        lambda body: (body["response"], body["done_reason"]),
        "stop",
    ),
    ("/completion", {"prompt": "hi"}, lambda body: (body["content"], body["stop_type"]), "limit"),
    (
        "/infill",
        {"input_prefix": "a", "input_suffix": "b", "n_predict": 4000},
        lambda body: (body["content"], body["stop_type"]),
        "limit",
    ),
]


async def post(quern: Quern, path: str, body: dict[str, Any], **headers: str) -> httpx2.Response:
    answer = await quern.client.post(path, json=body, headers=headers)
    assert answer.status_code == 200, answer.text
    return answer


async def turn_of(quern: Quern, answer: httpx2.Response) -> dict[str, Any]:
    """The turn that an answer's request started."""
    return (await quern.client.get(f"/v1/turns/{answer.headers['x-request-id']}")).json()


@pytest.mark.parametrize(("path", "body", "read", "reason"), ANSWERS)
async def test_an_answer_that_repeats_itself_is_ended_and_the_header_and_the_turn_say_why(
    start: Start, path: str, body: dict[str, Any], read: Read, reason: Any
) -> None:
    async with start(saying(SAID), turns=LIMITS) as quern:
        answer = await post(quern, path, body)
        turn = await turn_of(quern, answer)
    assert read(answer.json()) == (ENDED, reason)
    assert answer.headers["x-quern-ended"] == "loop"
    assert (turn["state"], turn["error"], turn["loop"]) == ("completed", None, LOOP)
    assert turn["usage"]["completion_tokens"] == len(ENDED)


STREAMS: list[tuple[str, dict[str, Any], str]] = [
    ("/v1/chat/completions", HI, '"finish_reason":"stop"'),
    ("/v1/chat/completions", {**HI, **JSON_CHAT}, '"finish_reason":"length"'),
    ("/v1/completions", {"prompt": "hi", "max_tokens": 4000}, '"finish_reason":"stop"'),
    ("/v1/responses", {"input": "hi"}, "event: response.completed"),
    ("/v1/responses", {"input": "hi", **JSON_RESPONSE}, "event: response.incomplete"),
    ("/v1/messages", MESSAGE, '"stop_reason":"end_turn"'),
    ("/v1/messages", {**MESSAGE, **JSON_MESSAGE}, '"stop_reason":"max_tokens"'),
    ("/api/chat", OLLAMA, '"done_reason":"stop"'),
    ("/completion", {"prompt": "hi"}, '"stop_type":"limit"'),
]


@pytest.mark.parametrize(("path", "body", "said"), STREAMS)
async def test_a_stream_ends_as_a_whole_one_does_and_its_turn_says_why(
    start: Start, path: str, body: dict[str, Any], said: str
) -> None:
    async with start(saying(SAID), turns=LIMITS) as quern:
        answer = await post(quern, path, {**body, "stream": True})
        turn = await turn_of(quern, answer)
    assert said in answer.text.replace('": ', '":')
    assert "x-quern-ended" not in answer.headers  # they were sent before anybody knew
    assert turn["loop"] == LOOP


async def test_the_original_endpoints_have_the_text_so_far_and_nothing_else(start: Start) -> None:
    async with start(saying(SAID), turns=LIMITS) as quern:
        whole = await quern.client.post("/v1/code/generate", data={"prompt": "hi"})
        plain = await quern.client.post("/v1/code/generate", data={"prompt": "hi"}, headers={"accept": "text/plain"})
        chat = await quern.chat("hi")
        identity, _, text = chat.text.partition("\n---\n")
        kept = (await quern.client.get(f"/v1/conversations/{identity.removeprefix('conversation_id:')}")).json()
    assert whole.json() == {"status": "success", "result": ENDED}
    assert whole.headers["x-quern-ended"] == "loop"
    assert (plain.text, text) == (ENDED, ENDED)
    (turn,) = kept["turns"]
    assert (turn["state"], turn["finish_reason"], turn["text"], turn["loop"]) == ("completed", "stop", ENDED, LOOP)
    assert kept["messages"][-1]["content"] == ENDED


CALLED = '<tool_call>\n{"name": "look", "arguments": {"at": 1}}\n</tool_call>'
TOOLS = {"tools": [{"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}]}
HALF = '<tool_call>\n{"name": "look", "arguments": {"at": "' + PERIOD * 500


async def test_a_call_that_repeats_itself_is_never_whole(start: Start) -> None:
    flat = [{"type": "function", "name": "look", "parameters": {"type": "object"}}]
    async with start(saying(HALF), turns=LIMITS) as quern:
        chat = (await post(quern, "/v1/chat/completions", {**HI, **TOOLS})).json()["choices"][0]
        streamed = (await post(quern, "/v1/chat/completions", {**HI, **TOOLS, "stream": True})).text
        responded = (await post(quern, "/v1/responses", {"input": "hi", "tools": flat})).json()
        messaged = (
            await post(quern, "/v1/messages", {**MESSAGE, "tools": [{"name": "look", "input_schema": SCHEMA}]})
        ).json()
    assert (chat["finish_reason"], chat["message"].get("tool_calls")) == ("length", None)
    assert chat["message"]["content"].startswith("<tool_call>")
    chunks = [json.loads(line[6:]) for line in streamed.splitlines() if line.startswith("data: {")]
    calls = [call for chunk in chunks for call in chunk["choices"][0]["delta"].get("tool_calls", [])]
    with pytest.raises(json.JSONDecodeError):
        json.loads("".join(call["function"]["arguments"] for call in calls))
    assert chunks[-1]["choices"][0]["finish_reason"] == "length"
    assert (responded["status"], responded["output"][-1]["status"]) == ("incomplete", "incomplete")
    assert messaged["stop_reason"] == "max_tokens"
    assert not [block for block in messaged["content"] if block["type"] == "tool_use"]


async def test_calls_before_the_repeats_are_still_to_be_answered(start: Start) -> None:
    async with start(saying(CALLED + "\n" + SAID), turns=LIMITS) as quern:
        answer = await post(quern, "/v1/chat/completions", {**HI, **TOOLS})
    one = answer.json()["choices"][0]
    assert (one["finish_reason"], len(one["message"]["tool_calls"])) == ("tool_calls", 1)
    assert answer.headers["x-quern-ended"] == "loop"


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/completion"])
async def test_who_wants_all_tokens_whatever_they_are_gets_them(start: Start, path: str) -> None:
    body = {**HI, "prompt": "hi"} if path == "/completion" else HI
    async with start(saying(PERIOD), turns=LIMITS) as quern:
        answer = await post(quern, path, {**body, "ignore_eos": True, "max_tokens": 1000, "n_predict": 1000})
        assert (await turn_of(quern, answer))["usage"]["completion_tokens"] == 1000
    assert "x-quern-ended" not in answer.headers


@pytest.mark.parametrize("turns", [{}, {**LIMITS, "loop_repeats": 0}])
async def test_a_text_is_left_alone_by_default_unless_it_is_certain_and_where_that_is_set(
    start: Start, turns: dict[str, Any]
) -> None:
    said = PERIOD * 200
    async with start(saying(said), turns=turns) as quern:
        answer = await post(quern, "/v1/chat/completions", HI)
    assert choice(answer.json()) == (said, "stop")
    assert "x-quern-ended" not in answer.headers


async def test_hundreds_of_repeats_are_certain(start: Start) -> None:
    async with start(saying(PERIOD * 2000)) as quern:
        answer = await post(quern, "/v1/chat/completions", {**HI, "max_tokens": 8000})
        turn = await turn_of(quern, answer)
    assert turn["loop"]["repeats"] >= 200
    assert turn["usage"]["completion_tokens"] < 4000


async def test_a_loop_is_met_by_the_limits_in_force_when_its_turn_began(start: Start) -> None:
    async with start(saying(SAID), turns={**LIMITS, "loop_repeats": 0}) as quern:
        turns = quern.settings.turns.model_copy(update=LIMITS)
        await quern.application.reload(quern.settings.model_copy(update={"turns": turns}))
        answer = await post(quern, "/v1/chat/completions", HI)
    assert answer.headers["x-quern-ended"] == "loop"


async def test_where_an_answer_ends_does_not_depend_on_how_its_tokens_come(start: Start) -> None:
    for delay in (0, 0.0005):
        async with start(saying(SAID, token_delay=delay), turns=LIMITS) as quern:
            assert choice((await post(quern, "/v1/chat/completions", HI)).json())[0] == ENDED


async def test_an_ended_answer_is_part_of_what_its_conversation_goes_on_with(start: Start) -> None:
    async with start(saying(SAID, "as I said"), turns=LIMITS) as quern:
        conversation = await quern.begin()
        assert (await quern.chat("go on", conversation)).text == "as I said"
        prompt = bytes(token for token in quern.engine.requests[-1].prompt if token < 256).decode()
    assert ENDED in prompt


LOOKED: list[tuple[str, str, str]] = [("look", '{"at": 1}', "not yet")] * 3
CALL_LOOP = {
    "kind": "calls",
    "period": 1,
    "repeats": 3,
    "detail": "loop: the last 3 calls were the same call with the same results, and the answer made the next one.",
}


def chat_history(calls: list[tuple[str, str, str]]) -> dict[str, Any]:
    messages: list[dict[str, Any]] = [{"role": "user", "content": "is it done?"}]
    for number, (name, arguments, result) in enumerate(calls):
        call = {"id": f"c{number}", "type": "function", "function": {"name": name, "arguments": arguments}}
        messages.append({"role": "assistant", "content": None, "tool_calls": [call]})
        messages.append({"role": "tool", "tool_call_id": f"c{number}", "content": result})
    return {"messages": messages, **TOOLS}


def response_history(calls: list[tuple[str, str, str]]) -> dict[str, Any]:
    items: list[dict[str, Any]] = [{"role": "user", "content": "is it done?"}]
    for number, (name, arguments, result) in enumerate(calls):
        items.append({"type": "function_call", "call_id": f"c{number}", "name": name, "arguments": arguments})
        items.append({"type": "function_call_output", "call_id": f"c{number}", "output": result})
    return {"input": items, "tools": [{"type": "function", "name": "look", "parameters": {"type": "object"}}]}


def message_history(calls: list[tuple[str, str, str]]) -> dict[str, Any]:
    messages: list[dict[str, Any]] = [{"role": "user", "content": "is it done?"}]
    for number, (name, arguments, result) in enumerate(calls):
        use = {"type": "tool_use", "id": f"c{number}", "name": name, "input": json.loads(arguments)}
        messages.append({"role": "assistant", "content": [use]})
        given = {"type": "tool_result", "tool_use_id": f"c{number}", "content": result}
        messages.append({"role": "user", "content": [given]})
    tools = [{"name": "look", "input_schema": {"type": "object"}}]
    return {"model": "fake", "max_tokens": 4000, "messages": messages, "tools": tools}


def ollama_history(calls: list[tuple[str, str, str]]) -> dict[str, Any]:
    messages: list[dict[str, Any]] = [{"role": "user", "content": "is it done?"}]
    for name, arguments, result in calls:
        call = {"function": {"name": name, "arguments": json.loads(arguments)}}
        messages.append({"role": "assistant", "content": "", "tool_calls": [call]})
        messages.append({"role": "tool", "tool_name": name, "content": result})
    return {"model": "fake", "messages": messages, "stream": False, **TOOLS}


History = Callable[[list[tuple[str, str, str]]], dict[str, Any]]
HISTORIES: list[tuple[str, History, str, str]] = [
    ("/v1/chat/completions", chat_history, '"tool_calls"', '"finish_reason":"stop"'),
    ("/v1/responses", response_history, '"function_call"', '"status":"completed"'),
    ("/v1/messages", message_history, '"tool_use"', '"stop_reason":"end_turn"'),
    ("/api/chat", ollama_history, '"tool_calls"', '"done_reason":"stop"'),
]


@pytest.mark.parametrize(("path", "history", "call", "reason"), HISTORIES)
async def test_an_agent_that_makes_the_same_call_with_the_same_result_again_and_again_is_ended(
    start: Start, path: str, history: History, call: str, reason: str
) -> None:
    async with start(saying("Once more." + CALLED + CALLED), turns=LIMITS) as quern:
        ended = await post(quern, path, history(LOOKED))
        turn = await turn_of(quern, ended)
        streamed = await post(quern, path, {**history(LOOKED), "stream": True})
        fewer = await post(quern, path, history(LOOKED[1:]))
        changed = await post(quern, path, history([*LOOKED[1:], ("look", '{"at": 1}', "done")]))
    for answer in (ended, streamed):
        text = answer.text.replace('": ', '":')
        assert (call in text, reason in text) == (False, True)
    assert "Once more." in ended.text
    assert ended.headers["x-quern-ended"] == "loop"
    assert (turn["state"], turn["loop"]) == ("completed", CALL_LOOP)
    for answer in (fewer, changed):
        assert call in answer.text
        assert "x-quern-ended" not in answer.headers


OTHER = CALLED.replace("1", "2")


@pytest.mark.parametrize("said", ["It will not be done today.", OTHER, OTHER + "\n" + CALLED])
@pytest.mark.parametrize(("path", "history", "call"), [row[:3] for row in HISTORIES])
async def test_who_leaves_the_loop_by_another_call_or_an_answer_may_go_on(
    start: Start, path: str, history: History, call: str, said: str
) -> None:
    async with start(saying(said), turns=LIMITS) as quern:
        answer = await post(quern, path, history(LOOKED))
    assert "x-quern-ended" not in answer.headers
    assert (call in answer.text) == ("<tool_call>" in said)


async def test_the_last_of_the_calls_is_known_though_its_end_was_not_written(start: Start) -> None:
    async with start(saying("Once more." + CALLED.removesuffix("\n</tool_call>")), turns=LIMITS) as quern:
        answer = await post(quern, "/v1/chat/completions", chat_history(LOOKED))
        turn = await turn_of(quern, answer)
    one = answer.json()["choices"][0]
    assert (one["message"]["content"], one["message"].get("tool_calls"), one["finish_reason"]) == (
        "Once more.",
        None,
        "stop",
    )
    assert turn["loop"] == CALL_LOOP


async def test_a_question_in_between_is_a_reason_to_look_again(start: Start) -> None:
    body = chat_history(LOOKED)
    body["messages"].append({"role": "user", "content": "and now?"})
    async with start(saying(CALLED), turns=LIMITS) as quern:
        answer = await post(quern, "/v1/chat/completions", body)
    assert answer.json()["choices"][0]["finish_reason"] == "tool_calls"


async def test_a_demanded_call_that_is_not_told_is_no_whole_answer(start: Start) -> None:
    said = CALLED.removeprefix("<tool_call>\n")
    async with start(saying(said), turns=LIMITS) as quern:
        answer = await post(quern, "/v1/chat/completions", {**chat_history(LOOKED), "tool_choice": "required"})
    one = answer.json()["choices"][0]
    assert (one["finish_reason"], one["message"].get("tool_calls")) == ("length", None)
    assert answer.headers["x-quern-ended"] == "loop"


async def test_polling_is_left_alone_by_default_until_hundreds_of_times(start: Start) -> None:
    async with start(saying(CALLED), turns={}) as quern:
        polling = await post(quern, "/v1/chat/completions", chat_history(LOOKED[:1] * 150))
        looping = await post(quern, "/v1/chat/completions", chat_history(LOOKED[:1] * 200))
    assert polling.json()["choices"][0]["finish_reason"] == "tool_calls"
    assert looping.headers["x-quern-ended"] == "loop"


async def test_a_loop_goes_on_over_responses_that_continue_each_other_and_is_told_alike_whenever_it_is_read(
    start: Start,
) -> None:
    async with start(saying("Let me see." + CALLED), turns=LIMITS) as quern:
        body = response_history([])
        for _ in range(3):
            said = (await post(quern, "/v1/responses", body)).json()
            (call,) = [item for item in said["output"] if item["type"] == "function_call"]
            result = {"type": "function_call_output", "call_id": call["call_id"], "output": "no"}
            body = {**body, "input": [result], "previous_response_id": said["id"]}
        answer = await post(quern, "/v1/responses", {**body, "background": True, "stream": True})
        events = [json.loads(line[6:]) for line in answer.text.splitlines() if line.startswith("data: {")]
        identity = events[0]["response"]["id"]
        again = await quern.client.get(f"/v1/responses/{identity}", params={"stream": True})
        fetched = (await quern.client.get(f"/v1/responses/{identity}")).json()
    assert [item["type"] for item in fetched["output"]] == ["message"]
    assert (events[-1]["type"], events[-1]["response"]) == ("response.completed", fetched)
    assert [json.loads(line[6:]) for line in again.text.splitlines() if line.startswith("data: {")] == events


async def test_loops_are_counted_by_their_kind(start: Start) -> None:
    engine: FakeEngine = saying(SAID, CALLED, "well")
    async with start(engine, turns=LIMITS) as quern:
        assert await value(quern, "quern_loops_ended_total", kind="tokens") == 0
        for _ in range(3):
            await post(quern, "/v1/chat/completions", chat_history(LOOKED))
        counted = [await value(quern, "quern_loops_ended_total", kind=kind) for kind in ("tokens", "calls")]
    assert counted == [1, 1]
