"""Tools of Responses that are no functions: custom ones, groups, and OpenAI's own that the client runs."""

from __future__ import annotations

import json
from typing import Any

import pytest

from quern.grammar.kinds import JsonGrammar, LarkGrammar

from .conftest import Quern, Start
from .engines import saying
from .openai_clients import WEATHER, error_of, events_of, official, prompt_text, respond, responded

PATCH = '*** Begin Patch\n*** Delete File: "ä" \\ 😀\n*** End Patch\n'
FREE: dict[str, Any] = {"type": "custom", "name": "apply", "description": "Applies a patch."}
LARK = {"type": "grammar", "syntax": "lark", "definition": "start: /(.+)/ LF\n%import common.LF\n"}
KEPT: dict[str, Any] = {**FREE, "format": LARK}
GROUP: dict[str, Any] = {
    "type": "namespace",
    "name": "agents",
    "description": "Other agents.",
    "tools": [{"type": "function", "name": "spawn", "parameters": WEATHER["parameters"]}, {**FREE, "name": "tell"}],
}


def calling(name: str, arguments: Any) -> str:
    return f"<tool_call>\n{json.dumps({'name': name, 'arguments': arguments}, ensure_ascii=False)}\n</tool_call>"


async def output_of(quern: Quern, **body: Any) -> list[dict[str, Any]]:
    """The only response's items, without ids, which are the same streamed and not."""
    items = (await responded(quern, **body))["output"]
    events = events_of(await respond(quern, **body, stream=True))
    streamed = [event["item"] for event in events if event["type"] == "response.output_item.done"]
    assert [_bare(item) for item in streamed] == [_bare(item) for item in items]
    return items


def _bare(item: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in item.items() if name not in {"id", "call_id"}}


INPUTS: list[tuple[dict[str, Any], str]] = [
    ({"input": PATCH}, PATCH),
    ({"input": ""}, ""),
    ({"patch": PATCH}, PATCH),
    ({"input": ["a", 1]}, '["a", 1]'),
    ({}, ""),
    ({"a": 1, "b": "x"}, '{"a": 1, "b": "x"}'),
    ({"note": "x", "input": PATCH}, PATCH),
]
"""Arguments as a model writes them for a custom tool, and the text that they are."""


@pytest.mark.parametrize(("arguments", "text"), INPUTS)
async def test_a_custom_call_tells_its_text(start: Start, arguments: Any, text: str) -> None:
    async with start(saying(calling("apply", arguments))) as quern:
        (item,) = await output_of(quern, tools=[FREE])
        assert item["id"].startswith("ctc_")
        assert item["call_id"].startswith("call_")
        assert _bare(item) == {"type": "custom_tool_call", "status": "completed", "name": "apply", "input": text}


@pytest.mark.parametrize("arguments", [{"input": PATCH}, {"patch": PATCH}, {"a": 1, "b": "x"}])
async def test_its_text_is_streamed_as_it_is_written(start: Start, arguments: Any) -> None:
    async with start(saying(calling("apply", arguments))) as quern:
        events = events_of(await respond(quern, tools=[FREE], stream=True))
        kinds = [event["type"] for event in events]
        deltas = [event["delta"] for event in events if event["type"] == "response.custom_tool_call_input.delta"]
        done = next(event for event in events if event["type"] == "response.custom_tool_call_input.done")
        assert "".join(deltas) == done["input"]
        assert len(deltas) > 10 or "input" not in arguments
        assert kinds.index("response.custom_tool_call_input.done") < kinds.index("response.output_item.done")
        added = next(event["item"] for event in events if event["type"] == "response.output_item.added")
        assert (added["type"], added["status"], added["input"]) == ("custom_tool_call", "in_progress", "")
        assert not any("function_call" in kind for kind in kinds)
        assert {event["item_id"] for event in events if "item_id" in event} == {added["id"]}


@pytest.mark.parametrize("cut", range(60, len(calling("apply", {"input": PATCH})) - 14, 7))
async def test_a_cut_custom_call_is_incomplete_with_its_text_so_far(start: Start, cut: int) -> None:
    said = calling("apply", {"input": PATCH})
    async with start(saying(said[:cut])) as quern:
        events = events_of(await respond(quern, tools=[FREE], stream=True))
        (item,) = events[-1]["response"]["output"]
        told = [event["delta"] for event in events if event["type"] == "response.custom_tool_call_input.delta"]
        assert (item["type"], item["status"]) == ("custom_tool_call", "incomplete")
        assert item["input"] == "".join(told)
        assert PATCH.startswith(item["input"])
        again = await respond(quern, tools=[FREE], input=[{"role": "user", "content": "x"}, item])
        assert again.status_code == 200, again.text


