"""Responses: asked for, fetched, continued, cancelled, deleted, and what is refused."""

from __future__ import annotations

import json
import uuid
from typing import Any

import openai
import pytest

from quern.grammar.kinds import JsonGrammar

from .conftest import Start
from .engines import saying
from .openai_clients import (
    WEATHER,
    call_text,
    error_of,
    fetched,
    official,
    output_text,
    prompt_text,
    respond,
    responded,
)


async def test_a_response_has_the_documented_shape_and_is_the_same_when_fetched(start: Start) -> None:
    async with start(saying("你好!")) as quern:
        body = await responded(quern, instructions="Be kind.", metadata={"a": "b"}, max_output_tokens=50, seed=1)
        assert await fetched(quern, body["id"]) == body
    identity = body.pop("id")
    assert identity.startswith("resp_")
    assert uuid.UUID(identity.removeprefix("resp_")).hex == identity.removeprefix("resp_")
    assert body.pop("completed_at") >= body.pop("created_at")
    item_id = body["output"][0].pop("id")
    assert item_id.startswith("msg_")
    assert body == {
        "object": "response",
        "status": "completed",
        "background": False,
        "error": None,
        "incomplete_details": None,
        "model": "fake",
        "output": [
            {
                "status": "completed",
                "type": "message",
                "role": "assistant",
                "content": [{"type": "output_text", "text": "你好!", "annotations": [], "logprobs": []}],
            }
        ],
        "previous_response_id": None,
        "conversation": None,
        "usage": {
            "input_tokens": 39,
            "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
            "output_tokens": 7,
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": 46,
        },
        "truncation": "disabled",
        "top_logprobs": 0,
        "service_tier": "default",
        "reasoning": None,
        "max_tool_calls": None,
        "prompt_cache_key": None,
        "safety_identifier": None,
        "user": None,
        "tools": [],
        "tool_choice": "auto",
        "parallel_tool_calls": True,
        "instructions": "Be kind.",
        "max_output_tokens": 50,
        "metadata": {"a": "b"},
        "store": True,
        "temperature": 0.7,
        "top_p": 0.8,
        "presence_penalty": 0.0,
        "frequency_penalty": 0.0,
        "text": {"format": {"type": "text"}},
    }


async def test_the_official_client_reads_all_that_is_answered(start: Start) -> None:
    async with start(saying("Sunny. " + call_text("北京")), live=True) as quern, official(quern) as client:
        tools: Any = [WEATHER]
        schema: Any = {"format": {"type": "json_schema", "name": "x", "schema": {"type": "object"}, "strict": True}}
        first = await client.responses.create(model="fake", input="hi", tools=tools, store=True, text=schema)
        assert first.output_text == "Sunny."
        message, call = first.output
        assert (message.type, call.type) == ("message", "function_call")
        assert call.type == "function_call"
        assert json.loads(call.arguments) == {"city": "北京"}
        assert (call.name, call.status) == ("weather", "completed")
        assert first.usage is not None
        assert first.usage.total_tokens == first.usage.input_tokens + first.usage.output_tokens
        assert await client.responses.retrieve(first.id) == first
        result: Any = {"type": "function_call_output", "call_id": call.call_id, "output": "rain"}
        second = await client.responses.create(
            model="fake", input=[result], previous_response_id=first.id, tools=tools, tool_choice="none"
        )
        assert second.previous_response_id == first.id
        listed = await client.responses.input_items.list(second.id)
        assert [item.type for item in listed.data] == ["function_call_output"]
        await client.responses.delete(first.id)
        with pytest.raises(openai.NotFoundError):
            await client.responses.retrieve(first.id)


async def test_items_are_read_as_what_was_said(start: Start) -> None:
    items: list[dict[str, Any]] = [
        {"role": "developer", "content": "Be brief."},
        {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "Weather?"}]},
        {"type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": "x"},
        {
            "type": "message",
            "id": "msg_1",
            "status": "completed",
            "role": "assistant",
            "phase": "commentary",
            "content": [{"type": "output_text", "text": "I look.", "annotations": [], "logprobs": []}],
        },
        {
            "type": "function_call",
            "id": "fc_1",
            "status": "completed",
            "call_id": "c1",
            "name": "weather",
            "arguments": '{"city": "Ulm"}',
        },
        {"type": "function_call_output", "call_id": "c1", "output": [{"type": "input_text", "text": "rain"}]},
    ]
    async with start(saying("ok")) as quern:
        await responded(quern, input=items)
        text = prompt_text(quern)
    said = ["Be brief.", "Weather?", "I look.", '"weather"', '"Ulm"', "rain"]
    places = [text.index(part) for part in said]
    assert places == sorted(places)
    assert "encrypted" not in text


