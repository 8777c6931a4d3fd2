"""What the Messages API refuses, and in which words."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from .conftest import Quern, Start
from .engines import saying
from .messages import CALLED, USER, WEATHER, count, message, prompt_text, user


async def refusal(quern: Quern, **body: Any) -> str:
    response = await message(quern, **body)
    assert response.status_code == 400, response.text
    error = response.json()
    assert (error["type"], error["error"]["type"]) == ("error", "invalid_request_error")
    assert not quern.engine.requests, "nothing was generated"
    return error["error"]["message"]


FIELDS: list[tuple[dict[str, Any], str]] = [
    ({"messages": []}, "messages"),
    ({"messages": [{"role": "tool", "content": "x"}]}, "messages.0.role"),
    ({"messages": [{"role": "user", "content": 5}]}, "messages.0.content"),
    ({"messages": [user({"text": 5})]}, "messages.0.content.0"),
    ({"messages": [user({"title": "x"})]}, "messages.0.content.0"),
    ({"messages": [user({"type": "image", "source": {}})]}, "messages.0.content.0"),
    ({"system": [{"type": "image"}]}, "system.0.type"),
    ({"max_tokens": -1}, "max_tokens"),
    ({"max_tokens": None}, "max_tokens"),
    ({"temperature": 1.1}, "temperature"),
    ({"top_p": -0.1}, "top_p"),
    ({"top_k": -2}, "top_k"),
    ({"stop_sequences": [1]}, "stop_sequences.0"),
    ({"stop_sequences": ["x"] * 17}, "stop_sequences"),
    ({"tools": [{**WEATHER, "name": "two words"}]}, "tools.0.name"),
    ({"tools": [{"name": "weather"}]}, "tools.0.input_schema"),
    ({"tools": [WEATHER, {**WEATHER, "description": "Another one."}]}, "weather"),
    ({"tool_choice": {"type": "tool"}}, "tool_choice"),
    ({"tool_choice": {"type": "any"}}, "tool_choice"),
    ({"tools": [WEATHER], "tool_choice": {"type": "tool", "name": "news"}}, "news"),
    ({"output_config": {"format": {"type": "json_schema"}}}, "output_config.format.schema"),
    ({"output_format": {"type": "yaml", "schema": {}}}, "output_format.type"),
    ({"thread": {"type": "create"}}, "thread"),
    ({"thread": {"type": "continue", "previous_message_id": "msg_1"}}, "thread"),
    ({"compaction": {"type": "summarize"}}, "compaction"),
]


@pytest.mark.parametrize(("body", "named"), FIELDS, ids=str)
async def test_a_refusal_names_the_field(quern: Quern, body: dict[str, Any], named: str) -> None:
    assert named in await refusal(quern, **body)


IGNORED: list[tuple[dict[str, Any], str]] = [
    ({"seed": 1, "x": {"y": 1}}, "seed, x"),
    ({"container": "c", "mcp_servers": [{"type": "url", "url": "x", "name": "y"}]}, "container, mcp_servers"),
    ({"messages": [{**USER[0], "name": "x"}]}, "messages.0.name"),
    ({"messages": [{**USER[0], "clear_at": "next_user_message"}]}, "messages.0.clear_at"),
    ({"messages": [user({"type": "text", "text": "x", "bold": True})]}, "messages.0.content.0.bold"),
    ({"messages": [user({"type": "tool_result", "content": [{"type": "text", "text": "x", "b": 1}]})]},
     "messages.0.content.0.content.0.b"),
    ({"system": [{"type": "text", "text": "x", "bold": True}]}, "system.0.bold"),
    ({"tools": [{**WEATHER, "icon": "sun"}]}, "tools.0.icon"),
    ({"tools": [{**WEATHER, "allowed_callers": ["code_execution_20260120"]}]}, "tools.0.allowed_callers"),
    ({"context_management": {"edits": [{"type": "compact_20260112"}]}},
     "context_management.edits.0 (compact_20260112)"),
    ({"context_management": {"edits": [{"type": "clear_thinking_20251015"}, {"type": "clear_tool_uses_20250919",
      "keep": {"type": "tool_uses", "value": 3}}]}},
     "context_management.edits.1 (clear_tool_uses_20250919)"),
    ({"tools": [{"type": "web_search_20250305", "name": "web_search", "max_uses": 5}, WEATHER,
                {"type": "mcp_toolset", "mcp_server_name": "x"}]},
     "tools.0 (web_search_20250305), tools.2 (mcp_toolset)"),
    ({"tools": [{"type": "computer_20251124", "name": "computer", "display_width_px": 1, "display_height_px": 1}]},
     "tools.0 (computer_20251124)"),
    ({"tools": [{"type": "tool_of_tomorrow_20991231"}]}, "tools.0 (tool_of_tomorrow_20991231)"),
    ({"messages": [*USER, {"role": "system", "content": [{"type": "tool_addition", "tool": {
      "type": "mcp_tool_reference", "server_name": "x", "name": "y"}}]}]},
     "messages.1.content.0.tool (mcp_tool_reference)"),
]  # fmt: skip


@pytest.mark.parametrize(("body", "named"), IGNORED, ids=str)
async def test_what_cant_be_served_is_left_out_and_named(start: Start, body: dict[str, Any], named: str) -> None:
    async with start() as quern:
        response = await message(quern, **body)
        counted = await quern.client.post("/v1/messages/count_tokens", json={"messages": USER, **body})
    assert (response.status_code, response.headers.get("x-quern-ignored")) == (200, named)
    assert (counted.status_code, counted.headers.get("x-quern-ignored")) == (200, named)
    async with start(server={"unknown_fields": "refuse"}) as quern:
        assert named.partition(",")[0].partition(" ")[0] in await refusal(quern, **body)


async def test_a_plain_request_leaves_nothing_out(quern: Quern) -> None:
    response = await message(quern, tools=[WEATHER], system="x", thinking={"type": "adaptive"})
    assert "x-quern-ignored" not in response.headers


@pytest.mark.parametrize("type_", ["web_search_20260318", "code_execution_20260521", "computer_20250124"])
@pytest.mark.parametrize("choice", [{"type": "any"}, {"type": "tool", "name": "it"}])
async def test_a_choice_that_demands_a_hosted_tool_is_refused_by_its_type(
    quern: Quern, type_: str, choice: dict[str, str]
) -> None:
    sentence = await refusal(quern, tools=[{"type": type_, "name": "it"}], tool_choice=choice)
    assert sentence.startswith(f"The field tool_choice demands a tool of the type '{type_}'")


async def test_a_choice_of_any_tool_is_served_where_there_is_one_beside_a_hosted_one(quern: Quern) -> None:
    tools = [{"type": "web_search_20260318", "name": "web_search"}, WEATHER]
    response = await message(quern, tools=tools, tool_choice={"type": "any"})
    assert response.status_code == 200, response.text


IMAGE: dict[str, Any] = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": ""}}
PDF: dict[str, Any] = {"type": "document", "source": {"type": "base64", "media_type": "application/pdf", "data": ""}}
NEW_BLOCKS: list[tuple[dict[str, Any], str]] = [
    (IMAGE, "could not process image"),
    ({"type": "image", "source": {"type": "url", "url": "https://example.org/x.png"}}, "could not process image"),
    (PDF, "could not process pdf"),
    ({"type": "document", "source": {"type": "url", "url": "https://example.org/x.pdf"}}, "could not process pdf"),
    ({"type": "document", "source": {"type": "file", "file_id": "f"}, "title": "T"}, "could not process pdf"),
    ({"type": "container_upload", "file_id": "f"}, "'container_upload'"),
    ({"type": "hologram", "light": []}, "'hologram'"),
]


@pytest.mark.parametrize(("block", "known"), NEW_BLOCKS, ids=str)
@pytest.mark.parametrize("after", [[], [{"role": "system", "content": "x"}], [{"role": "assistant", "content": "I"}]])
async def test_what_the_user_says_now_and_cant_be_read_is_refused_in_words_that_clients_know(
    quern: Quern, block: dict[str, Any], known: str, after: list[Any]
) -> None:
    sentence = await refusal(quern, messages=[user(IMAGE), *USER, user({"type": "text", "text": "x"}, block), *after])
    assert sentence.startswith("The field messages.2.content.1 can't be used: ")
    assert known in sentence.lower()


@pytest.mark.parametrize(("block", "known"), NEW_BLOCKS, ids=str)
async def test_the_same_in_what_was_said_before_or_in_a_tools_result_is_a_sentence(
    quern: Quern, block: dict[str, Any], known: str
) -> None:
    del known
    result = {"type": "tool_result", "tool_use_id": "c1", "content": [block, {"type": "text", "text": "found"}]}
    response = await message(quern, messages=[user(block), {"role": "assistant", "content": [CALLED]}, user(result)])
    assert response.status_code == 200, response.text
    kind = block["type"]
    sentence = {"image": "[an image was here]", "document": "[a document was here]"}.get(
        kind, f"[a part of the type '{kind}' was here]"
    )
    assert f"user\n{sentence}\n" in prompt_text(quern)
    assert f"tool\n{sentence}\nfound\n" in prompt_text(quern)


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
        whole = await message(quern, max_tokens=-1)
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
