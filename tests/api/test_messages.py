"""The Messages API: what reaches the model, whole answers, and counts."""

from __future__ import annotations

import re
from typing import Any

import pytest

from quern.api.anthropic.answer import stop_members
from quern.events import TurnEnded
from quern.grammar.kinds import JsonGrammar
from quern.types import FinishReason, TurnState

from .conftest import Quern, Start
from .engines import saying
from .messages import CALL, CALLED, NEWS, USER, WEATHER, count, message, prompt_text, user


async def test_an_answer_in_one_piece_has_the_documented_shape(start: Start) -> None:
    async with start(saying("你好!")) as quern:
        response = await message(quern)
    body = response.json()
    assert response.status_code == 200
    assert re.fullmatch("msg_[0-9a-f]{32}", body.pop("id"))
    assert body == {
        "type": "message",
        "role": "assistant",
        "model": "fake",
        "content": [{"type": "text", "text": "你好!"}],
        "stop_reason": "end_turn",
        "stop_sequence": None,
        "usage": {
            "input_tokens": 21,
            "cache_creation_input_tokens": 0,
            "cache_read_input_tokens": 0,
            "output_tokens": 7,
        },
    }


async def test_the_request_id_is_where_anthropics_clients_look_for_it(quern: Quern) -> None:
    answered = await message(quern)
    refused = await message(quern, max_tokens=-1)
    elsewhere = await quern.client.get("/v1/models")
    assert answered.headers["request-id"] == answered.headers["x-request-id"]
    assert refused.headers["request-id"] == refused.headers["x-request-id"] != answered.headers["request-id"]
    assert "request-id" not in elsewhere.headers


async def test_cached_prompt_tokens_are_counted_apart(quern: Quern) -> None:
    await message(quern)
    usage = (await message(quern)).json()["usage"]
    assert usage["cache_read_input_tokens"] > 0
    assert usage["input_tokens"] + usage["cache_read_input_tokens"] == await count(quern)


async def test_every_role_and_block_reaches_the_template_in_order(quern: Quern) -> None:
    messages = [
        user({"type": "text", "text": "one", "cache_control": {"type": "ephemeral"}}, {"type": "text", "text": "two"}),
        {"role": "system", "content": "Mind the time.", "output_config": {"effort": "low"}},
        {
            "role": "assistant",
            "content": [
                {"type": "thinking", "thinking": "secret", "signature": "abc"},
                {"type": "redacted_thinking", "data": "secret"},
                {"type": "text", "text": "Let me see.", "citations": None},
                CALLED,
            ],
        },
        user(
            {"type": "tool_result", "tool_use_id": "c1", "content": [{"type": "text", "text": "sunny"}]},
            {"type": "tool_result", "tool_use_id": "c2", "content": "no such city", "is_error": True},
            {"type": "tool_result", "tool_use_id": "c3"},
            {"type": "text", "text": "and?"},
        ),
    ]
    system = [{"type": "text", "text": "Be brief."}, {"type": "text", "text": "Be kind."}]
    assert (await message(quern, messages=messages, system=system)).status_code == 200
    assert prompt_text(quern) == (
        "system\nBe brief.\nBe kind.\nuser\none\ntwo\nsystem\nMind the time.\nassistant\nLet me see.\n"
        '<tool_call>\n{"name": "weather", "arguments": {"city": "Paris"}}\n</tool_call>\n'
        "tool\nsunny\ntool\nError: no such city\ntool\n\nuser\nand?\nassistant\n"
    )


async def test_a_header_among_claude_codes_system_texts_is_not_shown_to_the_model(quern: Quern) -> None:
    header = {"type": "text", "text": "x-anthropic-billing-header: cc_version=2.1; cch=1f3a;"}
    await message(quern, system=[header, {"type": "text", "text": "Be brief."}])
    assert prompt_text(quern).startswith("system\nBe brief.\nuser\n")


async def test_a_system_message_can_be_shown_up_to_the_next_user_message_only(quern: Quern) -> None:
    note = {"role": "system", "content": "Only now.", "clear_at": "next_user_message"}
    await message(quern, messages=[*USER, note])
    assert "Only now." in prompt_text(quern)
    await message(quern, messages=[*USER, note, {"role": "assistant", "content": "ok"}, *USER])
    assert "Only now." not in prompt_text(quern)


