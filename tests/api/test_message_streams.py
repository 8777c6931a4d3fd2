"""Streamed messages: the exact order of events, and Anthropic's own library as the reader."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import anthropic
import httpx2
import pydantic
import pytest

from quern.api.anthropic import answer
from quern.api.shared import sse

from .conftest import Quern, Start
from .engines import saying
from .messages import library

USER: list[Any] = [{"role": "user", "content": "hi"}]
ASKED: dict[str, Any] = {"model": "fake", "max_tokens": 1000, "messages": USER}
WEATHER: Any = {
    "name": "weather",
    "input_schema": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
}
CALL = '<tool_call>\n{"name": "weather", "arguments": {"city": "Paris"}}\n</tool_call>'


async def streamed(quern: Quern, **body: Any) -> list[dict[str, Any]]:
    """The data of every event; each event is named like its data's type."""
    return events(await quern.client.post("/v1/messages", json={**ASKED, "stream": True, **body}))


def events(response: httpx2.Response) -> list[dict[str, Any]]:
    assert response.status_code == 200, response.text
    assert response.headers["content-type"] == "text/event-stream; charset=utf-8"
    *written, rest = response.text.split("\n\n")
    assert rest == ""
    data: list[dict[str, Any]] = []
    for event in written:
        name, line = event.split("\n")
        data.append(json.loads(line.removeprefix("data: ")))
        assert name == f"event: {data[-1]['type']}"
    return data


async def test_a_text_is_one_block_between_the_messages_start_and_its_end(start: Start) -> None:
    async with start(saying("你!")) as quern:
        begun, *sent = await streamed(quern)
    started = begun.pop("message")
    assert started.pop("id").startswith("msg_")
    assert begun == {"type": "message_start"}
    assert started == {
        "type": "message",
        "role": "assistant",
        "model": "fake",
        "content": [],
        "stop_reason": None,
        "stop_sequence": None,
        "usage": {
            "input_tokens": 21,
            "cache_creation_input_tokens": 0,
            "cache_read_input_tokens": 0,
            "output_tokens": 0,
        },
    }
    assert sent == [
        {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
        {"type": "ping"},
        {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "你"}},
        {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "!"}},
        {"type": "content_block_stop", "index": 0},
        {
            "type": "message_delta",
            "delta": {"stop_reason": "end_turn", "stop_sequence": None},
            "usage": {
                "input_tokens": 21,
                "cache_creation_input_tokens": 0,
                "cache_read_input_tokens": 0,
                "output_tokens": 4,
            },
        },
        {"type": "message_stop"},
    ]


async def test_each_text_and_each_call_is_a_block_of_its_own(start: Start) -> None:
    async with start(saying(f"One.\n{CALL}\nTwo.\n{CALL}\n{CALL}")) as quern:
        sent = await streamed(quern, tools=[WEATHER])
    blocks = [
        data for data in sent if data["type"].startswith("content_block_") and data["type"] != "content_block_delta"
    ]
    assert [(data["type"], data["index"]) for data in blocks] == [
        (kind, index) for index in range(5) for kind in ("content_block_start", "content_block_stop")
    ]
    started = [data["content_block"] for data in blocks if data["type"] == "content_block_start"]
    assert [block["type"] for block in started] == ["text", "tool_use", "text", "tool_use", "tool_use"]
    assert [block["input"] for block in started if block["type"] == "tool_use"] == [{}, {}, {}]
    for index in (1, 3, 4):
        deltas = [data["delta"] for data in sent if data["type"] == "content_block_delta" and data["index"] == index]
        assert {delta["type"] for delta in deltas} == {"input_json_delta"}
        assert json.loads("".join(delta["partial_json"] for delta in deltas)) == {"city": "Paris"}
    assert sent[-2]["delta"] == {"stop_reason": "tool_use", "stop_sequence": None}


async def test_every_event_is_one_of_the_librarys_types(start: Start) -> None:
    event: pydantic.TypeAdapter[object] = pydantic.TypeAdapter(anthropic.types.RawMessageStreamEvent)
    async with start(saying(f"One.\n{CALL}")) as quern:
        sent = await streamed(quern, tools=[WEATHER])
    for data in sent:
        if data["type"] != "ping":
            event.validate_python(data, strict=True)


async def test_an_empty_answer_has_no_blocks_but_ends_properly(start: Start) -> None:
    async with start(saying("")) as quern:
        sent = await streamed(quern)
    assert [data["type"] for data in sent] == ["message_start", "message_delta", "message_stop"]


async def test_cached_prompt_tokens_are_known_when_the_message_starts(quern: Quern) -> None:
    await streamed(quern)
    begun, *_, ended, _stopped = await streamed(quern)
    usage = begun["message"]["usage"]
    assert usage["cache_read_input_tokens"] > 0
    assert usage == {**ended["usage"], "output_tokens": 0}


