"""What agents send back as history: rendered as well as can be, never refused."""

from __future__ import annotations

import json
from typing import Any

import pytest

from .conftest import Quern

USER: dict[str, Any] = {"role": "user", "content": "hi"}
MISSING = object()


def history(*messages: Any) -> list[dict[str, Any]]:
    return [USER, *messages, {"role": "user", "content": "and now?"}]


def call(arguments: Any, **members: Any) -> dict[str, Any]:
    function = {"name": "f", **({} if arguments is MISSING else {"arguments": arguments})}
    return {"id": "c1", "type": "function", "function": function, **members}


def calling(*calls: Any, **members: Any) -> list[dict[str, Any]]:
    return history({"role": "assistant", "tool_calls": [*calls], **members}, {"role": "tool", "tool_call_id": "c1"})


async def shown(quern: Quern, path: str, messages: list[dict[str, Any]]) -> str:
    """What the model is shown of the messages between the first and the last one."""
    body = json.dumps({"messages": messages})
    response = await quern.client.post(path, content=body, headers={"content-type": "application/json"})
    assert response.status_code == 200, response.text
    if path == "/apply-template":
        return response.json()["prompt"]
    prompt = quern.engine.requests[-1].prompt
    return quern.codec.tokenizer.decode(prompt).partition("user\nhi\n")[2].rpartition("user\nand now?")[0]


