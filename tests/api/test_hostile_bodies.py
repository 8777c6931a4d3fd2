"""Bodies that nobody sends by hand: halves of characters, levels without end, more than there may be of something."""

from __future__ import annotations

import json
from typing import Any

import pytest

from quern.api.shared.json_body import read_json

from .conftest import Quern, Start
from .engines import saying

USER: list[Any] = [{"role": "user", "content": "hi"}]
DIALECTS: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {"messages": USER},
    "/v1/messages": {"messages": USER, "max_tokens": 50},
    "/v1/responses": {"input": "hi"},
    "/v1/completions": {"prompt": "hi"},
    "/infill": {"input_prefix": "a", "input_suffix": "b"},
}
WITH_STOPS = [path for path in DIALECTS if path != "/v1/responses"]


def nested(levels: int) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "string"}
    for _ in range(levels):
        schema = {"type": "array", "items": schema}
    return schema


async def refused(quern: Quern, path: str, **body: Any) -> str:
    response = await quern.client.post(path, json={**DIALECTS[path], **body})
    assert response.status_code == 400, response.text
    assert not quern.engine.requests, "nothing was generated"
    return response.json()["error"]["message"]


def test_half_a_character_is_read_as_a_replacement_character_and_whole_ones_as_themselves() -> None:
    assert read_json(rb'{"a": "x\ud83d"}') == {"a": "x\ufffd"}
    assert read_json(rb'["\ude00\ud83d\uDE00"]') == ["\ufffd\U0001f600"]
    assert read_json(rb'{"\\ud83d": 1.50}') == {r"\ud83d": 1.5}


async def test_half_a_character_in_what_is_shown_again_breaks_nothing(start: Start) -> None:
    body = json.dumps({"input": "cut \ud83d", "instructions": "cut \ud83d"})
    async with start(saying("hello")) as quern:
        response = await quern.client.post("/v1/responses", content=body, headers={"content-type": "application/json"})
        assert response.status_code == 200, response.text
        again = await quern.client.get(f"/v1/responses/{response.json()['id']}")
    assert again.json()["instructions"] == "cut \ufffd"


@pytest.mark.parametrize("path", DIALECTS)
async def test_half_a_character_in_a_fields_name_is_like_any_unknown_fields(quern: Quern, path: str) -> None:
    body = json.dumps({**DIALECTS[path], "x\ud83d": 1})
    response = await quern.client.post(path, content=body, headers={"content-type": "application/json"})
    assert response.status_code == 200, response.text
    assert response.headers["x-quern-ignored"] == "x?"


@pytest.mark.parametrize("path", DIALECTS)
async def test_a_body_of_too_many_levels_is_refused(quern: Quern, path: str) -> None:
    body = '{"x": ' + "[" * 100_000 + "]" * 100_000 + "}"
    response = await quern.client.post(path, content=body, headers={"content-type": "application/json"})
    assert response.status_code == 400, response.text
    assert "too many levels" in response.json()["error"]["message"]


async def test_a_schema_of_too_many_levels_is_refused_wherever_it_stands(quern: Quern) -> None:
    deep = nested(101)
    chat, messages, responses = "/v1/chat/completions", "/v1/messages", "/v1/responses"
    function = {"name": "f", "parameters": deep}
    named = {"name": "x", "schema": deep}
    for sentence in [
        await refused(quern, chat, tools=[{"type": "function", "function": function}]),
        await refused(quern, chat, response_format={"type": "json_schema", "json_schema": named}),
        await refused(quern, messages, tools=[{"name": "f", "input_schema": deep}]),
        await refused(quern, messages, output_config={"format": {"type": "json_schema", "schema": deep}}),
        await refused(quern, responses, tools=[{"type": "function", **function}]),
        await refused(quern, responses, text={"format": {"type": "json_schema", **named}}),
    ]:
        assert "more than 100 levels" in sentence