async def test_items_go_back_as_the_official_library_writes_them(start: Start) -> None:
    async with start(saying("Hm." + call_text("Ulm")), live=True) as quern, official(quern) as client:
        tools: Any = [WEATHER]
        first = await client.responses.create(model="fake", input="hi", tools=tools, store=False)
        dumped: list[dict[str, Any]] = [item.model_dump() for item in first.output]
        assert any(None in item.values() for item in dumped), "the library writes what it doesn't know as null"
        result = {"type": "function_call_output", "call_id": dumped[-1]["call_id"], "output": "sunny"}
        said: Any = [{"role": "user", "content": "hi"}, *dumped, result]
        second = await client.responses.create(model="fake", input=said, tools=tools, store=False)
    assert second.status == "completed"


async def test_a_response_goes_on_from_another_without_its_instructions(start: Start) -> None:
    async with start(saying("answer")) as quern:
        first = await responded(quern, input="one", instructions="First rules.")
        second = await responded(
            quern, input="two", previous_response_id=first["id"], instructions="Second rules.", store=False
        )
        assert second["previous_response_id"] == first["id"]
        text = prompt_text(quern)
        assert text.index("Second rules.") < text.index("one") < text.index("answer") < text.index("two")
        assert "First rules." not in text


async def test_two_responses_from_one_are_forks(start: Start) -> None:
    async with start(saying("answer")) as quern:
        root = await responded(quern, input="root")
        left = await responded(quern, input="left", previous_response_id=root["id"])
        right = await responded(quern, input="right", previous_response_id=root["id"])
        await responded(quern, input="on", previous_response_id=left["id"])
        assert "root" in prompt_text(quern)
        assert "right" not in prompt_text(quern)
        await responded(quern, input="on", previous_response_id=right["id"])
        assert "left" not in prompt_text(quern)


async def test_responses_outlive_the_server(start: Start) -> None:
    async with start(saying("answer")) as quern:
        first = await responded(quern, input="one", tools=[WEATHER])
        second = await responded(quern, input="two", previous_response_id=first["id"], tools=[WEATHER])
        assert second["usage"]["input_tokens_details"]["cached_tokens"] > first["usage"]["input_tokens"]
    async with start(saying("again")) as quern:
        assert await fetched(quern, first["id"]) == first
        third = await responded(quern, input="three", previous_response_id=second["id"])
        text = prompt_text(quern)
        assert text.index("one") < text.index("two") < text.index("three")
        assert output_text(third) == "again"


async def test_a_demanded_call_opens_the_answer_and_its_result_goes_back(start: Start) -> None:
    called = call_text("Ulm").removeprefix("<tool_call>\n")
    async with start(saying(called)) as quern:
        choice = {"type": "function", "name": "weather"}
        body = await responded(quern, tools=[WEATHER], tool_choice=choice, parallel_tool_calls=False)
        assert prompt_text(quern).endswith("<tool_call>\n")
        assert quern.engine.requests[-1].grammar is not None
        (call,) = body["output"]
        assert call.items() >= {"type": "function_call", "name": "weather", "arguments": '{"city": "Ulm"}'}.items()
        assert (body["tool_choice"], body["tools"]) == (choice, [WEATHER])
        assert await fetched(quern, body["id"]) == body
        result = {"type": "function_call_output", "call_id": call["call_id"], "output": "rain"}
        await responded(quern, input=[result], previous_response_id=body["id"])
        text = prompt_text(quern)
        assert text.index('"Ulm"') < text.index("rain")


async def test_formats_become_grammars(start: Start) -> None:
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}}
    wanted = {"type": "json_schema", "name": "answer", "schema": schema}
    async with start(saying("{}")) as quern:
        body = await responded(quern, text={"format": wanted, "verbosity": "low"})
        assert body["text"] == {"format": wanted, "verbosity": "low"}
        assert quern.engine.requests[-1].grammar == JsonGrammar(json.dumps(schema))
        await responded(quern, text={"format": {"type": "json_object"}})
        assert quern.engine.requests[-1].grammar == JsonGrammar('{"type":"object"}')
        await responded(quern, text={"format": {"type": "text"}})
        assert quern.engine.requests[-1].grammar is None