async def test_the_official_client_reads_its_stream(start: Start) -> None:
    async with start(saying(calling("apply", {"input": PATCH})), live=True) as quern, official(quern) as client:
        tools: Any = [FREE]
        async with client.responses.stream(model="fake", input="hi", tools=tools) as stream:
            kinds = [event.type async for event in stream]
            final = await stream.get_final_response()
        assert "response.custom_tool_call_input.delta" in kinds
        (item,) = final.output
        assert item.type == "custom_tool_call"
        assert item.input == PATCH


@pytest.mark.parametrize("tool", [FREE, KEPT, WEATHER], ids=["custom", "grammar", "function"])
async def test_a_tool_in_the_shape_of_chat_completions_is_the_same_tool(start: Start, tool: dict[str, Any]) -> None:
    nested = {"type": tool["type"], tool["type"]: {name: it for name, it in tool.items() if name != "type"}}
    async with start(saying("x")) as quern:
        flat = await responded(quern, tools=[tool])
        assert (await responded(quern, tools=[nested]))["tools"] == flat["tools"]
        first, second = quern.engine.requests
        assert (first.prompt, first.grammar) == (second.prompt, second.grammar)


@pytest.mark.parametrize(
    ("choice", "meant"),
    [
        ("any", "required"),
        ({"type": "any"}, "required"),
        ({"type": "auto"}, "auto"),
        ({"type": "none"}, "none"),
        ({"type": "required"}, "required"),
        ({"type": "function", "function": {"name": "apply"}}, {"type": "function", "name": "apply"}),
    ],
)
async def test_a_choice_in_the_shape_of_another_api_means_the_same(start: Start, choice: Any, meant: Any) -> None:
    async with start(saying("x")) as quern:
        assert (await responded(quern, tools=[KEPT], tool_choice=choice))["tool_choice"] == meant


@pytest.mark.parametrize(
    "choice", [None, "auto", "required", {"type": "custom", "name": "apply"}, {"type": "function", "name": "apply"}]
)
async def test_a_grammar_is_kept_to_whether_a_call_is_demanded_or_not(start: Start, choice: Any) -> None:
    async with start(saying("x")) as quern:
        await responded(quern, tools=[KEPT, WEATHER], tool_choice=choice)
        grammar = quern.engine.requests[-1].grammar
        assert isinstance(grammar, LarkGrammar)
        assert "%lark" in grammar.lark
        await responded(quern, tools=[FREE, WEATHER])
        assert quern.engine.requests[-1].grammar is None
        await responded(quern, tools=[KEPT], tool_choice="none")
        assert quern.engine.requests[-1].grammar is None


async def test_the_model_is_shown_a_function_of_one_text_and_the_grammar(start: Start) -> None:
    async with start(saying("x")) as quern:
        await responded(quern, tools=[KEPT])
        prompt = prompt_text(quern)
        assert '"name": "apply"' in prompt
        assert '"required": ["input"]' in prompt
        assert "a Lark grammar" in prompt
        assert "%import common.LF" in prompt


async def test_the_response_tells_its_tools_and_choice(start: Start) -> None:
    async with start(saying("x")) as quern:
        choice = {"type": "custom", "name": "apply"}
        body = await responded(quern, tools=[KEPT, GROUP, {"type": "local_shell"}], tool_choice=choice)
        assert body["tool_choice"] == choice
        assert [tool["type"] for tool in body["tools"]] == ["custom", "namespace", "local_shell"]
        assert body["tools"][0] == KEPT
        assert [tool["name"] for tool in body["tools"][1]["tools"]] == ["spawn", "tell"]


async def test_a_group_is_functions_whose_names_say_the_group_and_calls_tell_it_apart(start: Start) -> None:
    said = calling("agents__spawn", {"city": "x"}) + calling("agents__tell", {"input": "y"})
    async with start(saying(said)) as quern:
        function, custom = await output_of(quern, tools=[GROUP])
        assert '"name": "agents__spawn"' in prompt_text(quern)
        assert function["type"] == "function_call"
        assert (function["namespace"], function["name"]) == ("agents", "spawn")
        assert (custom["type"], custom["namespace"], custom["name"]) == ("custom_tool_call", "agents", "tell")
        await responded(quern, input=[{"role": "user", "content": "x"}, function, custom])
        assert '{"name": "agents__spawn", "arguments": {"city": "x"}}' in prompt_text(quern)
        assert '{"name": "agents__tell", "arguments": {"input": "y"}}' in prompt_text(quern)


async def test_a_group_that_ends_with_underscores_keeps_its_name_as_it_is(start: Start) -> None:
    async with start(saying(calling("mcp__files__spawn", {"city": "x"}))) as quern:
        (item,) = await output_of(quern, tools=[{**GROUP, "name": "mcp__files__"}])
        assert (item["namespace"], item["name"]) == ("mcp__files__", "spawn")


@pytest.mark.parametrize("name", ["spawn", "agents__spawn"])
async def test_a_tool_of_a_group_can_be_demanded_by_either_name(start: Start, name: str) -> None:
    async with start(saying("{}")) as quern:
        await responded(quern, tools=[GROUP, WEATHER], tool_choice={"type": "function", "name": name})
        grammar = quern.engine.requests[-1].grammar
        assert isinstance(grammar, JsonGrammar)
        assert '"const": "agents__spawn"' in grammar.schema


