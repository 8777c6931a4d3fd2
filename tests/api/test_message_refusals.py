"""What the Messages API refuses, and in which words."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from .conftest import Quern, Start
from .engines import saying
from .messages import CALLED, USER, WEATHER, count, message, user


async def refusal(quern: Quern, **body: Any) -> str:
    response = await message(quern, **body)
    assert response.status_code == 400, response.text
    error = response.json()
    assert (error["type"], error["error"]["type"]) == ("error", "invalid_request_error")
    assert not quern.engine.requests, "nothing was generated"
    return error["error"]["message"]


FIELDS: list[tuple[dict[str, Any], str]] = [
    ({"messages": []}, "messages"),
    ({"messages": [user()]}, "messages.0"),
    ({"messages": [{"role": "tool", "content": "x"}]}, "messages.0.role"),
    ({"messages": [{"role": "user", "content": 5}]}, "messages.0.content"),
    ({"messages": [{**USER[0], "name": "x"}]}, "messages.0.name"),
    ({"messages": [{**USER[0], "clear_at": "never"}]}, "clear_at"),
    ({"messages": [user({"type": "text", "text": "x", "bold": True})]}, "messages.0.content.0.bold"),
    ({"messages": [user({"type": "image", "source": {}})]}, "messages.0.content.0"),
    ({"messages": [user({"type": "tool_result", "content": "x"})]}, "messages.0.content.0.tool_use_id"),
    ({"messages": [user(CALLED)]}, "tool_use"),
    ({"messages": [{"role": "assistant", "content": [{"type": "tool_addition", "tool": {}}]}]}, "messages.0.content.0"),
    ({"system": [{"type": "image"}]}, "system.0.type"),
    ({"max_tokens": 0}, "max_tokens"),
    ({"max_tokens": None}, "max_tokens"),
    ({"temperature": 1.1}, "temperature"),
    ({"top_p": -0.1}, "top_p"),
    ({"top_k": -1}, "top_k"),
    ({"stop_sequences": [""]}, "stop_sequences.0"),
    ({"stop_sequences": ["x"] * 17}, "stop_sequences"),
    ({"tools": [{**WEATHER, "name": "two words"}]}, "tools.0.name"),
    ({"tools": [{"name": "weather"}]}, "tools.0.input_schema"),
    ({"tools": [{**WEATHER, "allowed_callers": ["code_execution_20260120"]}]}, "tools.0.allowed_callers"),
    ({"tools": [WEATHER, WEATHER]}, "weather"),
    ({"tool_choice": {"type": "tool"}}, "tool_choice"),
    ({"tool_choice": {"type": "any"}}, "tool_choice"),
    ({"tools": [WEATHER], "tool_choice": {"type": "tool", "name": "news"}}, "news"),
    ({"output_config": {"format": {"type": "json_schema"}}}, "output_config.format.schema"),
    ({"context_management": {"edits": [{"type": "compact_20260112"}]}}, "context_management.edits.0.type"),
    ({"container": "c"}, "container"),
    ({"mcp_servers": []}, "mcp_servers"),
    ({"seed": 1}, "seed"),
]


@pytest.mark.parametrize(("body", "named"), FIELDS, ids=str)
async def test_a_refusal_names_the_field(quern: Quern, body: dict[str, Any], named: str) -> None:
    assert named in await refusal(quern, **body)


@pytest.mark.parametrize(
    "type_", ["web_search_20260318", "bash_20250124", "text_editor_20250728", "memory_20250818", "mcp_toolset"]
)
async def test_tools_of_anthropics_own_are_refused_by_type(quern: Quern, type_: str) -> None:
    sentence = await refusal(quern, tools=[{"type": type_, "name": "bash"}])
    assert sentence.startswith(f"The field tools.0 can't be used: Tools of the type '{type_}' are Anthropic's own")


@pytest.mark.parametrize("type_", ["server_tool_use", "web_search_tool_result", "container_upload", "search_result"])
async def test_blocks_that_the_model_cant_read_are_refused_by_type(quern: Quern, type_: str) -> None:
    assert await refusal(quern, messages=[user({"type": "text", "text": "x"}, {"type": type_})]) == (
        f"The field messages.0.content.1 can't be used: The model reads text only, and this server runs no tools, so "
        f"blocks of the type '{type_}' have no meaning here. Leave them out."
    )


@pytest.mark.parametrize(
    ("type_", "known"), [("image", "could not process image"), ("document", "could not process pdf")]
)
async def test_images_and_documents_are_refused_in_words_that_clients_know(
    quern: Quern, type_: str, known: str
) -> None:
    block = {"type": type_, "source": {"type": "base64", "data": ""}}
    assert known in (await refusal(quern, messages=[user(block)])).lower()
    result = {"type": "tool_result", "tool_use_id": "c1", "content": [block]}
    assert known in (await refusal(quern, messages=[user(result)])).lower()


async def test_a_prefilled_answer_is_refused_but_counted(quern: Quern) -> None:
    messages = [*USER, {"role": "assistant", "content": "The answer is"}]
    assert "no prefill" in await refusal(quern, messages=messages)
    assert await count(quern, messages=messages) > await count(quern)


async def test_a_full_context_is_told_in_the_words_that_clients_know(start: Start) -> None:
    async with start(saying("x", context_length=400)) as quern:
        asked: dict[str, Any] = {"messages": [{"role": "user", "content": "word " * 80}]}
        counted = await count(quern, **asked)
        sentence = await refusal(quern, **asked)
    assert sentence.startswith(f"prompt is too long: {counted} tokens > {400 - 256} maximum")


async def test_another_model_is_a_404(quern: Quern) -> None:
    response = await message(quern, model="claude-sonnet-5")
    assert (response.status_code, response.json()["error"]["type"]) == (404, "not_found_error")


async def test_a_full_queue_is_a_529_that_says_when_to_try_again(start: Start) -> None:
    async with start(saying("x" * 500, parallel=1, token_delay=0.01), turns={"max_queued": 0}) as quern:
        running = asyncio.get_running_loop().create_task(message(quern))
        while not quern.engine.stats().running:
            await asyncio.sleep(0.005)
        response = await message(quern)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
    assert (response.status_code, response.json()["error"]["type"]) == (529, "overloaded_error")
    assert int(response.headers["retry-after"]) >= 1


async def test_while_the_model_loads_a_message_is_a_529(start: Start) -> None:
    async with start(saying("x", load_delay=30), wait_until_loaded=False) as quern:
        response = await message(quern)
    assert (response.status_code, response.json()["error"]["type"]) == (529, "overloaded_error")
    assert "retry-after" in response.headers


async def test_an_answer_that_fails_is_a_500_with_the_reason(start: Start) -> None:
    async with start(saying("hello", fail_after=2)) as quern:
        response = await message(quern)
    assert response.status_code == 500
    assert response.json()["error"]["type"] == "api_error"
    assert "failed after 2 tokens" in response.json()["error"]["message"]


async def test_an_error_has_the_id_under_which_the_log_has_the_request(start: Start) -> None:
    async with start(saying("hello", fail_after=2)) as quern:
        whole = await message(quern, max_tokens=0)
        streamed = await message(quern, stream=True)
    assert whole.json()["request_id"] == whole.headers["request-id"]
    assert f'"request_id":"{streamed.headers["request-id"]}"' in streamed.text


async def test_a_conversation_that_is_busy_is_a_conflict(start: Start) -> None:
    async with start(saying("x" * 500, token_delay=0.01)) as quern:
        running = asyncio.get_running_loop().create_task(quern.begin())
        while not quern.engine.stats().running:
            await asyncio.sleep(0.005)
        (listed,) = (await quern.client.get("/v1/conversations")).json()["data"]
        refused = await quern.client.post(
            "/v1/messages", json={"messages": USER, "max_tokens": 5}, headers={"x-quern-conversation": listed["id"]}
        )
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
    assert (refused.status_code, refused.json()["error"]["type"]) == (409, "conflict_error")
