"""The examples of Anthropic's own documentation, as clients copy them: served, or refused by a name in docs/api.md."""

from __future__ import annotations

from typing import Any

import pytest

from .conftest import Quern
from .messages import count, message, prompt_text

HELLO: dict[str, Any] = {"role": "user", "content": "Hello, Claude"}
EPHEMERAL: dict[str, Any] = {"type": "ephemeral"}
STOCK: dict[str, Any] = {
    "name": "get_stock_price",
    "description": "Get the current stock price for a given ticker symbol.",
    "input_schema": {
        "type": "object",
        "properties": {"ticker": {"type": "string", "description": "The stock ticker symbol, e.g. AAPL."}},
        "required": ["ticker"],
    },
}
GRASS: dict[str, Any] = {
    "type": "document",
    "source": {"type": "text", "media_type": "text/plain", "data": "The grass is green. The sky is blue."},
    "title": "My Document",
    "context": "This is a trustworthy document.",
    "citations": {"enabled": True},
}


def asks(*content: Any) -> list[dict[str, Any]]:
    return [{"role": "user", "content": list(content)}]


def text(said: str, **more: Any) -> dict[str, Any]:
    return {"type": "text", "text": said, **more}


PICTURE = {"type": "image", "source": {"type": "base64", "media_type": "image/jpeg", "data": "/9j/"}}
WEATHER: dict[str, Any] = {
    "name": "get_weather",
    "description": "Get the current weather in a given location",
    "input_schema": {
        "type": "object",
        "properties": {
            "location": {"type": "string", "description": "The city and state, e.g. San Francisco, CA"},
            "unit": {"type": "string", "enum": ["celsius", "fahrenheit"], "description": "The unit of temperature"},
        },
        "required": ["location"],
    },
}