async def test_a_stop_sequence_is_named_at_the_end(start: Start) -> None:
    async with start(saying("one END two")) as quern:
        sent = await streamed(quern, stop_sequences=["END"])
    assert sent[-2]["delta"] == {"stop_reason": "stop_sequence", "stop_sequence": "END"}


async def test_an_answer_that_fails_ends_with_an_error_event(start: Start) -> None:
    async with start(saying("hello", fail_after=2)) as quern:
        sent = await streamed(quern)
    assert [data["type"] for data in sent[-2:]] == ["content_block_delta", "error"]
    assert sent[-1]["error"]["type"] == "api_error"
    assert "failed after 2 tokens" in sent[-1]["error"]["message"]


async def silent_stream(
    start: Start, monkeypatch: pytest.MonkeyPatch, text: str, **delays: float
) -> tuple[list[dict[str, Any]], anthropic.types.Message]:
    """An answer that comes after many silences: its events, and what the library makes of them."""
    monkeypatch.setattr(sse, "KEEP_ALIVE_SECONDS", 0.005)
    monkeypatch.setattr(answer, "SILENCES_FOR_A_DELTA", 3)
    async with start(saying(text, **delays), live=True) as quern, library(quern) as client:
        sent = await streamed(quern, tools=[WEATHER])
        async with client.messages.stream(model="fake", max_tokens=1000, messages=USER, tools=[WEATHER]) as stream:
            final = await stream.get_final_message()
    return sent, final


def kinds(sent: list[dict[str, Any]]) -> list[str]:
    """The types of the events, those of deltas and blocks with what they are of; the same ones in a row once."""
    named = [
        f"{data['type']} {data['content_block']['type']}" if "content_block" in data else data["type"] for data in sent
    ]
    return [name for name, before in zip(named, [None, *named], strict=False) if name != before]


