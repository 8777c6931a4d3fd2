"""What response requests are refused for: every refusal names its field, and nothing reaches the engine."""

from __future__ import annotations

from typing import Any

import pytest

from .conftest import Quern, Start
from .engines import saying
from .openai_clients import WEATHER, error_of, respond, responded

UNKNOWN = "resp_5a1f6ed01c0e4a529a8b6f2d1f0c7e11"
WEB = {"type": "web_search"}


def custom(grammar: dict[str, str]) -> dict[str, Any]:
    return {"type": "custom", "name": "write", "format": {"type": "grammar", **grammar}}


@pytest.mark.parametrize(
    ("body", "param", "sentence"),
    [
        ({"input": None}, "input", "There is nothing to answer. Send a text or items as the input."),
        ({"input": []}, "input", "There is nothing to answer. Send a text or items as the input."),
        ({"input": [{"type": "reasoning"}]}, "input", "There is nothing to answer"),
        ({"input": "\x00"}, "input", "contains a NUL character"),
        ({"input": 1}, "input", "The field input can't be used"),
        ({"input": [{"type": "computer_call"}]}, "input", "There is nothing to answer"),
        ({"input": [{"type": ["message"]}, {}, None, 5, {"type": "item_reference"}]}, "input", "nothing to answer"),
        (
            {"input": [{"role": "user", "content": [{"type": "input_image", "image_url": "x"}]}]},
            "input.0.content.0",
            "the model reads text only",
        ),
        ({"tools": ["web_search"]}, "tools.0", "The field tools.0 can't be used"),
        ({"tools": [WEB], "tool_choice": "required"}, "tool_choice", "there are no tools"),
        ({"tools": [WEB, WEATHER], "tool_choice": WEB}, "tool_choice", "type 'web_search' can't be demanded"),
        ({"tools": [WEATHER], "tool_choice": {"type": "custom", "name": "x"}}, "tool_choice", "not among the tools"),
        ({"tools": [WEATHER], "tool_choice": {"type": "apply_patch"}}, "tool_choice", "not among the tools"),
        ({"tools": [{"type": "custom"}]}, "tools.0.name", "is missing"),
        (
            {"tools": [{"type": "custom", "name": "x", "format": {"type": "grammar", "syntax": "ebnf"}}]},
            "tools.0.format.syntax",
            "'lark' or 'regex'",
        ),
        (
            {"tools": [custom({"syntax": "regex", "definition": "a(?=b)"})]},
            "tools",
            "neither ahead nor behind. It is the grammar of the tool 'write'",
        ),
        ({"tools": [custom({"syntax": "lark", "definition": "start: @x"})]}, "tools", "line 1 can't be read"),
        ({"tools": [{"type": "function"}]}, "tools.0.name", "The field tools.0.name is missing. Send it."),
        (
            {"tools": [WEATHER, {**WEATHER, "description": "Another one."}]},
            "tools",
            "Two tools have the name 'weather'",
        ),
        ({"tool_choice": "required"}, "tool_choice", "there are no tools"),
        ({"tool_choice": "sometimes"}, "tool_choice", "It must be 'auto', 'none', 'required'"),
        ({"tool_choice": {"type": "allowed_tools"}}, "tool_choice", "It must be 'auto'"),
        (
            {"tools": [WEATHER], "tool_choice": {"type": "allowed_tools", "mode": "required", "tools": [WEB]}},
            "tool_choice",
            "there are no tools",
        ),
        ({"tool_choice": {"type": "function"}}, "tool_choice", "It must be 'auto'"),
        ({"tool_choice": {"type": ["x"], "name": 1}}, "tool_choice", "It must be 'auto'"),
        ({"tool_choice": {"type": "function", "name": "x"}}, "tool_choice", "it is not among the tools"),
        ({"truncation": {}}, "truncation", "'disabled'"),
        ({"truncation": "middle"}, "truncation", "'auto' or 'disabled'"),
        ({"top_logprobs": 21}, "top_logprobs", "less than or equal to 20"),
        ({"include": ["x", 5]}, "include.1", "a valid string"),
        ({"text": {"format": {"type": "grammar"}}}, "text.format.type", "'json_schema'"),
        ({"text": {"format": {"type": "json_schema", "name": "x"}}}, "text.format.schema", "is missing"),
        ({"text": {"verbosity": "shouting"}}, "text.verbosity", "'high'"),
        ({"metadata": {"a": "x" * 513}}, "metadata.a", "512"),
        ({"metadata": {str(n): "x" for n in range(17)}}, "metadata", "16"),
        ({"max_output_tokens": 0}, "max_output_tokens", "greater than or equal to 1"),
        ({"temperature": 3}, "temperature", "less than or equal to 2"),
        ({"background": True, "store": False}, "background", "has to be stored"),
        (
            {"previous_response_id": UNKNOWN, "conversation": "x"},
            "previous_response_id",
            "Send conversation or previous_response_id, not both.",
        ),
        ({"conversation": {"name": "x"}}, "conversation.id", "is missing"),
        ({"prompt": {"id": "pmpt_1"}}, "prompt", "Prompts are not kept here"),
    ],
)
async def test_what_cannot_be_used_is_refused_by_name(
    quern: Quern, body: dict[str, Any], param: str, sentence: str
) -> None:
    refused = error_of(await respond(quern, **body), 400)
    assert refused[0] == param
    assert sentence in refused[1]
    assert not quern.engine.requests


