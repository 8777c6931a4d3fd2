"""Prose before and after calls in one answer: one text with a paragraph break, or parts without one."""

from __future__ import annotations

from typing import Any

import pytest

from .conftest import Start
from .engines import saying
from .test_cut_calls import CHAT, MESSAGE, RESPONSE, post, streamed

CALL = '<tool_call>\n{"name": "run", "arguments": {"cmd": "ls"}}\n</tool_call>'
ANSWERS = [
    (f"Let me look.\n\n{CALL}\n\nThen I go on.", ["Let me look.", "Then I go on."]),
    (f"Let me look. {CALL} Then I go on.", ["Let me look.", "Then I go on."]),
    (f"{CALL}\n{CALL}\nThat is all.\n", ["That is all.\n"]),
    (f"One.\n{CALL}\n{CALL}\nTwo.\n{CALL}\nThree.", ["One.", "Two.", "Three."]),
    (f"  Only before.\n{CALL}", ["  Only before."]),
]


@pytest.mark.parametrize(("said", "texts"), ANSWERS)
async def test_a_chat_has_one_paragraph_break_between_them_streamed_or_not(
    start: Start, said: str, texts: list[str]
) -> None:
    async with start(saying(said)) as quern:
        (choice,) = (await post(quern, "/v1/chat/completions", **CHAT))["choices"]
        chunks = await streamed(quern, "/v1/chat/completions", **CHAT)
    assert choice["message"]["content"] == "\n\n".join(texts)
    assert "".join(chunk["choices"][0]["delta"].get("content") or "" for chunk in chunks) == "\n\n".join(texts)


@pytest.mark.parametrize(("said", "texts"), ANSWERS)
async def test_a_messages_blocks_and_a_responses_items_have_none(start: Start, said: str, texts: list[str]) -> None:
    async with start(saying(said)) as quern:
        message = await post(quern, "/v1/messages", **MESSAGE)
        events = await streamed(quern, "/v1/messages", **MESSAGE)
        response = await post(quern, "/v1/responses", **RESPONSE)
    assert [block["text"] for block in message["content"] if block["type"] == "text"] == texts
    assert texts_of_blocks(events) == texts
    items = [item for item in response["output"] if item["type"] == "message"]
    assert [item["content"][0]["text"] for item in items] == texts


def texts_of_blocks(events: list[dict[str, Any]]) -> list[str]:
    texts: dict[int, str] = {}
    for event in events:
        if event["type"] == "content_block_delta" and event["delta"]["type"] == "text_delta":
            texts[event["index"]] = texts.get(event["index"], "") + event["delta"]["text"]
    return list(texts.values())