EMPTY_TEXT = {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": ""}}


async def test_silence_is_filled_with_pings_and_now_and_then_with_an_empty_text(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent, final = await silent_stream(start, monkeypatch, "ab", token_delay=0.05)
    assert sent.count({"type": "ping"}) > 1
    assert EMPTY_TEXT in sent
    deltas = [data for data in sent if data["type"] == "content_block_delta"]
    assert "".join(data["delta"]["text"] for data in deltas) == "ab"
    assert {data["index"] for data in deltas} == {0}
    assert [block.type for block in final.content] == ["text"]
    assert final.content[0].model_dump()["text"] == "ab"


async def test_a_call_after_a_long_silence_comes_whole_behind_an_empty_text(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent, final = await silent_stream(start, monkeypatch, CALL, prefill_delay=0.2)
    assert EMPTY_TEXT in sent
    assert [kind for kind in kinds(sent) if kind.startswith("content_block_start")] == [
        "content_block_start text",
        "content_block_start tool_use",
    ]
    assert [block.type for block in final.content] == ["text", "tool_use"]
    assert final.content[0].model_dump()["text"] == ""
    assert final.content[1].model_dump()["input"] == {"city": "Paris"}
    assert final.stop_reason == "tool_use"


async def test_silence_within_a_call_leaves_its_arguments_alone(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    sent, final = await silent_stream(start, monkeypatch, CALL, token_delay=0.02)
    empty = [data for data in sent if data.get("delta") == {"type": "input_json_delta", "partial_json": ""}]
    assert empty
    assert final.content[-1].model_dump()["input"] == {"city": "Paris"}


async def test_a_message_that_waits_for_its_place_starts_all_the_same(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sse, "KEEP_ALIVE_SECONDS", 0.005)
    engine = saying("a" * 10, token_delay=0.03, parallel=1)
    async with start(engine) as quern:
        first = asyncio.ensure_future(streamed(quern))
        while not quern.engine.stats().running:
            await asyncio.sleep(0.005)
        sent = await streamed(quern)
        await first
    assert [data["type"] for data in sent[:2]] == ["message_start", "ping"]
    assert [data["type"] for data in sent].count("message_start") == 1
    assert sent[0]["message"]["usage"]["input_tokens"] == 21
    usage = sent[-2]["usage"]
    assert (usage["input_tokens"] + usage["cache_read_input_tokens"], usage["output_tokens"]) == (21, 10)
    assert usage["cache_read_input_tokens"] > 0, "what is known only later is told at the end"


async def test_an_empty_text_sent_back_is_nothing_to_the_model(start: Start) -> None:
    call = {"type": "tool_use", "id": "toolu_1", "name": "weather", "input": {"city": "Paris"}}
    result = {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "toolu_1", "content": "sunny"}]}
    async with start(saying("ok")) as quern:
        for content in ([call], [{"type": "text", "text": ""}, call]):
            await streamed(quern, tools=[WEATHER], messages=[*USER, {"role": "assistant", "content": content}, result])
        first, second = quern.engine.requests
    assert first.prompt == second.prompt


async def test_a_refused_stream_is_a_plain_error(quern: Quern) -> None:
    response = await quern.client.post("/v1/messages", json={**ASKED, "stream": True, "max_tokens": -1})
    assert response.status_code == 400
    assert response.json()["type"] == "error"


async def test_the_library_reads_a_whole_message(start: Start) -> None:
    async with start(saying("你好!"), live=True) as quern, library(quern) as client:
        message = await client.messages.create(model="fake", max_tokens=1000, messages=USER)
    assert anthropic.types.Message.model_validate(message.model_dump()) == message
    assert message.content == [anthropic.types.TextBlock(type="text", text="你好!")]
    assert message._request_id


async def test_the_library_puts_a_stream_together(start: Start) -> None:
    async with start(saying(f"Let me look. 🦄\n{CALL}"), live=True) as quern, library(quern) as client:
        async with client.messages.stream(model="fake", max_tokens=1000, messages=USER, tools=[WEATHER]) as stream:
            text = [piece async for piece in stream.text_stream]
            final = await stream.get_final_message()
        whole = await client.messages.create(model="fake", max_tokens=1000, messages=USER, tools=[WEATHER])
    assert "".join(text) == "Let me look. 🦄"
    assert [block.type for block in final.content] == [block.type for block in whole.content] == ["text", "tool_use"]
    assert final.content[1].model_dump()["input"] == whole.content[1].model_dump()["input"] == {"city": "Paris"}
    assert (final.stop_reason, final.usage.output_tokens) == (whole.stop_reason, whole.usage.output_tokens)


async def test_a_call_and_its_result_go_round_with_the_library(start: Start) -> None:
    async with start(saying(CALL, "It is sunny."), live=True) as quern, library(quern) as client:
        async with client.messages.stream(model="fake", max_tokens=1000, messages=USER, tools=[WEATHER]) as stream:
            first = await stream.get_final_message()
        (call,) = first.content
        assert call.type == "tool_use"
        result: Any = {"role": "user", "content": [{"type": "tool_result", "tool_use_id": call.id, "content": "sunny"}]}
        messages: list[Any] = [*USER, first.to_param(), result]
        second = await client.messages.create(model="fake", max_tokens=1000, messages=messages, tools=[WEATHER])
        prompt = quern.codec.tokenizer.decode(quern.engine.requests[1].prompt)
    assert second.content[0].model_dump()["text"] == "It is sunny."
    assert prompt.endswith(f"assistant\n\n{CALL}\ntool\nsunny\nassistant\n")


async def test_the_library_runs_tools_in_a_loop(start: Start) -> None:
    asked: list[str] = []

    @anthropic.beta_async_tool
    async def weather(city: str) -> str:
        """The weather of a city."""
        asked.append(city)
        return "sunny"

    async with start(saying(CALL, "It is sunny."), live=True) as quern, library(quern) as client:
        final = await client.beta.messages.tool_runner(
            model="fake", max_tokens=1000, messages=USER, tools=[weather]
        ).until_done()
    assert asked == ["Paris"]
    assert final.content[0].model_dump()["text"] == "It is sunny."


async def test_the_library_parses_an_answer_of_a_schema(start: Start) -> None:
    class City(pydantic.BaseModel):
        name: str

    async with start(saying('{"name": "Paris"}'), live=True) as quern, library(quern) as client:
        message = await client.messages.parse(model="fake", max_tokens=1000, messages=USER, output_format=City)
        assert quern.engine.requests[0].grammar is not None
    assert message.parsed_output == City(name="Paris")


async def test_the_library_counts_tokens(start: Start) -> None:
    async with start(live=True) as quern, library(quern) as client:
        counted = await client.messages.count_tokens(model="fake", messages=USER, tools=[WEATHER])
        message = await client.messages.create(model="fake", max_tokens=1000, messages=USER, tools=[WEATHER])
    assert counted.input_tokens == message.usage.input_tokens


async def test_errors_are_the_librarys_own(start: Start) -> None:
    async with start(saying("hello", fail_after=2), live=True) as quern, library(quern) as client:
        with pytest.raises(anthropic.NotFoundError, match="is not served here"):
            await client.messages.create(model="claude-nobody", max_tokens=1000, messages=USER)
        with pytest.raises(anthropic.BadRequestError, match="temperature") as refused:
            await client.messages.create(model="fake", max_tokens=1000, messages=USER, extra_body={"temperature": 2})
        with pytest.raises(anthropic.APIStatusError, match="failed after 2 tokens"):
            async with client.messages.stream(model="fake", max_tokens=1000, messages=USER) as stream:
                await stream.get_final_message()
    assert refused.value.request_id
    assert refused.value.type == "invalid_request_error"