async def test_a_schema_of_as_many_levels_as_there_may_be_can_be_demanded(quern: Quern) -> None:
    tool = {"type": "function", "function": {"name": "f", "parameters": nested(99)}}
    body = {"messages": USER, "tools": [tool], "tool_choice": "required"}
    response = await quern.client.post("/v1/chat/completions", json=body)
    assert response.status_code == 200, response.text


@pytest.mark.parametrize("path", WITH_STOPS)
async def test_a_stop_text_has_a_largest_length(quern: Quern, path: str) -> None:
    field = "stop_sequences" if path == "/v1/messages" else "stop"
    assert f"{field}.0" in await refused(quern, path, **{field: ["x" * 257]})
    stopped = await quern.client.post(path, json={**DIALECTS[path], field: ["x" * 256]})
    assert stopped.status_code == 200, stopped.text


async def test_tools_that_messages_add_count_as_tools(quern: Quern) -> None:
    def addition(number: int) -> dict[str, Any]:
        definition = {"name": f"tool_{number}", "input_schema": {"type": "object"}}
        return {"type": "tool_addition", "tool": {"type": "tool_definition", "definition": definition}}

    added = {"role": "system", "content": [addition(number) for number in range(257)]}
    assert "256 tools at most" in await refused(quern, "/v1/messages", messages=[added, *USER])


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/messages"])
async def test_messages_have_a_largest_number(quern: Quern, path: str) -> None:
    assert "messages" in await refused(quern, path, messages=USER * 10_001)


async def test_a_call_whose_arguments_are_no_object_is_kept_as_it_was_and_can_be_continued(quern: Quern) -> None:
    for arguments in ("oops", "[1]", '{"x": "ab', "", "null", "[" * 10_000):
        item = {"type": "function_call", "call_id": "c", "name": "f", "arguments": arguments}
        response = await quern.client.post("/v1/conversations", json={"items": [item]})
        assert response.status_code == 200, response.text
        conversation = response.json()["id"]
        items = (await quern.client.get(f"/v1/conversations/{conversation}/items")).json()["data"]
        assert items[0]["arguments"] == arguments
        response = await quern.client.post("/v1/responses", json={"input": "hi", "conversation": conversation})
        assert response.status_code == 200, response.text


@pytest.mark.parametrize("path", ["/v1/responses", "/v1/completions", "/infill"])
async def test_a_header_that_would_be_ignored_is_refused(quern: Quern, path: str) -> None:
    response = await quern.client.post(path, json=DIALECTS[path], headers={"x-quern-conversation": "any"})
    assert response.status_code == 400, response.text
    assert response.json()["error"]["param"] == "x-quern-conversation"


NUMBERS = {
    "/v1/chat/completions": ["max_tokens", "max_completion_tokens", "temperature", "n", "seed", "top_k", "top_p"],
    "/v1/messages": ["max_tokens", "temperature", "top_k"],
    "/v1/responses": ["max_output_tokens", "temperature"],
    "/v1/completions": ["max_tokens", "temperature", "n", "best_of", "logprobs"],
    "/infill": ["n_predict", "temperature", "n_indent"],
}


@pytest.mark.parametrize("value", [True, False, "12", "0.5", ""])
@pytest.mark.parametrize("path", NUMBERS)
async def test_what_is_no_number_is_refused_where_one_is_wanted(quern: Quern, path: str, value: Any) -> None:
    for field in NUMBERS[path]:
        if (field, value) == ("logprobs", False):
            continue  # As in chats, which is what clients send in both.
        response = await quern.client.post(path, json={**DIALECTS[path], field: value})
        assert response.status_code == 400, field
        assert f"The field {field} can't be used: Input should be a valid" in response.json()["error"]["message"]


@pytest.mark.parametrize("path", NUMBERS)
async def test_a_whole_number_may_be_written_with_a_point(quern: Quern, path: str) -> None:
    response = await quern.client.post(path, json={**DIALECTS[path], "temperature": 1, NUMBERS[path][0]: 12.0})
    assert response.status_code == 200, response.text