@pytest.mark.parametrize(
    ("arguments", "seen"),
    [
        ('{"x": "ab', '{"x": "ab"}'),
        ('{"x": "a\\', '{"x": "a"}'),
        ('{"x": [1, {"y": tr', '{"x": [1'),
        ('{"x', "{}"),
        ("{", "{}"),
        ("", "{}"),
        (" \n", "{}"),
        ("null", "{}"),
        (None, "{}"),
        (MISSING, "{}"),
        ("[1]", '{"arguments": [1]}'),
        ([1], '{"arguments": [1]}'),
        ("1.5", '{"arguments": 1.5}'),
        (True, '{"arguments": true}'),
        ({"x": "ä"}, '{"x": "ä"}'),
        ('"{\\"x\\": 1}"', '{"x": 1}'),
        ("not json", '{"arguments": "not json"}'),
        ('{"x": 1}{"x": 2}', '"arguments": '),
        ("{'x': 1}", '"arguments": '),
        ('{"x": NaN}', '{"x": NaN}'),
        ('{"x": "\ud83d', '{"x": "\ufffd"}'),
    ],
)
async def test_arguments_of_any_kind_are_shown_as_well_as_can_be(quern: Quern, arguments: Any, seen: str) -> None:
    assert seen in await shown(quern, "/v1/chat/completions", calling(call(arguments)))


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/apply-template"])
@pytest.mark.parametrize(
    ("messages", "seen"),
    [
        (calling(call("{}", id=None)), '"name": "f"'),
        (calling(call("{}", id=7, type=None, index=0)), '"name": "f"'),
        (calling({"function": {"name": None, "arguments": "{}"}}), '"name": ""'),
        (calling({"id": "c1", "type": "custom", "custom": {"name": "f", "input": "ls"}}),
         '"arguments": {"input": "ls"}'),
        (calling({}), '"name": ""'),
        (calling({"id": "c1", "function": "f"}), '{"name": "f", "arguments": {}}'),
        (calling({"id": "c1", "custom": "f"}), '{"name": "f", "arguments": {"input": ""}}'),
        (history({"role": "assistant", "tool_calls": call('{"x": 1}')}), '{"name": "f", "arguments": {"x": 1}}'),
        (history({"role": "assistant", "function_call": "f"}), '{"name": "f", "arguments": {}}'),
        (history("said"), "user\nsaid"),
        (history({"content": "said"}), "user\nsaid"),
        (history({"role": None, "content": ["said"]}), "user\nsaid"),
        (history({"role": "critic", "content": "said"}), "user\nsaid"),
        (history({"type": "message", "id": "m", "status": "completed", "role": "assistant", "content": "said"}),
         "assistant\nsaid"),
        (history({"role": "assistant", "content": "x", "tool_calls": call('{"a": 1}')}), '"arguments": {"a": 1}'),
        (history({"role": "assistant", "content": "x", "tool_calls": ""}), "assistant\nx"),
        (calling(None, 0, content="x"), "assistant\nx"),
        (calling({"id": "c1", "function": "ls -l"}), "ls -l"),
        (calling({"id": "c1", "function": ["ls"]}), "ls"),
        (calling({"id": "c1", "type": "custom", "custom": "ls -l"}), "ls -l"),
        (history({"role": "assistant", "function_call": "ls -l"}), "ls -l"),
        (history({"role": "assistant", "content": "x", "function_call": ""}), "assistant\nx"),
        (history({"role": "user", "content": [{"type": ["text"], "text": "x"}]}), '{"type": ["text"], "text": "x"}'),
        (history({"role": "assistant", "content": [{"type": {}, "text": "x"}]}), '{"type": {}, "text": "x"}'),
        (calling(call("{}"), content="Look."), "Look."),
        (calling(call("{}"), content=""), '"name": "f"'),
        (calling(content="No calls."), "No calls."),
        (history({"role": "assistant", "content": "x", "tool_calls": None}), "assistant\nx"),
        (history({"role": "assistant", "content": None}), "assistant\n"),
        (history({"role": "assistant"}), "assistant\n"),
        (history({"role": "assistant", "content": [], "refusal": "I won't."}), "I won't."),
        (history({"role": "assistant", "content": [{"type": "refusal", "refusal": "I won't."}]}), "I won't."),
        (history({"role": "assistant", "content": "x", "reasoning_content": "hm", "more": {}}), "assistant\nx"),
        (history({"role": "assistant", "content": [{"type": "thinking", "thinking": "hm"}, {"text": "x"}]}),
         "assistant\nx"),
        (history({"role": "assistant", "content": [{"type": "audio", "id": "x"}], "audio": {"id": "x"}}),
         "[an audio was here]"),
        (history({"role": "assistant", "content": {"odd": [1]}}), '{"odd": [1]}'),
        (history({"role": "assistant", "function_call": {"name": "f", "arguments": '{"x'}}),
         '"name": "f", "arguments": {}'),
        (history({"role": "assistant", "content": None, "function_call": {"name": "f", "arguments": "{}"}},
                 {"role": "function", "name": "f", "content": "4 lines"}), "4 lines"),
        (history({"role": "function", "content": None}), "tool\n"),
        (history({"role": "tool", "content": "alone"}), "alone"),
        (history({"role": "tool", "tool_call_id": None, "content": None}), "tool\n"),
        (history({"role": "tool", "tool_call_id": "c1", "content": {"lines": 4}}), '{"lines": 4}'),
        (history({"role": "tool", "tool_call_id": "c1", "content": [1, {"a": None}]}), '[1, {"a": null}]'),
        (history({"role": "tool", "tool_call_id": 5, "content": 4.5}), "4.5"),
        (history({"role": "tool", "tool_call_id": "c1", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}),
         "[an image was here]"),
        (history({"role": "tool", "tool_call_id": "c1", "content": [{"type": "text", "text": "x"}], "m": 1}), "x"),
        (history({"role": "user", "content": [{"type": "text", "text": "see"}, {"type": "image_url"}]}),
         "see\n[an image was here]"),
        (history({"role": "user", "content": [{"type": "file", "file": {"file_id": "x"}}]}), "[a file was here]"),
        (history({"role": "system", "content": {"odd": [1]}}), '{"odd": [1]}'),
        (history({"role": "user", "content": [None, {"type": "text", "text": None}, {"text": "x"}]}), "user\n\nx"),
        (history({"role": "user", "content": [{"type": "text", "text": {"value": "x"}}]}), '{"value": "x"}'),
        (history({"role": "user", "content": 5}), "user\n5"),
        (history({"role": "user", "content": [["x"], 1]}), '[["x"], 1]'),
        (history({"role": "user"}), "user\n"),
        (history({"role": "user", "content": None}), "user\n"),
        (history({"role": "system", "content": None}), "system\n"),
        (history({"role": "developer"}), "system\n"),
    ],
)  # fmt: skip
async def test_messages_of_any_kind_are_shown_as_well_as_can_be(
    quern: Quern, path: str, messages: list[dict[str, Any]], seen: str
) -> None:
    assert seen in await shown(quern, path, messages)


async def test_a_functions_result_is_the_result_of_its_call(quern: Quern) -> None:
    messages = history(
        {"role": "assistant", "content": "", "function_call": {"name": "count", "arguments": '{"path": "a"}'}},
        {"role": "function", "name": "count", "content": "4"},
    )
    assert await shown(quern, "/v1/chat/completions", messages) == (
        'assistant\n\n<tool_call>\n{"name": "count", "arguments": {"path": "a"}}\n</tool_call>\ntool\n4\n'
    )


