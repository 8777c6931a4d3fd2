"""The official `openai` library against the real server with the real small model, by changing the base URL alone."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jsonschema
import openai
import pytest
from openai.types.chat import ChatCompletion, ChatCompletionChunk
from tests.json_schemas import SCHEMAS, Schema

from .conftest import ServerProcess, StartServer, chat

MODEL = "qwen2.5-coder-0.5b"
TOOLS: Any = [
    {
        "type": "function",
        "function": {
            "name": "add",
            "description": "Add two integers.",
            "parameters": {
                "type": "object",
                "properties": {"a": {"type": "integer"}, "b": {"type": "integer"}},
                "required": ["a", "b"],
            },
        },
    }
]


def add(a: int, b: int) -> int:
    """The tool itself: it wants integers, not texts that look like some."""
    assert type(a) is type(b) is int
    return a + b


def complete(client: openai.OpenAI, **asked: Any) -> ChatCompletion:
    """A chat completion in one piece."""
    create: Any = client.chat.completions.create
    return create(model=MODEL, **asked)


def valid(schema: Schema, value: Any) -> None:
    """Raises jsonschema.ValidationError."""
    validator: Any = jsonschema.Draft202012Validator(schema)
    validator.validate(value)


def client_of(server: ServerProcess) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{server.url}/v1", api_key="unused", max_retries=0)


@pytest.fixture
def client(server: ServerProcess) -> Iterator[openai.OpenAI]:
    with client_of(server) as client:
        yield client


def test_a_chat_completion_answers_and_counts(client: openai.OpenAI) -> None:
    completion = client.chat.completions.create(
        model=MODEL,
        messages=[
            {"role": "system", "content": "Answer with code only."},
            {"role": "user", "content": "用 Python 打印 1"},
        ],
        max_completion_tokens=60,
        temperature=0,
    )
    (choice,) = completion.choices
    assert "print(" in (choice.message.content or "")
    assert completion.usage is not None
    assert completion.usage.total_tokens == completion.usage.prompt_tokens + completion.usage.completion_tokens
    assert choice.finish_reason in {"stop", "length"}


def test_a_stream_says_the_same_as_the_whole_answer_and_ends_with_the_usage(client: openai.OpenAI) -> None:
    asked: dict[str, Any] = {
        "messages": [{"role": "user", "content": "Count from 1 to 10 in one line."}],
        "temperature": 0,
        "max_completion_tokens": 40,
    }
    whole = complete(client, **asked)
    stream: Any = complete(client, **asked, stream=True, stream_options={"include_usage": True})
    chunks: list[ChatCompletionChunk] = list(stream)
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == whole.choices[0].message.content
    assert chunks[-1].usage is not None
    assert whole.usage is not None
    assert chunks[-1].usage.completion_tokens == whole.usage.completion_tokens


def test_logprobs_are_those_of_the_tokens_drawn(client: openai.OpenAI) -> None:
    completion = client.chat.completions.create(
        model=MODEL,
        messages=[{"role": "user", "content": "Say hello."}],
        temperature=0,
        max_completion_tokens=8,
        logprobs=True,
        top_logprobs=3,
    )
    logprobs = completion.choices[0].logprobs
    assert logprobs is not None
    assert logprobs.content
    text = b"".join(bytes(token.bytes or []) for token in logprobs.content).decode()
    assert text == completion.choices[0].message.content
    for token in logprobs.content:
        assert token.top_logprobs[0].bytes == token.bytes
        assert token.logprob == pytest.approx(token.top_logprobs[0].logprob)


def test_a_tool_is_called_with_typed_arguments_and_its_result_is_used(client: openai.OpenAI) -> None:
    messages: list[Any] = [{"role": "user", "content": "What is 1234 plus 4321? Use the tool."}]
    asked: dict[str, Any] = {"tools": TOOLS, "temperature": 0, "max_completion_tokens": 100}
    first = complete(client, **asked, messages=messages, tool_choice="required")
    (choice,) = first.choices
    assert choice.finish_reason == "tool_calls"
    (call,) = choice.message.tool_calls or []
    assert call.type == "function"
    result = add(**json.loads(call.function.arguments))
    assert result == 5555
    messages += [choice.message, {"role": "tool", "tool_call_id": call.id, "content": str(result)}]
    messages += [{"role": "user", "content": "So what is the sum?"}]
    second = complete(client, **asked, messages=messages, tool_choice="none")
    assert "5555" in (second.choices[0].message.content or "").replace(",", "")


def test_a_streamed_call_arrives_in_pieces_that_join_to_its_arguments(client: openai.OpenAI) -> None:
    stream = client.chat.completions.create(
        model=MODEL,
        messages=[{"role": "user", "content": "Add 20 and 22 with the tool."}],
        tools=TOOLS,
        tool_choice={"type": "function", "function": {"name": "add"}},
        temperature=0,
        max_completion_tokens=100,
        stream=True,
    )
    pieces = [call for chunk in stream for call in chunk.choices[0].delta.tool_calls or []]
    assert pieces[0].function is not None
    assert (pieces[0].function.name, bool(pieces[0].id)) == ("add", True)
    arguments = "".join(piece.function.arguments or "" for piece in pieces if piece.function)
    assert add(**json.loads(arguments)) == 42


def answer_to(client: openai.OpenAI, question: str, schema: Schema) -> str:
    """An answer that ended by itself. A small model may go on with a text or a number until it is cut, which
    `finish_reason` tells; it is asked again.
    """
    wanted: Any = {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema}}
    for seed in range(5):
        completion = complete(
            client,
            messages=[{"role": "user", "content": f"{question} Answer as JSON: {json.dumps(schema)}"}],
            response_format=wanted,
            max_completion_tokens=200,
            temperature=0.7,
            seed=seed,
        )
        (choice,) = completion.choices
        if choice.finish_reason == "stop":
            return choice.message.content or ""
    pytest.fail(f"{question} never got an answer that ended")


def test_fifty_schemas_always_get_an_answer_that_validates(client: openai.OpenAI) -> None:
    def ask(case: tuple[str, Schema]) -> str:
        return answer_to(client, *case)

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(ask, SCHEMAS))
    assert len(answers) == 50
    for (question, schema), answer in zip(SCHEMAS, answers, strict=True):
        try:
            valid(schema, json.loads(answer))
        except (ValueError, jsonschema.ValidationError) as error:
            pytest.fail(f"{question} {answer!r}: {error}")


def test_a_schema_that_cannot_be_kept_to_is_refused_with_the_part_that_is_wrong(client: openai.OpenAI) -> None:
    schema: Schema = {"type": "object", "properties": {"a": {"type": "string", "pattern": "^(?=x)"}}}
    wanted: Any = {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema}}
    with pytest.raises(openai.BadRequestError, match=r"\(\?=|look|pattern"):
        client.chat.completions.create(
            model=MODEL,
            messages=[{"role": "user", "content": "x"}],
            response_format=wanted,
        )


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("def add(a, b):\n    ", "\n\n\nassert add(1, 2) == 3\n"),
        ("def factorial(n):\n    if n == 0:\n        return 1\n    ", "\n\n\nassert factorial(5) == 120\n"),
        (
            "def largest(numbers):\n    best = numbers[0]\n    for n in numbers:\n        if ",
            "\n    return best\n\n\nassert largest([1, 3, 2]) == 3\n",
        ),
        ("import json\n\n\ndef read(text):\n    return ", "\n\n\nassert read('[1]') == [1]\n"),
    ],
)
def test_the_middle_completes_a_function_so_that_the_file_parses_and_runs(
    client: openai.OpenAI, before: str, after: str
) -> None:
    # A blank line ends it, as in editors: instruct models otherwise go on with what comes next in the file.
    (choice,) = client.completions.create(
        model=MODEL, prompt=before, suffix=after, max_tokens=64, temperature=0, stop=["\n\n"]
    ).choices
    assert choice.finish_reason == "stop"
    assert choice.text.strip()
    ast.parse(before + choice.text + after)
    subprocess.run([sys.executable, "-c", before + choice.text + after], check=True)


def test_responses_are_chained_across_a_restart(start_server: StartServer) -> None:
    server = start_server()
    first = client_of(server).responses.create(
        model=MODEL, input="My name is Ada. Remember it.", temperature=0, max_output_tokens=40
    )
    assert first.status == "completed"
    server.kill()
    again = client_of(start_server())
    assert again.responses.retrieve(first.id).output_text == first.output_text
    second = again.responses.create(
        model=MODEL,
        input="What is my name? One word.",
        previous_response_id=first.id,
        temperature=0,
        max_output_tokens=20,
    )
    assert "Ada" in second.output_text
    assert second.previous_response_id == first.id


def test_a_background_response_is_picked_up_where_a_reader_left_it(client: openai.OpenAI) -> None:
    stream: Any = client.responses.create(
        model=MODEL,
        input="Write a Python class for a stack, with comments.",
        background=True,
        stream=True,
        temperature=0,
        max_output_tokens=120,
    )
    seen = [next(stream) for _ in range(12)]
    stream.close()
    response_id: str = seen[0].response.id
    rest: list[Any] = list(client.responses.retrieve(response_id, stream=True, starting_after=seen[-1].sequence_number))
    assert [event.sequence_number for event in [*seen, *rest]] == list(range(len(seen) + len(rest)))
    assert rest[-1].type in {"response.completed", "response.incomplete"}
    deltas = [event.delta for event in [*seen, *rest] if event.type == "response.output_text.delta"]
    whole = client.responses.retrieve(response_id)
    assert "".join(deltas) == whole.output_text
    again: list[Any] = list(
        client.responses.retrieve(response_id, stream=True, starting_after=seen[-1].sequence_number)
    )
    assert [event.model_dump() for event in again] == [event.model_dump() for event in rest]


def test_a_background_response_is_cancelled(server: ServerProcess, client: openai.OpenAI) -> None:
    response = client.responses.create(
        model=MODEL, input="Count to a thousand, one number a line.", background=True, max_output_tokens=2000
    )
    assert response.status in {"queued", "in_progress"}
    server.wait_for(lambda stats: stats["running"] > 0)
    cancelled = client.responses.cancel(response.id)
    assert cancelled.status == "cancelled"
    server.wait_for(lambda stats: stats["running"] == 0)
    assert client.responses.retrieve(response.id).status == "cancelled"
    client.responses.delete(response.id)
    with pytest.raises(openai.NotFoundError):
        client.responses.retrieve(response.id)


def test_a_conversation_begun_by_the_original_endpoint_goes_on_in_responses_and_back(
    server: ServerProcess, client: openai.OpenAI
) -> None:
    conversation, _, _ = chat(server.url, "The port of our server is 7481.", temperature=0, max_tokens=40)
    answer = client.responses.create(
        model=MODEL,
        input="Which port does our server use? Answer with the number.",
        conversation=conversation,
        temperature=0,
        max_output_tokens=20,
    )
    assert "7481" in answer.output_text
    items = client.conversations.items.list(conversation, order="asc").data
    assert len(items) == 4
    _, text, _ = chat(server.url, "Which port was that? Answer with the number.", conversation, temperature=0)
    assert "7481" in text


def test_an_agents_loop_of_thirty_turns_reads_only_what_is_new(client: openai.OpenAI) -> None:
    """Each turn sends the whole history again; the usage says how much of it was cached."""
    messages: list[Any] = [{"role": "system", "content": "You are a coding agent. " + "Be careful. " * 100}]
    before = 0
    for turn in range(30):
        messages.append({"role": "user", "content": f"Step {turn}: call the tool to add {turn} and {turn + 1}."})
        completion = client.chat.completions.create(
            model=MODEL,
            messages=messages,
            tools=TOOLS,
            tool_choice="required",
            temperature=0,
            max_completion_tokens=60,
        )
        usage = completion.usage
        assert usage is not None
        assert usage.prompt_tokens_details is not None
        cached = usage.prompt_tokens_details.cached_tokens or 0
        if turn:
            grown = usage.prompt_tokens - before
            # A block is 32 tokens: the last one of the turn before was not full.
            assert usage.prompt_tokens - cached <= grown + 2 * 32, (turn, usage)
        before = usage.prompt_tokens
        (call,) = completion.choices[0].message.tool_calls or []
        assert call.type == "function"
        result = add(**json.loads(call.function.arguments))
        messages += [completion.choices[0].message, {"role": "tool", "tool_call_id": call.id, "content": str(result)}]


def test_a_completion_while_someone_types_overtakes_long_chats(
    start_server: StartServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("QUERN_ENGINE__PARALLEL", "2")
    server = start_server()
    client = client_of(server)
    long = [
        client.responses.create(
            model=MODEL,
            input=f"Count from {n} to ten thousand, one number a line.",
            background=True,
            max_output_tokens=3000,
        )
        for n in range(4)
    ]
    server.wait_for(lambda stats: stats["running"] == 2 and stats["waiting"] == 2)
    completion = client.completions.create(
        model=MODEL, prompt="def add(a, b):\n    return ", suffix="\n", max_tokens=16, temperature=0
    )
    assert completion.choices[0].text.strip()
    assert {client.responses.retrieve(story.id).status for story in long} == {"queued", "in_progress"}
    for story in long:
        client.responses.cancel(story.id)