async def test_sampling_fields_reach_the_engine(start: Start) -> None:
    async with start(saying("ok then")) as quern:
        body = await responded(quern, temperature=0, top_p=0.5, top_k=-1, seed=7, stop="th", max_output_tokens=9)
        sampling = quern.engine.requests[-1].sampling
    assert (sampling.temperature, sampling.top_p, sampling.top_k, sampling.seed) == (0, 0.5, 0, 7)
    assert sampling.max_tokens == 9
    assert (output_text(body), body["status"], body["temperature"]) == ("ok ", "completed", 0)


async def test_fields_without_a_meaning_here_change_nothing(start: Start) -> None:
    ignored: dict[str, Any] = {
        "background_options": {"completion_window": "soonest"},
        "image": {"context_compression": "auto"},
        "include": ["reasoning.encrypted_content", "file_search_call.results"],
        "max_tool_calls": 3,
        "prompt_cache_key": "k",
        "prompt_cache_options": {"mode": "implicit"},
        "prompt_cache_retention": "24h",
        "reasoning": {"effort": "low", "summary": "auto"},
        "safety_identifier": "s",
        "service_tier": "auto",
        "stream_options": {"include_obfuscation": False},
        "top_logprobs": 0,
        "truncation": "disabled",
        "user": "u",
    }
    async with start(saying("ok")) as quern:
        await responded(quern)
        plain = quern.engine.requests[-1]
        assert output_text(await responded(quern, **ignored)) == "ok"
        assert quern.engine.requests[-1] == plain


async def test_input_items_come_in_pages_newest_first(start: Start) -> None:
    items = [{"role": "user", "content": str(number)} for number in range(5)]
    async with start(saying("answer")) as quern:
        first = await responded(quern, input=items)
        second = await responded(quern, input="next", previous_response_id=first["id"])
        path = f"/v1/responses/{first['id']}/input_items"
        page = (await quern.client.get(path, params={"limit": 2})).json()
        assert page.keys() == {"object", "data", "first_id", "last_id", "has_more"}
        assert [item["content"][0]["text"] for item in page["data"]] == ["4", "3"]
        assert (page["first_id"], page["last_id"]) == (page["data"][0]["id"], page["data"][1]["id"])
        assert page["has_more"] is True
        rest = (await quern.client.get(path, params={"after": page["last_id"]})).json()
        assert [item["content"][0]["text"] for item in rest["data"]] == ["2", "1", "0"]
        assert rest["has_more"] is False
        upward = (await quern.client.get(path, params={"order": "asc"})).json()
        assert upward["data"] == [*rest["data"][::-1], *page["data"][::-1]]
        own = (await quern.client.get(f"/v1/responses/{second['id']}/input_items")).json()
        assert [item["content"][0]["text"] for item in own["data"]] == ["next"]
        for after in ("msg_1", f"msg_{uuid.uuid4().hex}", second["output"][0]["id"]):
            param, message = error_of(await quern.client.get(path, params={"after": after}), 400)
            assert (param, after in message) == ("after", True)


async def test_an_item_that_is_referred_to_is_said_again(start: Start) -> None:
    async with start(saying("remembered")) as quern:
        first = await responded(quern, input="question")
        reference = {"type": "item_reference", "id": first["output"][0]["id"]}
        body = await responded(
            quern, input=[{"role": "user", "content": "a"}, reference, {"role": "user", "content": "b"}]
        )
        text = prompt_text(quern)
        assert text.index("a\n") < text.index("remembered") < text.rindex("b")
        assert "question" not in text
        listed = (await quern.client.get(f"/v1/responses/{body['id']}/input_items")).json()
        assert [item["role"] for item in listed["data"]] == ["user", "assistant", "user"]
        for unknown in (f"msg_{uuid.uuid4().hex}", "msg_1"):
            answer = await respond(quern, input=[{"type": "item_reference", "id": unknown}])
            assert "id is wrong" in error_of(answer, 404)[1]


async def test_input_tokens_are_counted_as_the_response_will_count_them(start: Start) -> None:
    async with start(saying("answer")) as quern:
        first = await responded(quern)
        asked: dict[str, Any] = {
            "input": "how many?",
            "instructions": "Count.",
            "tools": [WEATHER],
            "previous_response_id": first["id"],
        }
        counted = await quern.client.post("/v1/responses/input_tokens", json=asked)
        assert counted.json() == {
            "object": "response.input_tokens",
            "input_tokens": (await responded(quern, **asked))["usage"]["input_tokens"],
        }
        other = await quern.client.post("/v1/responses/input_tokens", json={"input": "x", "temperature": 1})
        assert other.headers["x-quern-ignored"] == "temperature"
