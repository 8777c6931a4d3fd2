"""A conversation's steps in the shape that chat templates know."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quern.prompt.conversation import template_messages, template_tool
from quern.types import Item, Message, Role, Tool, ToolCall, ToolResult

QUESTION = Message(Role.USER, "Is it cold?")
PARIS = ToolCall("call_1", "weather", '{"city": "Paris", "days": [1, {"with": null}]}')
TIME = ToolCall("call_2", "clock", "{}")
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


def called(call: ToolCall) -> dict[str, object]:
    function = {"name": call.name, "arguments": json.loads(call.arguments)}
    return {"id": call.id, "type": "function", "function": function}


@pytest.mark.parametrize("role", [Role.SYSTEM, Role.USER, Role.ASSISTANT])
def test_a_message_is_its_role_and_its_content(role: Role) -> None:
    [message] = template_messages([Message(role, "x")])
    assert message == {"role": role.value, "content": "x"}
    assert type(message["role"]) is str, "templates compare it, and the worker gets it as JSON"


def test_calls_go_with_what_the_assistant_said_before_them() -> None:
    said = Message(Role.ASSISTANT, "I look.")
    assert template_messages([QUESTION, said, PARIS, TIME]) == [
        {"role": "user", "content": "Is it cold?"},
        {"role": "assistant", "content": "I look.", "tool_calls": [called(PARIS), called(TIME)]},
    ]


def test_calls_without_a_word_before_them_are_a_message_of_their_own() -> None:
    assert template_messages([QUESTION, PARIS]) == [
        {"role": "user", "content": "Is it cold?"},
        {"role": "assistant", "content": "", "tool_calls": [called(PARIS)]},
    ]


def test_arguments_are_an_object_and_none_are_an_empty_one() -> None:
    [message] = template_messages([PARIS, ToolCall("call_3", "clock", "")])
    first, second = message["tool_calls"]
    assert first["function"]["arguments"] == {"city": "Paris", "days": [1, {"with": None}]}
    assert second["function"]["arguments"] == {}


def test_a_result_names_its_call_and_the_tool_where_that_is_known() -> None:
    results = [ToolResult("call_2", "noon"), ToolResult("call_1", ""), ToolResult("call_9", "?")]
    assert template_messages([PARIS, TIME, *results])[1:] == [
        {"role": "tool", "content": "noon", "tool_call_id": "call_2", "name": "clock"},
        {"role": "tool", "content": "", "tool_call_id": "call_1", "name": "weather"},
        {"role": "tool", "content": "?", "tool_call_id": "call_9"},
    ]


def test_what_is_said_between_calls_separates_them() -> None:
    items: Sequence[Item] = [PARIS, Message(Role.ASSISTANT, "And:"), TIME, ToolResult("call_2", "noon"), PARIS]
    assert [(message["role"], len(message.get("tool_calls", []))) for message in template_messages(items)] == [
        ("assistant", 1),
        ("assistant", 1),
        ("tool", 0),
        ("assistant", 1),
    ]


DEEP = '{"a":' + "[" * 400 + "]" * 400 + "}"


SHOWN: list[tuple[str, dict[str, object]]] = [
    ("", {}),
    (" \n", {}),
    ("null", {}),
    ('{"x": "ab', {"x": "ab"}),
    ('{"x": "ab\\', {"x": "ab"}),
    ('{"x": 1, "y": [1, {"z": tr', {"x": 1, "y": [1, {}]}),
    ('{"x": 1, "y', {"x": 1}),
    ("{", {}),
    ('"{\\"x\\": 1}"', {"x": 1}),
    ('{"x": "two\nlines"}', {"x": "two\nlines"}),
    ("[1]", {"arguments": [1]}),
    ("1", {"arguments": 1}),
    ("{'a': 1}", {"arguments": "{'a': 1}"}),
    ("{}{}", {"arguments": "{}{}"}),
    ("[" * 100_000, {"arguments": "[" * 100_000}),
    ("1" * 5000, {"arguments": "1" * 5000}),
    (DEEP, {"arguments": DEEP}),
]


@pytest.mark.parametrize(("arguments", "shown"), SHOWN)
def test_arguments_that_are_no_object_are_shown_as_one_as_far_as_they_can_be_read(
    arguments: str, shown: dict[str, object]
) -> None:
    _, message = template_messages([QUESTION, ToolCall("call_1", "weather", arguments)])
    assert message["tool_calls"][0]["function"]["arguments"] == shown


@given(st.dictionaries(st.text(max_size=5), JSON, max_size=4), st.integers(0, 200))
def test_arguments_that_break_off_anywhere_are_shown_as_an_object(arguments: dict[str, object], cut: int) -> None:
    [message] = template_messages([ToolCall("call_1", "f", json.dumps(arguments)[:cut])])
    shown: object = message["tool_calls"][0]["function"]["arguments"]
    assert isinstance(shown, dict)
    assert set(cast("dict[str, object]", shown)) <= arguments.keys()


@given(st.dictionaries(st.text(max_size=5), JSON, max_size=4))
def test_any_object_is_passed_on_as_it_is(arguments: dict[str, object]) -> None:
    [message] = template_messages([ToolCall("call_1", "f", json.dumps(arguments))])
    assert message["tool_calls"][0]["function"]["arguments"] == arguments


def test_a_tool_is_a_function_with_a_schema() -> None:
    schema = {"type": "object", "properties": {"city": {"type": "string"}}}
    assert template_tool(Tool("weather", "The weather now.", schema)) == {
        "type": "function",
        "function": {"name": "weather", "description": "The weather now.", "parameters": schema},
    }
    assert template_tool(Tool("clock")) == {"type": "function", "function": {"name": "clock", "parameters": {}}}