@pytest.mark.parametrize(
    ("body", "ignored"),
    [
        ({"max_tokens": 5, "guess": {"deep": [1]}}, "max_tokens, guess"),
        ({"guess": None}, None),
        ({"input": [{"role": "user", "content": "x", "to": "y"}]}, "input.0.to"),
        (
            {"input": [{"role": "user", "content": [{"type": "input_text", "text": "x", "y": 1}]}]},
            "input.0.content.0.y",
        ),
        (
            {"input": [{"type": "web_search_call", "id": "ws_1"}, {"role": "user", "content": "x"}]},
            "input.0 (web_search_call)",
        ),
        ({"tools": [WEB, WEATHER, {"type": "mcp", "server_label": "x"}]}, "tools.0 (web_search), tools.2 (mcp)"),
        ({"tools": [{"type": "shell", "environment": {"type": "container_auto"}}]}, "tools.0 (shell)"),
        ({"tools": [{"type": "namespace", "name": "n", "tools": [WEB]}]}, "tools.0.tools.0 (web_search)"),
        ({"tools": [{**WEATHER, "flavour": "sweet", "defer_loading": True}]}, "tools.0.flavour"),
        ({"include": ["everything", "reasoning.encrypted_content"]}, "include.0 (everything)"),
        ({"stream_options": {"include_usage": True, "include_all": True}}, "stream_options.include_all"),
        (
            {
                "access_programs": {},
                "client_metadata": {"x": "y"},
                "context_management": [{"type": "compaction"}],
                "moderation": {"model": "x"},
                "parallel_tool_calls": None,
                "tools": [],
                "tool_choice": None,
                "truncation": "auto",
            },
            None,
        ),
    ],
)
async def test_what_is_not_known_or_not_served_is_left_out_and_named(
    start: Start, body: dict[str, Any], ignored: str | None
) -> None:
    async with start(saying("answer")) as quern:
        answer = await respond(quern, **body)
        assert answer.status_code == 200, answer.text
        assert answer.headers.get("x-quern-ignored") == ignored


async def test_what_is_not_known_can_be_refused_by_a_setting(start: Start) -> None:
    async with start(saying("answer"), server={"unknown_fields": "refuse"}) as quern:
        assert error_of(await respond(quern, guess=1), 400)[0] == "guess"
        assert error_of(await respond(quern, tools=[WEB]), 400)[0] == "tools.0 (web_search)"


async def test_what_does_not_fit_is_refused_with_the_counts(start: Start) -> None:
    async with start(saying("x", context_length=600)) as quern:
        answer = await respond(quern, input="x" * 600, max_output_tokens=10)
        assert answer.json()["error"]["code"] == "context_length_exceeded"
        assert "Nothing was truncated" in error_of(answer, 400)[1]


async def test_an_unknown_conversation_or_model_is_a_404(quern: Quern) -> None:
    assert "There is no such conversation" in error_of(await respond(quern, conversation="nothing"), 404)[1]
    assert "is not served here" in error_of(await respond(quern, model="gpt-6"), 404)[1]


async def test_starting_after_is_for_streams(start: Start) -> None:
    async with start(saying("answer")) as quern:
        body = await responded(quern)
        answer = await quern.client.get(f"/v1/responses/{body['id']}", params={"starting_after": 1})
        assert error_of(answer, 400)[0] == "starting_after"


@pytest.mark.parametrize("name", ["include", "include[]"])
async def test_the_query_may_include_what_is_never_there(start: Start, name: str) -> None:
    async with start(saying("answer")) as quern:
        body = await responded(quern)
        path = f"/v1/responses/{body['id']}"
        same = await quern.client.get(path, params={name: ["reasoning.encrypted_content"]})
        assert same.json() == body
        unknown = await quern.client.get(path, params={name: ["message.output_text.logprobs", "everything"]})
        assert unknown.json() == body


async def test_a_response_that_ended_without_a_background_has_no_events_any_more(start: Start) -> None:
    async with start(saying("answer")) as quern:
        body = await responded(quern)
        answer = await quern.client.get(f"/v1/responses/{body['id']}", params={"stream": "true"})
        param, message = error_of(answer, 400)
        assert (param, "background=true" in message) == ("stream", True)


@pytest.mark.parametrize("response_id", [UNKNOWN, UNKNOWN.upper(), UNKNOWN[:-1], UNKNOWN + "0", "resp_", "x", "１"])
async def test_an_id_that_is_none_is_a_404(quern: Quern, response_id: str) -> None:
    answer = await quern.client.get(f"/v1/responses/{response_id}")
    assert error_of(answer, 404)[0] is None
    error_of(await respond(quern, previous_response_id=response_id), 404)
    assert not quern.engine.requests


async def test_what_is_not_stored_is_not_found(start: Start) -> None:
    async with start(saying("answer")) as quern:
        body = await responded(quern, store=False)
        assert body["store"] is False
        for method, path in (("GET", ""), ("DELETE", ""), ("POST", "/cancel"), ("GET", "/input_items")):
            answer = await quern.client.request(method, f"/v1/responses/{body['id']}{path}")
            assert "store=false" in error_of(answer, 404)[1]


async def test_a_chain_with_a_hole_is_refused(start: Start) -> None:
    async with start(saying("answer")) as quern:
        first = await responded(quern)
        second = await responded(quern, previous_response_id=first["id"])
        await quern.client.delete(f"/v1/responses/{first['id']}")
        _, message = error_of(await respond(quern, previous_response_id=first["id"]), 404)
        assert "There is no such response" in message
        _, message = error_of(await respond(quern, previous_response_id=second["id"]), 404)
        assert "was deleted" in message