@pytest.mark.parametrize(
    ("tool", "arguments", "call"),
    [
        (
            "local_shell",
            {"command": ["ls", "-l"], "timeout_ms": 10, "working_directory": "/x"},
            {
                "action": {
                    "type": "exec",
                    "command": ["ls", "-l"],
                    "env": {},
                    "timeout_ms": 10,
                    "working_directory": "/x",
                }
            },
        ),
        ("local_shell", {"command": "ls"}, {"action": {"type": "exec", "command": ["bash", "-lc", "ls"], "env": {}}}),
        ("shell", {"commands": ["ls", "pwd"]}, {"action": {"commands": ["ls", "pwd"]}}),
        ("shell", {"command": "ls", "timeout_ms": 5}, {"action": {"commands": ["ls"], "timeout_ms": 5}}),
        (
            "apply_patch",
            {"type": "create_file", "path": "a", "diff": "+x"},
            {"operation": {"type": "create_file", "path": "a", "diff": "+x"}},
        ),
        ("apply_patch", {"type": "delete_file", "path": "a"}, {"operation": {"type": "delete_file", "path": "a"}}),
        ("apply_patch", {"path": "a"}, {"operation": {"type": "update_file", "path": "a", "diff": ""}}),
    ],
)
async def test_openais_own_tools_are_called_in_their_own_items(
    start: Start, tool: str, arguments: Any, call: dict[str, Any]
) -> None:
    async with start(saying(calling(tool, arguments))) as quern:
        (item,) = await output_of(quern, tools=[{"type": tool}])
        assert _bare(item) == {"type": f"{tool}_call", "status": "completed", **call}
        assert item["call_id"].startswith("call_")
        result = {"type": f"{tool}_call_output", "call_id": item["call_id"], "output": "done", "status": "completed"}
        again = await respond(quern, tools=[{"type": tool}], input=[{"role": "user", "content": "x"}, item, result])
        assert "x-quern-ignored" not in again.headers
        assert "done" in prompt_text(quern)
        assert f'{{"name": "{tool}", "arguments": {{"' in prompt_text(quern)


async def test_kinds_and_groups_are_remembered(start: Start) -> None:
    said = (
        calling("apply", {"input": PATCH})
        + calling("agents__tell", {"input": "y"})
        + calling("shell", {"commands": ["ls"]})
    )
    tools = [FREE, GROUP, {"type": "shell"}]
    async with start(saying(said)) as quern:
        conversation = (await quern.client.post("/v1/conversations", json={})).json()["id"]
        body = await responded(quern, tools=tools, conversation=conversation, background=True, stream=False)
        while (again := (await quern.client.get(f"/v1/responses/{body['id']}")).json())["status"] != "completed":
            pass
        assert [item["type"] for item in again["output"]] == ["custom_tool_call", "custom_tool_call", "shell_call"]
        listed = (await quern.client.get(f"/v1/conversations/{conversation}/items", params={"order": "asc"})).json()
        assert listed["data"][1:] == again["output"]
        results = [
            {"type": "custom_tool_call_output", "call_id": again["output"][0]["call_id"], "output": "ok"},
            {
                "type": "shell_call_output",
                "call_id": again["output"][2]["call_id"],
                "output": [{"stdout": "a", "stderr": "", "outcome": {"type": "exit", "exit_code": 0}}],
            },
        ]
        added = await quern.client.post(f"/v1/conversations/{conversation}/items", json={"items": results})
        assert [_bare(item) for item in added.json()["data"]] == [
            {"status": "completed", **_bare(result)} for result in results
        ]
        one = added.json()["data"][0]
        assert one["id"].startswith("ctco_")
        assert (await quern.client.get(f"/v1/conversations/{conversation}/items/{one['id']}")).json() == one
        referred = await responded(quern, input=[{"type": "item_reference", "id": one["id"]}])
        assert referred["status"] == "completed"


async def test_allowed_tools_are_the_only_ones_that_are_shown(start: Start) -> None:
    async with start(saying("x")) as quern:
        some = [{"type": "function", "name": "weather"}, {"type": "web_search"}]
        choice = {"type": "allowed_tools", "mode": "required", "tools": some}
        await responded(quern, tools=[WEATHER, FREE], tool_choice=choice)
        assert '"name": "weather"' in prompt_text(quern)
        assert '"name": "apply"' not in prompt_text(quern)
        assert quern.engine.requests[-1].grammar is not None


async def test_one_name_for_two_tools_is_refused(start: Start) -> None:
    async with start(saying("x")) as quern:
        twice = [GROUP, {**FREE, "name": "agents__tell"}]
        assert error_of(await respond(quern, tools=twice), 400)[0] == "tools"
