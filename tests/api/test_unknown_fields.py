"""Fields that nobody knows here: accepted and named, or refused, as the setting has it."""

from __future__ import annotations

import json
from typing import Any

import httpx2
import pytest

from quern.grammar.kinds import JsonGrammar

from .conftest import Quern, Start
from .engines import saying

USER: list[Any] = [{"role": "user", "content": "hi"}]
FUNCTION = {"name": "f", "parameters": {"type": "object"}}
TOOL = {"type": "function", "function": FUNCTION}
BODIES: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {"messages": USER},
    "/v1/completions": {"prompt": "hi"},
    "/v1/responses": {"input": "hi"},
    "/v1/messages": {"messages": USER, "max_tokens": 50},
    "/v1/messages/count_tokens": {"messages": USER},
    "/infill": {"input_prefix": "a", "input_suffix": "b"},
    "/tokenize": {"prompt": "hi"},
    "/apply-template": {"messages": USER},
}
CHAT = "/v1/chat/completions"
NESTED: list[tuple[dict[str, Any], str]] = [
    ({"messages": [{**USER[0], "mood": "good"}]}, "messages.0.mood"),
    ({"messages": [{"role": "user", "content": [{"type": "text", "text": "hi", "mood": 1}]}]},
     "messages.0.content.0.mood"),
    ({"messages": [*USER, {"role": "assistant", "tool_calls": [{"function": {"name": "f", "x": 1}}]}, *USER]},
     "messages.1.tool_calls.0.function.x"),
    ({"stream_options": {"include_usage": True, "x": 1}}, "stream_options.x"),
    ({"tools": [{**TOOL, "x": 1}]}, "tools.0.x"),
    ({"tools": [{**TOOL, "function": {**FUNCTION, "x": 1}}]}, "tools.0.function.x"),
    ({"tools": [TOOL, {"type": "web_search", "user_location": {"city": "x"}}]}, "tools.1 (web_search)"),
    ({"tools": [TOOL, {"type": "code_interpreter", "container": {}}, {"type": "mcp"}]},
     "tools.1 (code_interpreter), tools.2 (mcp)"),
    ({"tool_choice": {**TOOL, "function": {"name": "f", "x": 1}}, "tools": [TOOL]}, "tool_choice.function.x"),
    ({"tools": [TOOL], "tool_choice": {"type": "allowed_tools", "allowed_tools": {"tools": [TOOL, {"type": "mcp"}]}}},
     "tool_choice.allowed_tools.tools.1 (mcp)"),
    ({"response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": {}, "x": 1}}},
     "response_format.json_schema.x"),
    ({"chat_template_kwargs": {"enable_thinking": False, "custom": 1}}, "chat_template_kwargs.custom"),
    ({"structured_outputs": {"regex": "a+", "x": 1}}, "structured_outputs.x"),
    ({"add_generation_prompt": False}, "add_generation_prompt"),
    ({"continue_final_message": True}, "continue_final_message"),
    ({"functions": [FUNCTION], "tools": [TOOL]}, "functions"),
    ({"min_tokens": 3, "web_search_options": {}}, "min_tokens, web_search_options"),
]  # fmt: skip


async def post(quern: Quern, path: str, body: dict[str, Any]) -> httpx2.Response:
    content = json.dumps(body)
    return await quern.client.post(path, content=content, headers={"content-type": "application/json"})


@pytest.mark.parametrize("path", BODIES)
async def test_an_unknown_field_is_named_in_a_header_and_changes_nothing(quern: Quern, path: str) -> None:
    plain = await post(quern, path, BODIES[path])
    strange = await post(quern, path, {**BODIES[path], "colour": {"any": ["thing"]}, "mood": 0})
    assert (plain.status_code, strange.status_code) == (200, 200), strange.text
    assert strange.headers["x-quern-ignored"] == "colour, mood"
    assert "x-quern-ignored" not in plain.headers
    if quern.engine.requests:
        first, second = quern.engine.requests
        assert first == second


