"""`POST /v1/responses/compact`: a conversation made short by the model, and read again."""

from __future__ import annotations

from typing import Any

import httpx2
import openai
import pytest

from .conftest import Quern, Start
from .engines import saying
from .openai_clients import WEATHER, call_text, error_of, prompt_text, responded


async def compact(quern: Quern, **body: Any) -> httpx2.Response:
    return await quern.client.post("/v1/responses/compact", json=body)


SAID = [
    {"role": "developer", "content": "Be brief."},
    {"role": "user", "content": "Fix a.py."},
    {"type": "function_call", "call_id": "c", "name": "weather", "arguments": "{}"},
    {"type": "function_call_output", "call_id": "c", "output": "rain"},
    {"role": "assistant", "content": "It rains."},
]


async def test_what_was_said_becomes_what_the_user_said_and_a_summary(start: Start) -> None:
    async with start(saying("The user wants a.py fixed.", "answer")) as quern:
        answer = await compact(quern, model="fake", input=SAID, instructions="You are an agent.", tools=[WEATHER])
        assert answer.status_code == 200, answer.text
        body = answer.json()
        assert "You are an agent." in prompt_text(quern)
        assert "It rains." in prompt_text(quern)
        assert "Write that summary" in prompt_text(quern)
        assert body["object"] == "response.compaction"
        message, summary = body["output"]
        assert (message["role"], message["content"][0]["text"]) == ("user", "Fix a.py.")
        assert summary["type"] == "compaction"
        assert body["usage"]["output_tokens"] > 0
        await responded(quern, input=[*body["output"], {"role": "user", "content": "go on"}])
        assert "The user wants a.py fixed." in prompt_text(quern)
        assert "It rains." not in prompt_text(quern)


async def test_a_response_can_be_made_short_with_all_that_led_to_it(start: Start) -> None:
    async with start(saying("one", "two", "short")) as quern:
        first = await responded(quern, input="first")
        second = await responded(quern, input="second", previous_response_id=first["id"])
        body = (await compact(quern, model="fake", previous_response_id=second["id"])).json()
        assert [item["content"][0]["text"] for item in body["output"][:-1]] == ["first", "second"]
        assert "two" in prompt_text(quern)


async def test_a_summary_is_of_text_alone_and_never_stored(start: Start) -> None:
    async with start(saying(call_text("Oslo"))) as quern:
        body = (await compact(quern, model="fake", input=SAID, tools=[WEATHER], tool_choice="required")).json()
        assert '"name": "weather", "description"' not in prompt_text(quern)
        assert (await quern.client.get(f"/v1/responses/{body['id']}")).status_code == 404


async def test_what_cannot_be_made_short_is_refused(start: Start) -> None:
    async with start(saying("x", context_length=600)) as quern:
        assert error_of(await compact(quern, model="fake", conversation="x", input="x"), 400)[0] == "conversation"
        assert error_of(await compact(quern, model="fake"), 400)[0] == "input"
        full = await compact(quern, model="fake", input="x" * 3000)
        assert full.json()["error"]["code"] == "context_length_exceeded"
        unknown = await compact(quern, model="fake", input="x", previous_response_id="resp_" + "0" * 32)
        assert unknown.status_code == 404


@pytest.mark.filterwarnings("ignore:Pydantic serializer warnings")
async def test_the_official_client_reads_it(start: Start) -> None:
    async with start(saying("short"), live=True) as quern:
        url = str(quern.client.base_url).rstrip("/")
        async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="unused", max_retries=0) as client:
            compacted = await client.responses.compact(model="fake", input=[{"role": "user", "content": "hi"}])
            assert compacted.output[-1].type == "compaction"
            answer = await client.responses.create(model="fake", input=compacted.output)  # type: ignore[arg-type]
            assert answer.output_text == "short"