async def test_sampling_values_and_stops_reach_the_engine_over_the_servers_defaults(quern: Quern) -> None:
    response = await message(
        quern, max_tokens=7, temperature=1, top_p=0.5, top_k=3, stop_sequences=["END"], tool_choice={"type": "auto"}
    )
    assert response.status_code == 200
    sampling = quern.engine.requests[0].sampling
    assert (sampling.max_tokens, sampling.temperature, sampling.top_p, sampling.top_k) == (7, 1, 0.5, 3)
    await message(quern)
    defaults, settings = quern.engine.requests[1].sampling, quern.settings.generation.sampling()
    assert (defaults.temperature, defaults.repetition_penalty) == (settings.temperature, settings.repetition_penalty)


async def test_fields_that_change_nothing_here_are_accepted(quern: Quern) -> None:
    response = await message(
        quern,
        betas=["context-management-2025-06-27"],
        cache_control={"type": "ephemeral"},
        context_management={"edits": [{"type": "clear_thinking_20251015", "keep": "all"}]},
        diagnostics={"previous_message_id": None},
        inference_geo="eu",
        metadata={"user_id": "somebody"},
        output_config={"effort": "high", "task_budget": {"type": "tokens", "total": 20000}},
        service_tier="auto",
        speed="fast",
        thinking={"type": "adaptive", "display": "omitted"},
    )
    assert response.status_code == 200, response.text


SERVED: list[dict[str, Any]] = [
    {"system": None},
    {"system": ""},
    {"system": []},
    {"system": [{"type": "text", "text": ""}]},
    {"tools": None},
    {"tools": []},
    {"tool_choice": None},
    {"tool_choice": {"type": "none"}},
    {"tool_choice": {"type": "auto"}},
    {"tools": [], "tool_choice": {"type": "none"}},
    {"stop_sequences": None},
    {"stop_sequences": []},
    {"stream": None},
    {"metadata": None},
    {"metadata": {"user_id": None}},
    {"temperature": None, "top_p": None, "top_k": None},
    {"top_k": 0},
    {"top_k": -1},
    {"max_tokens": 2**70},
    {"thinking": {"type": "enabled", "budget_tokens": 1024}},
    {"thinking": {"type": "disabled"}},
    {"thinking": None},
    {"output_config": None},
    {"output_config": {}},
    {"output_config": {"format": None, "effort": None}},
    {"output_format": None},
    {"context_management": {}},
    {"context_management": {"edits": []}},
    {"context_management": {"edits": None}},
    {"container": None, "mcp_servers": None, "thread": None, "compaction": None, "seed": None},
    {"service_tier": "standard_only", "inference_geo": None, "speed": None, "betas": None},
]


@pytest.mark.parametrize("body", SERVED, ids=str)
async def test_what_says_nothing_is_as_good_as_left_out(quern: Quern, body: dict[str, Any]) -> None:
    response = await message(quern, **body)
    assert response.status_code == 200, response.text
    assert "x-quern-ignored" not in response.headers
    assert prompt_text(quern) == "user\nhi\nassistant\n"


async def test_top_k_of_minus_one_is_off(quern: Quern) -> None:
    await message(quern, top_k=-1)
    assert quern.engine.requests[0].sampling.top_k == 0


@pytest.mark.parametrize("stream", [False, True])
async def test_with_no_tokens_a_prompt_is_read_into_the_cache_and_nothing_is_said(start: Start, stream: bool) -> None:
    asked: dict[str, Any] = {"system": "Be brief. " * 20, "tools": [WEATHER]}
    async with start(saying(CALL)) as quern:
        warmed = await message(quern, **asked, max_tokens=0, stream=stream)
        usage = (await message(quern, **asked)).json()["usage"]
    assert warmed.status_code == 200, warmed.text
    assert usage["cache_read_input_tokens"] > 0
    if stream:
        assert "content_block" not in warmed.text
        assert '"stop_reason":"max_tokens"' in warmed.text
    else:
        body = warmed.json()
        assert (body["content"], body["stop_reason"], body["usage"]["output_tokens"]) == ([], "max_tokens", 0)


