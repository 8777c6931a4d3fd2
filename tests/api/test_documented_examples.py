"""The kinds of examples in OpenAI's API reference, sent as requests: what docs/api.md calls served is served, and what
it calls refused or left out is named.

What becomes of each field of an example comes from the tables of docs/api.md, so that both are held to each other.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import httpx2
import pytest
from tests.field_tables import field_table

from quern.grammar.kinds import JsonGrammar, LarkGrammar

from .answers_sent_back import events_of
from .conftest import Quern, Start
from .engines import saying

CHAT, COMPLETIONS, RESPONSES, EMBEDDINGS = (
    f"/v1/{name}" for name in ("chat/completions", "completions", "responses", "embeddings")
)
DEVELOPER = {"role": "developer", "content": "You are a helpful assistant."}
HELLO = {"role": "user", "content": "Hello!"}
PLACE: dict[str, Any] = {
    "type": "object",
    "properties": {
        "location": {"type": "string", "description": "The city and state, e.g. San Francisco, CA"},
        "unit": {"type": "string", "enum": ["celsius", "fahrenheit"]},
    },
    "required": ["location"],
}
WEATHER = {"name": "get_current_weather", "description": "Get the current weather", "parameters": PLACE}
CHAT_TOOL = {"type": "function", "function": WEATHER}
TOOL = {"type": "function", **WEATHER}
BOSTON = {"role": "user", "content": "What is the weather like in Boston today?"}
STEPS: dict[str, Any] = {
    "type": "object",
    "properties": {
        "steps": {"type": "array", "items": {"type": "object", "properties": {"explanation": {"type": "string"}}}},
        "final_answer": {"type": "string"},
    },
    "required": ["steps", "final_answer"],
    "additionalProperties": False,
}
PICTURE = "https://example.com/boardwalk.jpg"
MATHS = {"type": "grammar", "grammar": {"syntax": "regex", "definition": "[0-9+*]+"}}


@dataclass(frozen=True)
class Example:
    """A request, without its model. `ignored`: what of it is named, besides the fields that docs/api.md calls left out;
    `refused`: the field and some words of the refusal.
    """

    path: str
    body: dict[str, Any]
    ignored: tuple[str, ...] = ()
    refused: tuple[str, str] | None = None

    def fields(self, status: str) -> set[str]:
        """The fields of which docs/api.md says this."""
        table = field_table(f"POST {self.path}")
        return {name for name in self.body if table.get(name, "left out") == status}


def picture(kind: str, url: Any) -> list[dict[str, Any]]:
    text = {"type": "text" if kind == "image_url" else "input_text", "text": "What is in this image?"}
    return [{"role": "user", "content": [text, {"type": kind, "image_url": url}]}]


EXAMPLES = {
    "chat": Example(CHAT, {"messages": [DEVELOPER, HELLO]}),
    "chat: streaming": Example(CHAT, {"messages": [DEVELOPER, HELLO], "stream": True}),
    "chat: image": Example(
        CHAT,
        {"messages": picture("image_url", {"url": PICTURE}), "max_tokens": 300},
        refused=("messages.0.content.1", "'image_url'"),
    ),
    "chat: functions": Example(CHAT, {"messages": [BOSTON], "tools": [CHAT_TOOL], "tool_choice": "auto"}),
    "chat: a demanded function": Example(
        CHAT,
        {
            "messages": [BOSTON],
            "tools": [CHAT_TOOL],
            "tool_choice": {"type": "function", "function": {"name": "get_current_weather"}},
            "parallel_tool_calls": False,
        },
    ),
    "chat: a function's result": Example(
        CHAT,
        {
            "messages": [
                BOSTON,
                {
                    "role": "assistant",
                    "content": None,
                    "tool_calls": [
                        {
                            "id": "call_abc123",
                            "type": "function",
                            "function": {"name": "get_current_weather", "arguments": '{"location": "Boston, MA"}'},
                        }
                    ],
                },
                {"role": "tool", "tool_call_id": "call_abc123", "content": "22 degrees"},
            ],
            "tools": [CHAT_TOOL],
        },
    ),
    "chat: the older functions": Example(
        CHAT, {"messages": [BOSTON], "functions": [WEATHER], "function_call": {"name": "get_current_weather"}}
    ),
    "chat: a custom tool": Example(
        CHAT,
        {
            "messages": [HELLO],
            "tools": [{"type": "custom", "custom": {"name": "calculate", "description": "Maths.", "format": MATHS}}],
            "tool_choice": {"type": "custom", "custom": {"name": "calculate"}},
        },
    ),
    "chat: allowed tools": Example(
        CHAT,
        {
            "messages": [HELLO],
            "tools": [CHAT_TOOL],
            "tool_choice": {
                "type": "allowed_tools",
                "allowed_tools": {
                    "mode": "auto",
                    "tools": [{"type": "function", "function": {"name": "get_current_weather"}}],
                },
            },
        },
    ),
    "chat: probabilities": Example(CHAT, {"messages": [HELLO], "logprobs": True, "top_logprobs": 2}),
    "chat: structured output": Example(
        CHAT,
        {
            "messages": [DEVELOPER, {"role": "user", "content": "how can I solve 8x + 7 = -23"}],
            "response_format": {
                "type": "json_schema",
                "json_schema": {"name": "math_reasoning", "schema": STEPS, "strict": True},
            },
        },
    ),
    "chat: JSON mode": Example(CHAT, {"messages": [HELLO], "response_format": {"type": "json_object"}}),
    "chat: predicted output": Example(
        CHAT,
        {"messages": [HELLO], "prediction": {"type": "content", "content": "class User {}"}, "store": True},
    ),
    "chat: reasoning": Example(
        CHAT,
        {"messages": [HELLO], "reasoning_effort": "medium", "verbosity": "low", "max_completion_tokens": 50},
    ),
    "chat: web search": Example(CHAT, {"messages": [HELLO], "web_search_options": {"search_context_size": "low"}}),
    "chat: audio out": Example(
        CHAT,
        {"messages": [HELLO], "modalities": ["text", "audio"], "audio": {"voice": "alloy", "format": "wav"}},
        refused=("modalities", "text only"),
    ),
    "chat: audio in": Example(
        CHAT,
        {
            "messages": [
                {
                    "role": "user",
                    "content": [{"type": "input_audio", "input_audio": {"data": "UklGRg==", "format": "wav"}}],
                }
            ]
        },
        refused=("messages.0.content.0", "'input_audio'"),
    ),
    "completions": Example(COMPLETIONS, {"prompt": "Say this is a test", "max_tokens": 7, "temperature": 0}),
    "completions: streaming": Example(COMPLETIONS, {"prompt": "Say this is a test", "stream": True}),
    "completions: all fields": Example(
        COMPLETIONS,
        {
            "prompt": ["Say this is a test", "And this"],
            "suffix": None,
            "n": 2,
            "best_of": 2,
            "logprobs": 3,
            "stop": "\n",
            "presence_penalty": 0.5,
            "logit_bias": {"50": -100},
            "user": "user-123456",
        },
    ),
    "completions: echo with probabilities": Example(
        COMPLETIONS, {"prompt": "Say", "echo": True, "logprobs": 2}, refused=("logprobs", "echo")
    ),
    "responses": Example(
        RESPONSES, {"input": "Tell me a three sentence bedtime story about a unicorn.", "instructions": "Be brief."}
    ),
    "responses: streaming": Example(RESPONSES, {"instructions": "Be helpful.", "input": "Hello!", "stream": True}),
    "responses: functions": Example(RESPONSES, {"input": BOSTON["content"], "tools": [TOOL], "tool_choice": "auto"}),
    "responses: a function's result": Example(
        RESPONSES,
        {
            "input": [
                BOSTON,
                {
                    "type": "function_call",
                    "id": "fc_12345xyz",
                    "call_id": "call_12345xyz",
                    "name": "get_current_weather",
                    "arguments": '{"location":"Boston, MA"}',
                },
                {"type": "function_call_output", "call_id": "call_12345xyz", "output": "22 degrees"},
            ],
            "tools": [{**TOOL, "strict": False}],
            "store": False,
        },
    ),
    "responses: structured output": Example(
        RESPONSES,
        {
            "input": [DEVELOPER, {"role": "user", "content": "how can I solve 8x + 7 = -23"}],
            "text": {"format": {"type": "json_schema", "name": "math_reasoning", "schema": STEPS, "strict": True}},
        },
    ),
    "responses: a custom tool": Example(
        RESPONSES,
        {
            "input": "Use the code_exec tool to print hello.",
            "tools": [{"type": "custom", "name": "code_exec", "description": "Executes Python code."}],
        },
    ),
    "responses: image": Example(
        RESPONSES, {"input": picture("input_image", PICTURE)}, refused=("input.0.content.1", "'input_image'")
    ),
    "responses: file": Example(
        RESPONSES,
        {"input": [{"role": "user", "content": [{"type": "input_file", "file_url": "https://example.com/a.pdf"}]}]},
        refused=("input.0.content.0", "'input_file'"),
    ),
    "responses: web search": Example(
        RESPONSES,
        {"input": "What was a positive news story from today?", "tools": [{"type": "web_search_preview"}]},
        ignored=("tools.0 (web_search_preview)",),
    ),
    "responses: file search": Example(
        RESPONSES,
        {
            "input": "What are the attributes of an ancient brown dragon?",
            "tools": [{"type": "file_search", "vector_store_ids": ["vs_1234567890"], "max_num_results": 20}],
        },
        ignored=("tools.0 (file_search)",),
    ),
    "responses: a stored prompt": Example(
        RESPONSES,
        {"input": "hi", "prompt": {"id": "pmpt_abc123", "variables": {"city": "Boston"}}},
        refused=("prompt", "not kept here"),
    ),
    "responses: reasoning": Example(
        RESPONSES,
        {
            "input": "How much wood would a woodchuck chuck?",
            "reasoning": {"effort": "high", "summary": "auto"},
            "include": ["reasoning.encrypted_content"],
            "truncation": "auto",
            "metadata": {"topic": "demo"},
        },
    ),
    "embeddings": Example(
        EMBEDDINGS, {"input": "The food was delicious and the waiter...", "encoding_format": "float"}
    ),
    "embeddings: several, shorter": Example(
        EMBEDDINGS, {"input": ["one", "two"], "dimensions": 32, "encoding_format": "base64", "user": "u"}
    ),
}


async def send(start: Start, example: Example, **fields: Any) -> tuple[Quern, httpx2.Response]:
    """The answer, and the application that gave it; for vectors, one that makes them."""
    vectors = {"embedding_length": 64} if example.path == EMBEDDINGS else {}
    async with start(**vectors) as quern:
        body = {"model": "fake", **example.body, **fields}
        return quern, await quern.client.post(example.path, json=body)


@pytest.mark.parametrize("name", EXAMPLES)
async def test_an_example_is_served_or_refused_as_documented(start: Start, name: str) -> None:
    example = EXAMPLES[name]
    _, answer = await send(start, example)
    if example.refused is not None:
        assert answer.status_code == 400, answer.text
        error = answer.json()["error"]
        assert error["param"] == example.refused[0]
        assert example.refused[1] in error["message"]
        assert error["type"] == "invalid_request_error"
        return
    assert answer.status_code == 200, answer.text
    named = answer.headers.get("x-quern-ignored", "").split(", ")
    assert {one for one in named if one} == {*example.ignored, *example.fields("left out")}
    assert not example.fields("refused")


SHAPES = {
    CHAT: ("chat.completion", {"id", "object", "created", "model", "choices", "usage"}),
    COMPLETIONS: ("text_completion", {"id", "object", "created", "model", "choices", "usage"}),
    RESPONSES: ("response", {"id", "object", "created_at", "status", "model", "output", "usage"}),
    EMBEDDINGS: ("list", {"object", "data", "model", "usage"}),
}


@pytest.mark.parametrize("name", [name for name, one in EXAMPLES.items() if not (one.refused or "stream" in one.body)])
async def test_a_whole_answer_has_the_documented_members(start: Start, name: str) -> None:
    _, answer = await send(start, EXAMPLES[name])
    object_, members = SHAPES[EXAMPLES[name].path]
    body = answer.json()
    assert body["object"] == object_
    assert members <= body.keys()
    assert body["model"] == "fake"


@pytest.mark.parametrize("name", [name for name, one in EXAMPLES.items() if not one.refused and one.path != EMBEDDINGS])
async def test_every_example_can_be_streamed(start: Start, name: str) -> None:
    example = EXAMPLES[name]
    _, answer = await send(start, example, stream=True)
    assert answer.status_code == 200, answer.text
    events = events_of(answer)
    if example.path == RESPONSES:
        assert events[0]["type"] == "response.created"
        assert events[-1]["type"] in {"response.completed", "response.incomplete"}
        assert [event["sequence_number"] for event in events] == list(range(len(events)))
    else:
        assert answer.text.endswith("data: [DONE]\n\n")
        assert {choice["index"] for event in events for choice in event["choices"]} >= {0}
        assert any(choice["finish_reason"] for event in events for choice in event["choices"])


@pytest.mark.parametrize("name", [name for name in EXAMPLES if "structured output" in name])
async def test_structured_output_is_kept_to_the_schema_of_the_example(start: Start, name: str) -> None:
    quern, _ = await send(start, EXAMPLES[name])
    grammar = quern.engine.requests[-1].grammar
    assert isinstance(grammar, JsonGrammar)
    assert json.loads(grammar.schema) == STEPS


@pytest.mark.parametrize("name", ["chat: a demanded function", "chat: the older functions", "chat: a custom tool"])
async def test_a_demanded_tool_is_all_that_the_sampler_allows(start: Start, name: str) -> None:
    quern, _ = await send(start, EXAMPLES[name])
    assert isinstance(quern.engine.requests[-1].grammar, JsonGrammar | LarkGrammar)


@pytest.mark.parametrize("name", ["chat: functions", "responses: functions"])
async def test_the_call_of_the_example_comes_as_documented(start: Start, name: str) -> None:
    example = EXAMPLES[name]
    arguments = {"location": "Boston, MA"}
    said = f"<tool_call>\n{json.dumps({'name': 'get_current_weather', 'arguments': arguments})}\n</tool_call>"
    async with start(saying(said)) as quern:
        body = (await quern.client.post(example.path, json=example.body)).json()
    if example.path == CHAT:
        (choice,) = body["choices"]
        assert choice["finish_reason"] == "tool_calls"
        assert choice["message"]["content"] is None
        (call,) = choice["message"]["tool_calls"]
        function, identity = call["function"], call["id"]
        assert call["type"] == "function"
    else:
        (function,) = body["output"]
        assert (function["type"], function["status"]) == ("function_call", "completed")
        identity = function["call_id"]
    assert function["name"] == "get_current_weather"
    assert json.loads(function["arguments"]) == arguments
    assert identity.startswith("call_")


async def test_probabilities_come_with_the_likeliest_tokens_of_the_example(start: Start) -> None:
    _, answer = await send(start, EXAMPLES["chat: probabilities"])
    tokens = answer.json()["choices"][0]["logprobs"]["content"]
    assert tokens
    for token in tokens:
        assert token.keys() == {"token", "logprob", "bytes", "top_logprobs"}
        assert len(token["top_logprobs"]) == 2
