"""What agents send back with Responses is read as well as can be, and never refused."""

from __future__ import annotations

import json
from typing import Any

import pytest

from .conftest import Start
from .engines import saying
from .openai_clients import WEATHER, call_text, events_of, prompt_text, respond, responded

USER = {"role": "user", "content": "go on"}
SHOWN: list[tuple[dict[str, Any], str]] = [
    ({"type": "function_call", "call_id": "c", "name": "f", "arguments": '{"x": "ab'}, '"arguments": {"x": "ab"}'),
    ({"type": "function_call", "call_id": "c", "name": "f", "arguments": " "}, '"arguments": {}'),
    ({"type": "function_call", "call_id": "c", "name": "f", "arguments": "null"}, '"arguments": {}'),
    ({"type": "function_call", "call_id": "c", "name": "f"}, '"arguments": {}'),
    ({"type": "function_call", "call_id": None, "id": "fc_1", "name": "f", "arguments": {"x": 1}}, '{"x": 1}'),
    ({"type": "function_call", "call_id": "c", "name": "f", "arguments": "[1]", "status": "incomplete"}, "[1]"),
    ({"type": "function_call_output", "output": "it was 5"}, "it was 5"),
    ({"type": "function_call_output", "call_id": "c", "output": None}, "tool\n\nuser"),
    (
        {"type": "function_call_output", "call_id": "c", "output": [{"type": "input_image", "image_url": "data:"}]},
        "[an image was here]",
    ),
    ({"type": "function_call_output", "call_id": "c", "output": {"lines": 4}}, '{"lines": 4}'),
    ({"type": "function_call_output", "call_id": "c", "output": 4.5}, "4.5"),
    ({"type": "function_call_output", "call_id": "c", "output": [1, {"a": None}]}, '[1, {"a": null}]'),
    ({"type": "custom_tool_call_output", "call_id": "c", "output": [None, {"type": "input_text"}, "ok"]}, "\nok"),
    ({"type": "local_shell_call_output", "call_id": "c", "output": True}, "true"),
    ({"role": "assistant", "content": [{"type": "thinking", "thinking": "hm"}, {"text": "yes"}]}, "assistant\nyes"),
    ({"role": "assistant", "content": {"odd": [1]}}, '{"odd": [1]}'),
    ({"role": "user", "content": 5}, "user\n5"),
    ({"type": "custom_tool_call", "call_id": "c", "name": "apply", "input": 'a "b"\n'}, '{"input": "a \\"b\\"\\n"}'),
    ({"type": "custom_tool_call", "call_id": "c", "name": "apply", "input": None}, '{"input": ""}'),
    ({"type": "custom_tool_call_output", "call_id": "c", "output": [{"type": "input_text", "text": "ok!"}]}, "ok!"),
    (
        {
            "type": "local_shell_call",
            "id": "x",
            "call_id": "c",
            "action": {"type": "exec", "command": ["ls"], "env": {}},
        },
        '{"name": "local_shell", "arguments": {"command": ["ls"]}}',
    ),
    ({"type": "local_shell_call_output", "id": "x", "output": "a.py"}, "a.py"),
    ({"type": "shell_call", "call_id": "c", "action": {"commands": ["ls"]}}, '{"commands": ["ls"]}'),
    ({"type": "shell_call", "call_id": "c", "action": None}, '{"name": "shell", "arguments": {}}'),
    ({"type": "shell_call_output", "call_id": "c", "output": [{"stdout": "b.py", "stderr": ""}]}, "b.py"),
    (
        {"type": "apply_patch_call", "call_id": "c", "operation": {"type": "delete_file", "path": "a"}},
        '{"type": "delete_file", "path": "a"}',
    ),
    ({"type": "apply_patch_call_output", "call_id": "c", "status": "failed", "output": "no such file"}, "no such file"),
    ({"type": "mcp_call", "id": "m", "name": "read", "arguments": "{}", "output": "text"}, "text"),
    ({"type": "mcp_call", "id": "m", "name": "read", "arguments": "{}", "error": "gone"}, "Error: gone"),
    ({"type": "mcp_call", "id": 5, "output": {"lines": 4}}, '{"lines": 4}'),
    ({"type": "function_call", "call_id": 5, "arguments": "{}"}, '{"name": "", "arguments": {}}'),
    ({"role": "user", "content": [{"type": "input_image", "image_url": "data:"}]}, "[an image was here]"),
    ({"role": "user", "content": [{"type": "input_file", "file_data": "x"}]}, "[a file was here]"),
    ({"role": "assistant", "content": [{"type": "refusal", "refusal": "I won't"}]}, "I won't"),
    ({"type": "message", "role": "assistant", "content": "said", "id": None, "status": "in_progress"}, "said"),
]