async def test_with_no_tokens_no_conversation_goes_on(quern: Quern) -> None:
    headers = {"X-Quern-Conversation": await quern.begin()}
    response = await quern.client.post("/v1/messages", json={"messages": USER, "max_tokens": 0}, headers=headers)
    assert response.status_code == 400
    assert "max_tokens" in response.json()["error"]["message"]


async def test_a_conversation_goes_on_after_an_answers_beginning(start: Start) -> None:
    async with start(saying("fine")) as quern:
        headers = {"X-Quern-Conversation": await quern.begin("first prompt")}
        messages = [*USER, {"role": "assistant", "content": [{"type": "text", "text": "All is "}]}]
        asked = {"max_tokens": 100, "messages": messages}
        body = (await quern.client.post("/v1/messages", json=asked, headers=headers)).json()
        assert prompt_text(quern).endswith("user\nhi\nassistant\nAll is ")
        stored = (await quern.client.get(f"/v1/conversations/{headers['X-Quern-Conversation']}")).json()
    assert body["content"] == [{"type": "text", "text": "fine"}], "the beginning is not told again"
    assert [said["content"] for said in stored["messages"]] == ["first prompt", "fine", "hi", "All is fine"]


async def test_an_empty_answer_has_no_blocks(start: Start) -> None:
    async with start(saying("")) as quern:
        body = (await message(quern)).json()
    assert (body["content"], body["stop_reason"]) == ([], "end_turn")


async def test_a_stop_sequence_is_named_and_not_part_of_the_answer(start: Start) -> None:
    async with start(saying("one END two")) as quern:
        body = (await message(quern, stop_sequences=["two", "END"])).json()
    assert (body["stop_reason"], body["stop_sequence"]) == ("stop_sequence", "END")
    assert body["content"] == [{"type": "text", "text": "one "}]


async def test_an_answer_cut_by_max_tokens_says_so(start: Start) -> None:
    async with start(saying("x" * 50)) as quern:
        body = (await message(quern, max_tokens=10)).json()
    assert (body["stop_reason"], body["usage"]["output_tokens"]) == ("max_tokens", 10)


async def test_max_tokens_is_an_upper_bound_and_a_full_context_says_so(start: Start) -> None:
    async with start(saying("x" * 1000, context_length=500)) as quern:
        body = (await message(quern, max_tokens=32000)).json()
        prompt_tokens = await count(quern)
    assert body["stop_reason"] == "model_context_window_exceeded"
    assert body["usage"]["output_tokens"] == 500 - prompt_tokens


async def test_calls_are_blocks_with_their_input_as_objects(start: Start) -> None:
    async with start(saying(f"Let me look.\n{CALL}\n{CALL}")) as quern:
        body = (await message(quern, tools=[WEATHER])).json()
    text, first, second = body["content"]
    assert body["stop_reason"] == "tool_use"
    assert text == {"type": "text", "text": "Let me look."}
    assert first["id"] != second["id"]
    for block in (first, second):
        assert {**block, "id": ""} == {"type": "tool_use", "id": "", "name": "weather", "input": {"city": "北京"}}


async def test_without_parallel_tool_use_the_answer_ends_after_its_first_call(start: Start) -> None:
    async with start(saying(f"{CALL}\n{CALL}")) as quern:
        choice = {"type": "auto", "disable_parallel_tool_use": True}
        body = (await message(quern, tools=[WEATHER], tool_choice=choice)).json()
    assert [block["type"] for block in body["content"]] == ["tool_use"]


@pytest.mark.parametrize("choice", [{"type": "any"}, {"type": "tool", "name": "weather"}])
async def test_a_demanded_call_is_held_to_a_grammar(start: Start, choice: dict[str, str]) -> None:
    async with start(saying(CALL.removeprefix("<tool_call>\n"))) as quern:
        body = (await message(quern, tools=[WEATHER], tool_choice=choice)).json()
        assert quern.engine.requests[0].grammar is not None
    assert [block["type"] for block in body["content"]] == ["tool_use"]


async def test_with_the_choice_none_no_tool_is_shown(quern: Quern) -> None:
    await message(quern, tools=[WEATHER], tool_choice={"type": "none"})
    assert "weather" not in prompt_text(quern)


