"""Every answer of the Messages API, cut anywhere, streamed or not, can be sent back as history."""

from __future__ import annotations

from typing import Any

import anthropic
import pytest

from quern.grammar.tool_calls import ToolFormat

from .conftest import Start
from .engines import saying
from .messages import USER, WEATHER, library, prompt_text

ANSWERS = {
    ToolFormat.JSON: 'So.\n<tool_call>\n{"name": "weather", "arguments": {"city": "北"}}\n</tool_call>\nOk',
    ToolFormat.XML: (
        "So.\n<tool_call>\n<function=weather>\n<parameter=city>\n北\n</parameter>\n</function>\n</tool_call>\nOk"
    ),
}


async def create(client: anthropic.AsyncAnthropic, **asked: Any) -> Any:
    """A message in one piece."""
    create: Any = client.messages.create
    return await create(**asked)


def sent_back(final: Any) -> list[Any]:
    """The answer as history, and results of its calls, if it was cut or not."""
    results: list[Any] = [
        {"type": "tool_result", "tool_use_id": block.id, "content": "sunny"}
        for block in final.content
        if block.type == "tool_use"
    ]
    return [{"role": "assistant", "content": final.content}, {"role": "user", "content": results or "go on"}]


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("format_", ANSWERS)
async def test_an_answer_that_is_cut_anywhere_can_be_sent_back(
    start: Start, format_: ToolFormat, streamed: bool
) -> None:
    answer = ANSWERS[format_]
    asked: dict[str, Any] = {"model": "fake", "tools": [WEATHER]}
    history: list[Any] = [*USER]
    final: Any = None
    async with start(saying(answer), live=True) as quern, library(quern) as client:
        quern.codec.tool_format = format_
        for length in range(1, len(answer.encode()) + 2):
            if streamed:
                async with client.messages.stream(**asked, messages=history[:1], max_tokens=length) as stream:
                    final = await stream.get_final_message()
            else:
                final = await create(client, **asked, messages=USER, max_tokens=length)
            history += sent_back(final)
        whole = [block for block in final.content if block.type == "tool_use"]
        assert [block.input for block in whole] == [{"city": "北"}]
        all_of_it = await create(client, **asked, messages=history, max_tokens=1)
        assert "sunny" in prompt_text(quern)
    assert all_of_it.stop_reason in ("max_tokens", "end_turn")


@pytest.mark.parametrize("stop", ["arg", "city", "tool_call", "}"])
async def test_an_answer_that_a_stop_sequence_cuts_can_be_sent_back(start: Start, stop: str) -> None:
    asked: dict[str, Any] = {"model": "fake", "tools": [WEATHER], "max_tokens": 500}
    messages: list[Any] = [*USER]
    async with start(saying(ANSWERS[ToolFormat.JSON]), live=True) as quern, library(quern) as client:
        async with client.messages.stream(**asked, messages=messages, stop_sequences=[stop]) as stream:
            final = await stream.get_final_message()
        assert final.stop_sequence == stop
        await create(client, **asked, messages=[*USER, *sent_back(final)])
        await create(client, **asked, messages=[*USER, {"role": "assistant", "content": final.content}])