SERVED: dict[str, tuple[dict[str, Any], list[str], str | None]] = {
    "hello": ({"max_tokens": 1024, "messages": [HELLO]}, ["user\nHello, Claude"], None),
    "a system prompt": (
        {"max_tokens": 2048, "system": "You are a seasoned data scientist.", "messages": [HELLO]},
        ["system\nYou are a seasoned data scientist"],
        None,
    ),
    "stop sequences, sampling and metadata": (
        {"messages": [HELLO], "stop_sequences": ["\n\nHuman:", "END"], "temperature": 0.2, "top_k": 5, "top_p": 0.7,
         "metadata": {"user_id": "13803d75-b4b5-4c3e-b2a2-6f21399b021b"}, "service_tier": "auto"},
        ["Hello, Claude"],
        None,
    ),
    "JSON put into Claude's mouth": (
        {"messages": [{"role": "user", "content": "Extract the name as JSON."}, {"role": "assistant", "content": "{"}],
         "stop_sequences": ["}"]},
        ["assistant\n{"],
        None,
    ),
    "an image in what was said before": (
        {"messages": [*asks(PICTURE, text("What is in this?")), {"role": "assistant", "content": "An ant."}, HELLO]},
        ["[an image was here]\nWhat is in this?"],
        None,
    ),
    "a text file in base64": (
        {"messages": asks({"type": "document", "source": {"type": "base64", "media_type": "text/plain",
                                                          "data": "VGhlIGdyYXNzIGlzIGdyZWVuLg=="}}, text("Colour?"))},
        ["The grass is green."],
        None,
    ),
    "a call of any tool demanded": (
        {"tools": [WEATHER], "tool_choice": {"type": "any"}, "messages": [HELLO]}, ["get_weather"], None),
    "a call of one tool demanded": (
        {"tools": [WEATHER, STOCK], "tool_choice": {"type": "tool", "name": "get_weather"}, "messages": [HELLO]},
        ["get_weather"],
        None,
    ),
    "one call at a time": (
        {"tools": [WEATHER], "tool_choice": {"type": "auto", "disable_parallel_tool_use": True}, "messages": [HELLO]},
        ["get_weather"],
        None,
    ),
    "parallel calls with their results": (
        {"tools": [WEATHER], "messages": [
            {"role": "user", "content": "What's the weather in SF and NYC?"},
            {"role": "assistant", "content": [
                {"type": "tool_use", "id": "toolu_01", "name": "get_weather", "input": {"location": "San Francisco"}},
                {"type": "tool_use", "id": "toolu_02", "name": "get_weather", "input": {"location": "New York"}}]},
            *asks({"type": "tool_result", "tool_use_id": "toolu_01", "content": "68 degrees"},
                  {"type": "tool_result", "tool_use_id": "toolu_02", "content": [text("45 degrees")]},
                  text("Now compare."))]},
        ["San Francisco", "New York", "68 degrees", "45 degrees", "Now compare."],
        None,
    ),
    "cached tools": (
        {"tools": [STOCK, {**WEATHER, "cache_control": EPHEMERAL}], "messages": [HELLO]}, ["get_weather"], None),
    "interleaved thinking with tools, sent back": (
        {"thinking": {"type": "enabled", "budget_tokens": 1024}, "tools": [WEATHER], "messages": [
            HELLO,
            {"role": "assistant", "content": [
                {"type": "thinking", "thinking": "The user wants...", "signature": "BDaL4VrbR2Oj0hO4XpJxT28J5TI"},
                {"type": "tool_use", "id": "toolu_01", "name": "get_weather", "input": {"location": "Paris"}}]},
            *asks({"type": "tool_result", "tool_use_id": "toolu_01", "content": "88 F"})]},
        ['"location": "Paris"', "88 F"],
        None,
    ),
    "several turns": (
        {"messages": [HELLO, {"role": "assistant", "content": "Hello!"}, {"role": "user", "content": "Describe LLMs"}]},
        ["Hello!", "Describe LLMs"],
        None,
    ),
    "an answer put into Claude's mouth": (
        {"max_tokens": 1, "messages": [
            {"role": "user", "content": "What is latin for Ant? (A) Apoidea, (B) Rhopalocera, (C) Formicidae"},
            {"role": "assistant", "content": "The answer is ("},
        ]},
        ["assistant\nThe answer is ("],
        None,
    ),
    "prompt caching": (
        {"system": [text("You analyze literary works."), text("<the entire contents of a book>",
                                                              cache_control={**EPHEMERAL, "ttl": "1h"})],
         "cache_control": EPHEMERAL, "messages": asks(text("Analyze it.", cache_control=EPHEMERAL))},
        ["<the entire contents of a book>"],
        None,
    ),
    "a tool and its result": (
        {"tools": [STOCK], "messages": [
            {"role": "user", "content": "What's the S&P 500 at today?"},
            {"role": "assistant", "content": [text("I'll check."), {
                "type": "tool_use", "id": "toolu_01D7", "name": "get_stock_price", "input": {"ticker": "^GSPC"}}]},
            *asks({"type": "tool_result", "tool_use_id": "toolu_01D7", "content": "259.75 USD"}),
        ]},
        ['"ticker": "^GSPC"', "259.75 USD"],
        None,
    ),
    "a tool's result that is an error": (
        {"messages": asks({"type": "tool_result", "tool_use_id": "toolu_01D7", "is_error": True,
                           "content": "ConnectionError: the weather service API is not available (HTTP 500)"})},
        ["Error: ConnectionError"],
        None,
    ),
    "a tool's result with an image": (
        {"messages": asks({"type": "tool_result", "tool_use_id": "toolu_01D7", "content": [
            text("15 degrees"),
            {"type": "image", "source": {"type": "base64", "media_type": "image/jpeg", "data": "/9j/"}}]})},
        ["15 degrees\n[an image was here]"],
        None,
    ),
    "a tool of strict schema": ({"tools": [{**STOCK, "strict": True}], "messages": [HELLO]}, ["get_stock_price"], None),
    "extended thinking, sent back": (
        {"max_tokens": 16000, "thinking": {"type": "enabled", "budget_tokens": 10000}, "messages": [
            HELLO,
            {"role": "assistant", "content": [
                {"type": "thinking", "thinking": "Let me analyze this.", "signature": "WaUjzkypQ2mUEVM36O2T"},
                {"type": "redacted_thinking", "data": "EmwKAhgBEgy3va3pzix"},
                text("Based on my analysis...")]},
            HELLO]},
        ["assistant\nBased on my analysis..."],
        None,
    ),
    "citations": ({"messages": asks(GRASS, text("What color is the grass and sky?"))}, ["The grass is green."], None),
    "citations of custom content": (
        {"messages": asks({**GRASS, "source": {"type": "content", "content": [text("First"), text("Second")]}})},
        ["First\nSecond"],
        None,
    ),
    "search results": (
        {"messages": asks({"type": "search_result", "source": "https://docs.company.com/api-reference",
                           "title": "API Reference - Authentication", "content": [text("All API requests...")],
                           "citations": {"enabled": True}}, text("How do I authenticate?"))},
        ["API Reference - Authentication", "All API requests..."],
        None,
    ),
    "web search": (
        {"messages": [HELLO], "tools": [{"type": "web_search_20250305", "name": "web_search", "max_uses": 5,
            "allowed_domains": ["example.com"], "user_location": {"type": "approximate", "city": "San Francisco"}}]},
        [],
        "tools.0 (web_search_20250305)",
    ),
    "code execution with skills": (
        {"messages": [HELLO], "tools": [{"type": "code_execution_20250825", "name": "code_execution"}],
         "container": {"skills": [{"type": "anthropic", "skill_id": "pptx", "version": "latest"}]}},
        [],
        "container, tools.0 (code_execution_20250825)",
    ),
    "computer use, with the tools beside it": (
        {"messages": [HELLO], "tools": [
            {"type": "computer_20250124", "name": "computer", "display_width_px": 1024, "display_height_px": 768,
             "display_number": 1},
            {"type": "text_editor_20250728", "name": "str_replace_based_edit_tool", "max_characters": 10000},
            {"type": "bash_20250124", "name": "bash"}]},
        ['"str_replace_based_edit_tool"', '"bash"', '"restart"'],
        "tools.0 (computer_20250124)",
    ),
    "memory and context editing": (
        {"messages": [HELLO], "tools": [{"type": "memory_20250818", "name": "memory"}], "context_management": {
            "edits": [{"type": "clear_tool_uses_20250919", "trigger": {"type": "input_tokens", "value": 30000},
                       "keep": {"type": "tool_uses", "value": 3}, "exclude_tools": ["memory"]}]}},
        ['"memory"', "/memories"],
        "context_management.edits.0 (clear_tool_uses_20250919)",
    ),
    "the connector to MCP servers": (
        {"messages": [HELLO], "tools": [{"type": "mcp_toolset", "mcp_server_name": "example-mcp"}], "mcp_servers": [
            {"type": "url", "url": "https://example-server.modelcontextprotocol.io/sse", "name": "example-mcp",
             "authorization_token": "YOUR_TOKEN"}]},
        [],
        "mcp_servers, tools.0 (mcp_toolset)",
    ),
    "structured outputs": (
        {"messages": [HELLO], "output_config": {"effort": "medium", "format": {"type": "json_schema", "schema": {
            "type": "object", "properties": {"name": {"type": "string"}, "demo_requested": {"type": "boolean"}},
            "required": ["name", "demo_requested"], "additionalProperties": False}}}},
        [],
        None,
    ),
    "searched tools": (
        {"messages": [HELLO], "tools": [
            {"type": "tool_search_tool_regex_20251119", "name": "tool_search_tool_regex"},
            {**STOCK, "defer_loading": True}]},
        ["get_stock_price"],
        "tools.0 (tool_search_tool_regex_20251119)",
    ),
}  # fmt: skip