async def test_a_deferred_tool_is_shown_once_a_result_refers_to_it(quern: Quern) -> None:
    await message(quern, tools=[WEATHER, NEWS])
    assert '"weather"' in prompt_text(quern)
    assert '"news"' not in prompt_text(quern)
    found = {"type": "tool_result", "tool_use_id": "c1", "content": [{"type": "tool_reference", "tool_name": "news"}]}
    await message(
        quern, tools=[WEATHER, NEWS], messages=[*USER, {"role": "assistant", "content": [CALLED]}, user(found)]
    )
    assert '"name": "news"' in prompt_text(quern)
    assert "The tool news can be called now." in prompt_text(quern)


async def test_system_messages_add_tools_and_take_them_away(quern: Quern) -> None:
    def change(kind: str, **tool: Any) -> dict[str, Any]:
        return {"role": "system", "content": [{"type": kind, "tool": tool}]}

    by_name = change("tool_addition", type="tool_reference", name="news")
    by_definition = change("tool_addition", type="tool_definition", definition={**WEATHER, "description": "Anew."})
    removal = change("tool_removal", type="tool_reference", name="weather")
    await message(quern, tools=[WEATHER, NEWS], messages=[*USER, by_name, removal])
    assert ('"name": "news"' in prompt_text(quern), '"weather"' in prompt_text(quern)) == (True, False)
    await message(quern, tools=[WEATHER], messages=[*USER, removal, by_definition])
    assert prompt_text(quern).count('"name": "weather"') == 1
    assert "Anew." in prompt_text(quern)


async def test_a_format_is_a_grammar(quern: Quern) -> None:
    schema = {"type": "object", "properties": {"n": {"type": "integer"}}}
    form = {"type": "json_schema", "schema": schema}
    for asked in ({"output_config": {"format": form}}, {"output_format": form}):
        await message(quern, **asked)
        grammar = quern.engine.requests[-1].grammar
        assert isinstance(grammar, JsonGrammar)
        assert '"integer"' in grammar.schema


async def test_count_tokens_is_what_the_message_will_use(quern: Quern) -> None:
    asked: dict[str, Any] = {"system": "Be brief.", "tools": [WEATHER], "tool_choice": {"type": "auto"}}
    counted = await count(quern, **asked)
    assert counted > await count(quern)
    assert (await message(quern, **asked)).json()["usage"]["input_tokens"] == counted


async def test_messages_are_appended_to_the_conversation_that_the_header_names(start: Start) -> None:
    async with start(saying("fine")) as quern:
        conversation_id = await quern.begin("first prompt")
        asked = {"model": "fake", "max_tokens": 100, "messages": [{"role": "user", "content": "second prompt"}]}
        headers = {"X-Quern-Conversation": conversation_id}
        assert (await quern.client.post("/v1/messages", json=asked, headers=headers)).status_code == 200
        assert "first prompt" in prompt_text(quern)
        stored = (await quern.client.get(f"/v1/conversations/{conversation_id}")).json()
        unknown = await quern.client.post("/v1/messages", json=asked, headers={"X-Quern-Conversation": "nobody"})
    assert [said["content"] for said in stored["messages"]] == ["first prompt", "fine", "second prompt", "fine"]
    assert (unknown.status_code, unknown.json()["error"]["type"]) == (404, "not_found_error")


@pytest.mark.parametrize(
    ("reason", "stop", "fitted", "told"),
    [
        (FinishReason.STOP, None, True, "end_turn"),
        (FinishReason.STOP, "END", False, "stop_sequence"),
        (FinishReason.LENGTH, None, False, "max_tokens"),
        (FinishReason.LENGTH, None, True, "model_context_window_exceeded"),
        (FinishReason.TOOL_CALLS, "END", False, "tool_use"),
    ],
)
def test_a_stop_reason_tells_why(reason: FinishReason, stop: str | None, fitted: bool, told: str) -> None:
    end = TurnEnded(TurnState.COMPLETED, reason, stop=stop)
    expected = {"stop_reason": told, "stop_sequence": stop if told == "stop_sequence" else None}
    assert stop_members(end, fitted=fitted) == expected