@pytest.mark.parametrize("path", BODIES)
async def test_where_the_setting_says_so_the_first_unknown_field_is_refused(start: Start, path: str) -> None:
    async with start(server={"unknown_fields": "refuse"}) as quern:
        assert (await post(quern, path, BODIES[path])).status_code == 200
        requests = len(quern.engine.requests)
        response = await post(quern, path, {**BODIES[path], "colour": 1, "mood": 2})
        assert len(quern.engine.requests) == requests
    assert response.status_code == 400
    assert "There is no field colour here." in response.json()["error"]["message"]


@pytest.mark.parametrize("path", BODIES)
async def test_an_unknown_field_that_is_null_says_nothing(start: Start, path: str) -> None:
    async with start(server={"unknown_fields": "refuse"}) as quern:
        response = await post(quern, path, {**BODIES[path], "colour": None})
    assert response.status_code == 200, response.text
    assert "x-quern-ignored" not in response.headers


@pytest.mark.parametrize(("body", "named"), NESTED)
async def test_what_is_left_out_inside_of_something_is_named_by_its_path(
    quern: Quern, body: dict[str, Any], named: str
) -> None:
    response = await post(quern, CHAT, {"messages": USER, **body})
    assert response.status_code == 200, response.text
    assert response.headers["x-quern-ignored"] == named


@pytest.mark.parametrize(("body", "named"), NESTED)
async def test_what_is_left_out_inside_of_something_is_refused_by_its_path(
    start: Start, body: dict[str, Any], named: str
) -> None:
    async with start(server={"unknown_fields": "refuse"}) as quern:
        response = await post(quern, CHAT, {"messages": USER, **body})
    assert response.status_code == 400, response.text
    assert response.json()["error"]["param"] == named.partition(",")[0]


async def test_names_in_the_header_are_ascii_short_and_not_too_many(quern: Quern) -> None:
    odd = {"größe": 1, "a,b": 1, "x\r\nset-cookie: y": 1, "n" * 500: 1, "": 1, "颜色": 1}
    response = await post(quern, CHAT, {"messages": USER, **odd})
    assert response.status_code == 200, response.text
    assert response.headers["x-quern-ignored"].split(", ") == [
        "gr??e", "a?b", "x??set-cookie: y", "n" * 80, "", "??",
    ]  # fmt: skip
    assert "set-cookie" not in response.headers
    many = await post(quern, CHAT, {"messages": USER, **{f"field{number}": 1 for number in range(1000)}})
    assert many.headers["x-quern-ignored"].split(", ") == [*(f"field{number}" for number in range(20)), "and 980 more"]


async def test_a_stream_and_a_refused_request_have_the_header_too(quern: Quern) -> None:
    streamed = await post(quern, CHAT, {"messages": USER, "stream": True, "colour": 1})
    assert streamed.headers["x-quern-ignored"] == "colour"
    refused = await post(quern, CHAT, {"messages": USER, "colour": 1, "top_logprobs": 2})
    assert (refused.status_code, refused.headers["x-quern-ignored"]) == (400, "colour")


async def test_the_log_line_names_what_was_ignored(quern: Quern, caplog: pytest.LogCaptureFixture) -> None:
    await post(quern, CHAT, {"messages": USER, "colour": 1, "mood": 2})
    await post(quern, CHAT, {"messages": USER})
    lines: list[Any] = [record.msg for record in caplog.records]
    told = [line.get("ignored") for line in lines if "path" in line]
    assert told == ["colour, mood", None]


async def test_the_plain_endpoints_refuse_unknown_fields_all_the_same(quern: Quern) -> None:
    for path in ("/v1/code/generate", "/v1/code/chat_stream"):
        response = await quern.client.post(path, data={"prompt": "x", "colour": "red"})
        assert response.status_code == 422
        assert "colour" in response.json()["detail"][0]["msg"]


