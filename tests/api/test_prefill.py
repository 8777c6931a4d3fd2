"""A request that ends with a message of the assistant's: the answer goes on after it."""

from __future__ import annotations

from typing import Any

import pytest

from .conftest import Start
from .engines import saying

MESSAGES: list[Any] = [{"role": "user", "content": "Count."}, {"role": "assistant", "content": "one, "}]


TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
DIALECTS: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {"tools": [TOOL], "reasoning_effort": "low"},
    "/v1/messages": {"tools": [{"name": "f", "input_schema": {"type": "object"}}], "max_tokens": 50},
    "/v1/responses": {"tools": [{"type": "function", "name": "f", "parameters": {"type": "object"}}], "store": False},
    "/api/chat": {"tools": [TOOL]},
}
BEGINNINGS = ["one, ", "one,\n\n", " ", "\t", "```python\n", "<tool_call>\n{", "<|im_end|>", "\u2028", "é" * 3]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("path", DIALECTS)
async def test_an_answer_goes_on_to_the_letter_also_with_tools_and_after_blanks(
    start: Start, path: str, stream: bool
) -> None:
    messages = "input" if path == "/v1/responses" else "messages"
    async with start(saying("two")) as quern:
        for text in BEGINNINGS:
            said = [MESSAGES[0], {"role": "assistant", "content": text}]
            response = await quern.client.post(path, json={**DIALECTS[path], messages: said, "stream": stream})
            assert response.status_code == 200, response.text
            prompt = bytes(byte for byte in quern.engine.requests[-1].prompt if byte < 256)
            assert prompt.endswith(text.encode())
            assert "error" not in response.text.replace('"error":null', "")


async def test_the_answer_has_only_what_is_new_and_a_conversation_keeps_both_as_one_message(start: Start) -> None:
    async with start(saying("two")) as quern:
        conversation = (await quern.client.post("/v1/conversations", json={})).json()["id"]
        response = await quern.client.post(
            "/v1/chat/completions", json={"messages": MESSAGES}, headers={"x-quern-conversation": conversation}
        )
        assert response.json()["choices"][0]["message"]["content"] == "two"
        assert bytes(quern.engine.requests[0].prompt[-5:]) == b"one, "
        kept = (await quern.client.get(f"/v1/conversations/{conversation}")).json()["messages"]
    assert [(message["role"], message["content"]) for message in kept] == [
        ("user", "Count."),
        ("assistant", "one, two"),
    ]