@pytest.mark.parametrize("kind", [[], {}, ["output_text"], 5, True])
@pytest.mark.parametrize("role", ["user", "assistant", "developer"])
async def test_a_part_whose_type_is_none_is_shown_as_json(start: Start, role: str, kind: Any) -> None:
    async with start(saying("x")) as quern:
        part = {"type": kind, "text": "a"}
        answer = await respond(quern, input=[{"role": role, "content": [part]}, USER])
        assert answer.status_code == 200, answer.text
        assert json.dumps(part) in prompt_text(quern)


@pytest.mark.parametrize(("item", "shown"), SHOWN)
async def test_an_item_is_shown_to_the_model(start: Start, item: dict[str, Any], shown: str) -> None:
    async with start(saying("x")) as quern:
        answer = await respond(quern, input=[{"role": "user", "content": "hi"}, item, USER])
        assert answer.status_code == 200, answer.text
        assert "x-quern-ignored" not in answer.headers
        assert shown in prompt_text(quern)


@pytest.mark.parametrize(
    "kind",
    [
        "additional_tools",
        "code_interpreter_call",
        "computer_call",
        "computer_call_output",
        "file_search_call",
        "image_generation_call",
        "mcp_approval_request",
        "mcp_list_tools",
        "tool_search_call",
        "web_search_call",
        "something_new",
    ],
)
async def test_an_item_that_cannot_be_shown_is_left_out_and_named(start: Start, kind: str) -> None:
    async with start(saying("x")) as quern:
        item = {"type": kind, "id": "x_1", "status": "completed", "action": {"query": "secret"}, "result": None}
        answer = await respond(quern, input=[item, USER])
        assert answer.status_code == 200, answer.text
        assert answer.headers["x-quern-ignored"] == f"input.0 ({kind})"
        assert "secret" not in prompt_text(quern)
        begun = await quern.client.post("/v1/conversations", json={"items": [item, USER]})
        assert begun.headers["x-quern-ignored"] == f"items.0 ({kind})"


@pytest.mark.parametrize("kind", ["compaction", "compaction_summary"])
async def test_what_another_server_made_short_is_left_out_and_named(start: Start, kind: str) -> None:
    async with start(saying("x")) as quern:
        answer = await respond(quern, input=[{"type": kind, "encrypted_content": "gAAAAAB"}, USER])
        assert answer.status_code == 200
        assert answer.headers["x-quern-ignored"] == "input.0.encrypted_content"


async def test_thoughts_of_other_models_are_not_shown(start: Start) -> None:
    async with start(saying("x")) as quern:
        item = {"type": "reasoning", "id": "rs_1", "summary": [{"type": "summary_text", "text": "secret"}]}
        answer = await respond(quern, input=[item, USER])
        assert "x-quern-ignored" not in answer.headers
        assert "secret" not in prompt_text(quern)


SAID = f"Look.\n{call_text('Oslo')}\n{call_text('Bergen')}"


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("cut", range(1, len(SAID), 9))
async def test_an_answer_that_was_cut_anywhere_can_be_sent_back(start: Start, cut: int, stream: bool) -> None:
    async with start(saying(SAID)) as quern:
        asked = {"tools": [WEATHER], "max_output_tokens": cut}
        if stream:
            body = events_of(await respond(quern, **asked, stream=True))[-1]["response"]
        else:
            body = await responded(quern, **asked)
        assert body["status"] == "incomplete"
        again = await respond(quern, tools=[WEATHER], input=[{"role": "user", "content": "hi"}, *body["output"], USER])
        assert again.status_code == 200, again.text
        assert "x-quern-ignored" not in again.headers


async def test_an_answer_goes_on_after_the_assistants_last_message(start: Start) -> None:
    async with start(saying(" and more")) as quern:
        begun = {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "Once"}]}
        body = await responded(quern, input=[{"role": "user", "content": "tell"}, begun])
        assert prompt_text(quern).endswith("assistant\nOnce")
        assert body["output"][0]["content"][0]["text"] == " and more"
        await responded(quern, input="next", previous_response_id=body["id"])
        assert "Once and more" in prompt_text(quern)