@pytest.mark.parametrize("example", SERVED)
async def test_a_documented_example_is_served(quern: Quern, example: str) -> None:
    body, shown, ignored = SERVED[example]
    response = await message(quern, model="fake", **body)
    assert response.status_code == 200, response.text
    assert response.headers.get("x-quern-ignored") == ignored
    assert all(said in prompt_text(quern) for said in shown), prompt_text(quern)


COUNTED = {"messages", "system", "tools", "tool_choice", "thinking", "output_config", "context_management"}


@pytest.mark.parametrize("example", [name for name, (body, *_) in SERVED.items() if body.get("max_tokens") != 1])
async def test_a_documented_example_is_streamed_and_counted(quern: Quern, example: str) -> None:
    body, shown, _ = SERVED[example]
    streamed = await message(quern, **body, stream=True)
    assert (streamed.status_code, streamed.headers["content-type"]) == (200, "text/event-stream; charset=utf-8")
    assert "event: message_start" in streamed.text
    assert "event: message_stop" in streamed.text
    assert all(said in prompt_text(quern) for said in shown)
    counted = {name: value for name, value in body.items() if name in COUNTED}
    assert await count(quern, **counted) == len(quern.engine.requests[-1].prompt)


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "vision": (
        {"messages": asks(PICTURE, text("What is in the above image?"))},
        "messages.0.content.0 can't be used: Could not process image",
    ),
    "vision by an address": (
        {"messages": asks({"type": "image", "source": {"type": "url", "url": "https://example.org/ant.jpg"}})},
        "messages.0.content.0 can't be used: Could not process image",
    ),
    "a PDF in base64": (
        {"messages": asks({"type": "document", "source": {"type": "base64", "media_type": "application/pdf",
                                                          "data": "JVBERi0xLjQK"}}, text("Summarize."))},
        "messages.0.content.0 can't be used: Could not process PDF",
    ),
    "a PDF by its address": (
        {"messages": asks({"type": "document", "source": {"type": "url", "url": "https://example.org/a.pdf"}},
                          text("What are the key findings?"))},
        "messages.0.content.0 can't be used: Could not process PDF",
    ),
    "a file": (
        {"messages": asks(text("Summarize"), {"type": "document", "source": {"type": "file", "file_id": "file_011"}})},
        "messages.0.content.1 can't be used: Could not process PDF",
    ),
    "a file for the code": (
        {"messages": asks(text("Analyze"), {"type": "container_upload", "file_id": "file_011"})},
        "messages.0.content.1 can't be used",
    ),
}  # fmt: skip


@pytest.mark.parametrize("example", REFUSED)
async def test_a_documented_example_that_cant_be_served_is_refused_by_its_field(quern: Quern, example: str) -> None:
    body, sentence = REFUSED[example]
    response = await message(quern, **body)
    assert response.status_code == 400, response.text
    assert sentence in response.json()["error"]["message"]