@pytest.mark.parametrize("setting", ["accept", "refuse"])
@pytest.mark.parametrize("path", BODIES)
async def test_an_unknown_field_that_is_an_empty_list_says_nothing(start: Start, path: str, setting: str) -> None:
    async with start(server={"unknown_fields": setting}) as quern:
        response = await post(quern, path, {**BODIES[path], "colour": [], "mcp_servers": []})
        assert response.status_code == 200, response.text
        assert "x-quern-ignored" not in response.headers


EMPTY_FORMATS: list[tuple[str, dict[str, Any], str]] = [
    (path, {**BODIES[path], "response_format": empty}, "response_format")
    for path in ("/v1/chat/completions", "/v1/completions")
    for empty in ({}, "", {"type": None}, {"type": "", "json_schema": None})
]
EMPTY_TEXT_FORMATS: list[tuple[str, dict[str, Any], str]] = [
    ("/v1/responses", {"input": "hi", "text": {"format": empty}}, "text.format") for empty in ({}, {"type": None})
]
EMPTY_MESSAGE_FORMATS: list[tuple[str, dict[str, Any], str]] = [
    ("/v1/messages", {**BODIES["/v1/messages"], "output_config": {"format": {}}}, "output_config.format"),
    ("/v1/messages", {**BODIES["/v1/messages"], "output_format": {}}, "output_format"),
]


@pytest.mark.parametrize(("path", "body", "named"), EMPTY_FORMATS + EMPTY_TEXT_FORMATS + EMPTY_MESSAGE_FORMATS)
async def test_a_format_that_says_nothing_is_left_out_and_named(
    quern: Quern, path: str, body: dict[str, Any], named: str
) -> None:
    answer = await post(quern, path, body)
    assert answer.status_code == 200, answer.text
    assert answer.headers["x-quern-ignored"] == named
    assert quern.engine.requests[-1].grammar is None
    if path == "/v1/responses":
        assert answer.json()["text"] == {"format": {"type": "text"}}


@pytest.mark.parametrize("format_", [{"json_schema": {"schema": {"type": "object"}}}, {"schema": {"type": "object"}}])
async def test_a_format_without_a_type_is_that_of_its_schema(quern: Quern, format_: dict[str, Any]) -> None:
    answer = await post(quern, CHAT, {"messages": USER, "response_format": format_})
    assert answer.status_code == 200, answer.text
    assert "x-quern-ignored" not in answer.headers
    assert quern.engine.requests[-1].grammar == JsonGrammar('{"type": "object"}')


STOPS = {
    "/v1/chat/completions": ("stop", {"messages": USER}),
    "/v1/completions": ("stop", {"prompt": "hi"}),
    "/v1/fim/completions": ("stop", {"prompt": "hi"}),
    "/v1/responses": ("stop", {"input": "hi"}),
    "/v1/messages": ("stop_sequences", {"model": "fake", "max_tokens": 50, "messages": USER}),
    "/infill": ("stop", {"input_prefix": "hi", "input_suffix": ""}),
    "/completion": ("stop", {"prompt": "hi"}),
}


@pytest.mark.parametrize("path", STOPS)
@pytest.mark.parametrize("stops", [["", "b", None], ["b"], [" ", "b"], ["", None]])
async def test_an_empty_stop_text_ends_nothing_and_is_named_in_every_dialect(
    start: Start, path: str, stops: list[str | None]
) -> None:
    field, body = STOPS[path]
    async with start(saying("abc")) as quern:
        answer = await post(quern, path, {**body, field: stops})
    assert answer.status_code == 200, answer.text
    named = [f"{field}.{index}" for index, stop in enumerate(stops) if not stop]
    assert answer.headers.get("x-quern-ignored") == (", ".join(named) or None)
    assert ('"abc' in answer.text) == ("b" not in stops)
    assert '"a' in answer.text
