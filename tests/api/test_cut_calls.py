"""A call that the end of the answer cut off: in no dialect can it be taken for one that should be carried out."""

from __future__ import annotations

import json
from typing import Any

import pytest

from .conftest import Quern, Start
from .engines import saying

PARAMETERS = {"type": "object", "properties": {"cmd": {"type": "string"}}}
WHOLE = '<tool_call>\n{"name": "run", "arguments": {"cmd": "ls"}}\n</tool_call>\n'
CALL = '<tool_call>\n{"name": "run", "arguments": {"cmd": "rm -rf /tmp/build"}}\n</tool_call>'
CUT = CALL[: CALL.index("build")]
TOLD = '{"cmd": "rm -rf /tmp/'
BY_STOP: dict[str, Any] = {"stop": ["build"]}
BY_LIMIT: dict[str, Any] = {"max_tokens": CALL.index("build")}
CHAT: dict[str, Any] = {
    "messages": [{"role": "user", "content": "hi"}],
    "tools": [{"type": "function", "function": {"name": "run", "parameters": PARAMETERS}}],
}
RESPONSE: dict[str, Any] = {
    "input": "hi",
    "tools": [{"type": "function", "name": "run", "parameters": PARAMETERS}],
}
MESSAGE: dict[str, Any] = {
    "model": "fake",
    "max_tokens": 1000,
    "messages": CHAT["messages"],
    "tools": [{"name": "run", "input_schema": PARAMETERS}],
}


async def post(quern: Quern, path: str, **body: Any) -> Any:
    response = await quern.client.post(path, json=body)
    assert response.status_code == 200, response.text
    return response.json()


async def streamed(quern: Quern, path: str, **body: Any) -> list[dict[str, Any]]:
    response = await quern.client.post(path, json={**body, "stream": True})
    assert response.status_code == 200, response.text
    lines = [line.removeprefix("data: ") for line in response.text.splitlines() if line.startswith("data: {")]
    return [json.loads(line) for line in lines]


CUTS: list[tuple[str, dict[str, Any], str]] = [
    (CALL, BY_STOP, "stop"),
    (WHOLE + CALL, BY_STOP, "stop"),
    (CALL, BY_LIMIT, "length"),
    (CUT, {}, "stop"),
]


@pytest.mark.parametrize(("said", "options", "reason"), CUTS)
async def test_a_chat_ends_with_what_was_written_of_it_and_never_for_calls(
    start: Start, said: str, options: dict[str, Any], reason: str
) -> None:
    async with start(saying(said)) as quern:
        (choice,) = (await post(quern, "/v1/chat/completions", **CHAT, **options))["choices"]
    assert choice["finish_reason"] == reason
    calls = [call["function"]["arguments"] for call in choice["message"].get("tool_calls", [])]
    assert calls == (['{"cmd": "ls"}'] if said.startswith(WHOLE) else [])
    assert choice["message"]["content"] == CUT


@pytest.mark.parametrize(("said", "options", "reason"), CUTS)
async def test_a_streamed_chat_leaves_its_arguments_open_and_never_ends_for_calls(
    start: Start, said: str, options: dict[str, Any], reason: str
) -> None:
    async with start(saying(said)) as quern:
        chunks = await streamed(quern, "/v1/chat/completions", **CHAT, **options)
    deltas = [call for chunk in chunks for call in chunk["choices"][0]["delta"].get("tool_calls", [])]
    last = max(call["index"] for call in deltas)
    assert "".join(call["function"]["arguments"] for call in deltas if call["index"] == last) == TOLD
    assert chunks[-1]["choices"][0]["finish_reason"] == reason


@pytest.mark.parametrize(
    ("said", "options", "details"),
    [
        (CALL, BY_STOP, None),
        (CALL, {"max_output_tokens": BY_LIMIT["max_tokens"]}, {"reason": "max_output_tokens"}),
        (CUT, {}, None),
    ],
)
async def test_a_response_and_its_call_are_incomplete_whenever_they_are_read(
    start: Start, said: str, options: dict[str, Any], details: dict[str, Any] | None
) -> None:
    async with start(saying(said)) as quern:
        response = await post(quern, "/v1/responses", **RESPONSE, **options)
        events = await streamed(quern, "/v1/responses", **RESPONSE, **options, background=True)
        identity = events[0]["response"]["id"]
        again = await quern.client.get(f"/v1/responses/{identity}", params={"stream": True})
        fetched = (await quern.client.get(f"/v1/responses/{response['id']}")).json()
    (call,) = response["output"]
    assert (call["type"], call["status"], call["arguments"]) == ("function_call", "incomplete", TOLD)
    assert (response["status"], response["incomplete_details"]) == ("incomplete", details)
    assert fetched == response
    assert events[-1]["type"] == "response.incomplete"
    assert events[-2]["item"]["status"] == "incomplete"
    assert [json.loads(line[6:]) for line in again.text.splitlines() if line.startswith("data: ")] == events


async def test_a_whole_call_of_a_response_that_met_its_limit_is_complete(start: Start) -> None:
    async with start(saying(WHOLE + "and so on")) as quern:
        response = await post(quern, "/v1/responses", **RESPONSE, max_output_tokens=len(WHOLE))
    assert response["status"] == "incomplete"
    assert [item["status"] for item in response["output"]] == ["completed"]


@pytest.mark.parametrize(
    ("said", "options", "ending"),
    [
        (CALL, {"stop_sequences": ["build"]}, ("stop_sequence", "build")),
        (CALL, BY_LIMIT, ("max_tokens", None)),
        (CUT, {}, ("end_turn", None)),
    ],
)
async def test_a_message_ends_with_what_was_written_of_it_and_says_what_cut_it(
    start: Start, said: str, options: dict[str, Any], ending: tuple[str, str | None]
) -> None:
    async with start(saying(said)) as quern:
        message = await post(quern, "/v1/messages", **{**MESSAGE, **options})
        events = await streamed(quern, "/v1/messages", **{**MESSAGE, **options})
    assert message["content"] == [{"type": "text", "text": CUT}]
    assert (message["stop_reason"], message["stop_sequence"]) == ending
    deltas = [event["delta"] for event in events if event["type"] == "content_block_delta"]
    assert "".join(delta["partial_json"] for delta in deltas) == TOLD
    assert (events[-2]["delta"]["stop_reason"], events[-2]["delta"]["stop_sequence"]) == ending


async def test_a_conversation_goes_on_with_what_was_written_of_it_as_text(start: Start) -> None:
    async with start(saying("Hello.", "Wait. " + CALL, "Yes?")) as quern:
        conversation = await quern.begin()
        headers = {"x-quern-conversation": conversation}
        body = {**CHAT, **BY_STOP}
        for _ in range(2):
            response = await quern.client.post("/v1/chat/completions", json=body, headers=headers)
            assert response.status_code == 200, response.text
        kept = (await quern.client.get(f"/v1/conversations/{conversation}")).json()
    said = [message["content"] for message in kept["messages"] if message["role"] == "assistant"]
    assert said == ["Hello.", "Wait.", CUT, "Yes?"]
    assert not any("tool_call" in message for message in kept["messages"])
    assert kept["turns"][1]["text"] == "Wait. " + CUT, "what was written is there"