@pytest.mark.parametrize("part", ["image_url", "input_audio", "file", "video_url", "strange"])
async def test_what_the_user_says_now_is_refused_where_it_is_no_text(quern: Quern, part: str) -> None:
    said: list[Any] = [{"type": "text", "text": "see"}, {"type": part, part: {}}]
    for more in ([], [{"role": "assistant", "content": "It is"}]):
        body = {"messages": [USER, {"role": "user", "content": said}, *more]}
        response = await quern.client.post("/v1/chat/completions", json=body)
        assert response.status_code == 400
        assert response.json()["error"]["param"] == "messages.1.content.1"
        assert part in response.json()["error"]["message"]


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/responses"])
@pytest.mark.parametrize(
    ("odd", "ignored"),
    [
        (None, ""),
        ({}, ""),
        (5, ""),
        ([], ""),
        ([USER], ""),
        (True, ""),
        ({"role": "assistant_2"}, ""),
        ({"type": 5}, ""),
        ({"type": "message"}, " (message)"),
        ({"type": "memory", "text": "x"}, " (memory)"),
        ({"role": "critic", "content": "said"}, ".role"),
        ({"role": 5, "content": "said"}, ".role"),
        ({"role": "System", "content": "said"}, ".role"),
        ({"role": "assistant", "content": "x", "tool_calls": [None]}, ".tool_calls.0"),
        ({"role": "assistant", "content": "x", "tool_calls": "f"}, ".tool_calls.0"),
        ("said", None),
        ({"content": "said"}, None),
        ({"role": "tool", "tool_call_id": "c1", "content": "said"}, None),
        ({"role": "tool", "tool_call_id": None, "content": None}, None),
        ({"role": "function", "name": "f", "content": "said"}, None),
        ({"role": "assistant", "content": None, "tool_calls": [call("{}"), call('{"x": "ab')]}, None),
        ({"role": "assistant", "function_call": {"name": "f", "arguments": "{}"}}, None),
        ({"type": "message", "id": "m1", "status": "completed", "role": "tool", "content": "said"}, None),
    ],
)
async def test_what_is_no_message_is_left_out_and_named_and_all_else_is_shown(
    quern: Quern, path: str, odd: Any, ignored: str | None
) -> None:
    field = "input" if path == "/v1/responses" else "messages"
    plain, strange = (json.dumps({field: said}) for said in (history(), history(odd)))
    headers = {"content-type": "application/json"}
    assert (await quern.client.post(path, content=plain, headers=headers)).status_code == 200
    answer = await quern.client.post(path, content=strange, headers=headers)
    assert answer.status_code == 200, answer.text
    assert answer.headers.get("x-quern-ignored") == (None if ignored is None else f"{field}.1{ignored}")
    first, second = quern.engine.requests
    left_out = ignored is not None and "." not in ignored
    assert (first.prompt == second.prompt) == left_out


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/responses"])
async def test_calls_and_results_in_chats_shape_are_shown_as_calls_and_results(quern: Quern, path: str) -> None:
    said = [
        {"role": "assistant", "content": "Look.", "tool_calls": [call('{"x": 1}')]},
        {"role": "tool", "tool_call_id": "c1", "content": "4 lines"},
        {"role": "assistant", "content": None, "function_call": {"name": "g", "arguments": "{}"}},
        {"role": "function", "name": "g", "content": "5 lines"},
    ]
    field = "input" if path == "/v1/responses" else "messages"
    answer = await quern.client.post(path, json={field: history(*said)})
    assert answer.status_code == 200, answer.text
    prompt = quern.codec.tokenizer.decode(quern.engine.requests[-1].prompt)
    parts = ["Look.", '{"name": "f", "arguments": {"x": 1}}', "4 lines", '{"name": "g", "arguments": {}}', "5 lines"]
    places = [prompt.index(part) for part in parts]
    assert places == sorted(places)
    assert prompt.count("tool\n") == 2


@pytest.mark.parametrize(
    ("odd", "shown"),
    [({"role": "critic", "content": "said"}, "said"), ("said", "said"), ({"content": [{"text": "said"}]}, "said")],
)
@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/responses"])
async def test_so_is_what_is_said_last(quern: Quern, path: str, odd: Any, shown: str) -> None:
    field = "input" if path == "/v1/responses" else "messages"
    answer = await quern.client.post(path, json={field: [odd, None]})
    assert answer.status_code == 200, answer.text
    assert f"user\n{shown}" in quern.codec.tokenizer.decode(quern.engine.requests[-1].prompt)
