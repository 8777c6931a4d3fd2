"""The official `anthropic` library against the real server with the real small model."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import anthropic
import pytest
from anthropic.types import Message

from .conftest import ServerProcess

MODEL = "qwen2.5-coder-0.5b"
GREEDY = {"temperature": 0}  # the library has no such parameter any more, the API has
MULTIPLY: dict[str, Any] = {
    "name": "multiply",
    "description": "Multiply two integers.",
    "input_schema": {
        "type": "object",
        "properties": {"a": {"type": "integer"}, "b": {"type": "integer"}},
        "required": ["a", "b"],
    },
}


def create(client: anthropic.Anthropic, **asked: Any) -> Message:
    """A message in one piece."""
    create: Any = client.messages.create
    return create(**asked)


@pytest.fixture
def client(server: ServerProcess) -> Iterator[anthropic.Anthropic]:
    with anthropic.Anthropic(base_url=server.url, api_key="unused", max_retries=0) as client:
        yield client


def test_a_message_is_answered_and_counted(client: anthropic.Anthropic) -> None:
    asked: dict[str, Any] = {
        "model": MODEL,
        "system": "Answer with code only.",
        "messages": [{"role": "user", "content": "用 Python 打印 1"}],
    }
    message = create(client, **asked, max_tokens=60, extra_body=GREEDY)
    assert message.content[0].type == "text"
    assert "print(" in message.content[0].text
    usage = message.usage
    prompt_tokens = usage.input_tokens + (usage.cache_read_input_tokens or 0)
    assert client.messages.count_tokens(**asked).input_tokens == prompt_tokens


def test_a_stream_joins_to_the_whole_message(client: anthropic.Anthropic) -> None:
    asked: dict[str, Any] = {
        "model": MODEL,
        "messages": [{"role": "user", "content": "Count from 1 to 10 in one line."}],
        "max_tokens": 40,
        "extra_body": GREEDY,
    }
    whole = create(client, **asked)
    with client.messages.stream(**asked) as stream:
        text = "".join(stream.text_stream)
        final = stream.get_final_message()
    assert whole.content[0].type == "text"
    assert text == whole.content[0].text
    assert (final.stop_reason, final.usage.output_tokens) == (whole.stop_reason, whole.usage.output_tokens)


def test_a_tool_is_used_with_typed_input_and_its_result_comes_back(client: anthropic.Anthropic) -> None:
    messages: list[Any] = [{"role": "user", "content": "What is 12 times 12? Use the tool."}]
    asked: dict[str, Any] = {"model": MODEL, "tools": [MULTIPLY], "max_tokens": 100, "extra_body": GREEDY}
    with client.messages.stream(**asked, messages=messages, tool_choice={"type": "any"}) as stream:
        first = stream.get_final_message()
    assert first.stop_reason == "tool_use"
    (block,) = first.content
    assert block.type == "tool_use"
    given: Any = block.input
    assert type(given["a"]) is type(given["b"]) is int
    result = {"type": "tool_result", "tool_use_id": block.id, "content": str(given["a"] * given["b"])}
    asked_again = {"type": "text", "text": "So what is 12 times 12?"}
    messages += [{"role": "assistant", "content": first.content}, {"role": "user", "content": [result, asked_again]}]
    second = create(client, **asked, messages=messages, tool_choice={"type": "none"})
    assert second.content[0].type == "text"
    assert "144" in second.content[0].text


def test_a_stop_sequence_is_named(client: anthropic.Anthropic) -> None:
    message = client.messages.create(
        model=MODEL,
        messages=[{"role": "user", "content": "Count from 1 to 10, separated by commas."}],
        stop_sequences=["5"],
        max_tokens=60,
        extra_body=GREEDY,
    )
    assert (message.stop_reason, message.stop_sequence) == ("stop_sequence", "5")


def test_an_answer_goes_on_after_the_assistants_last_message(client: anthropic.Anthropic) -> None:
    begun = "The numbers are: 1, 2, 3,"
    message = create(
        client,
        model=MODEL,
        messages=[{"role": "user", "content": "Count from 1 to 6."}, {"role": "assistant", "content": begun}],
        max_tokens=12,
        extra_body=GREEDY,
    )
    assert message.content[0].type == "text"
    assert message.content[0].text.lstrip().startswith("4")


def test_a_prompt_that_was_read_into_the_cache_is_not_read_again(client: anthropic.Anthropic) -> None:
    asked: dict[str, Any] = {
        "model": MODEL,
        "system": "You answer in one word, and never in more than one. " * 8,
        "messages": [{"role": "user", "content": "Which language has list comprehensions?"}],
        "extra_body": GREEDY,
    }
    warmed = create(client, **asked, max_tokens=0)
    assert (warmed.content, warmed.stop_reason, warmed.usage.output_tokens) == ([], "max_tokens", 0)
    assert (create(client, **asked, max_tokens=5).usage.cache_read_input_tokens or 0) >= 64


def test_errors_are_the_librarys_own(client: anthropic.Anthropic) -> None:
    with pytest.raises(anthropic.NotFoundError, match="is not served here"):
        client.messages.create(model="claude-nobody", messages=[{"role": "user", "content": "x"}], max_tokens=5)
    with pytest.raises(anthropic.BadRequestError, match="prompt is too long"):
        client.messages.create(model=MODEL, messages=[{"role": "user", "content": "word " * 40_000}], max_tokens=5)
