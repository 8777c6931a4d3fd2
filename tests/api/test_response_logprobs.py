"""Probabilities of tokens in Responses, whole and streamed."""

from __future__ import annotations

from typing import Any

import pytest
from openai.types.responses import ResponseOutputMessage, ResponseOutputText

from .conftest import Start
from .engines import saying
from .openai_clients import WEATHER, call_text, events_of, official, respond, responded

LOGPROBS = "message.output_text.logprobs"


@pytest.mark.parametrize(
    ("asked", "likeliest"),
    [({"include": [LOGPROBS]}, 0), ({"top_logprobs": 2}, 2), ({"include": [LOGPROBS], "top_logprobs": 1}, 1)],
)
async def test_they_are_told_with_the_text(start: Start, asked: dict[str, Any], likeliest: int) -> None:
    async with start(saying("Grüße!")) as quern:
        body = await responded(quern, **asked)
        tokens = body["output"][0]["content"][0]["logprobs"]
        assert bytes(byte for token in tokens for byte in token["bytes"]).decode() == "Grüße!"
        assert {len(token["top_logprobs"]) for token in tokens} == {likeliest}
        assert all(token["logprob"] <= 0 for token in tokens)
        assert body["top_logprobs"] == asked.get("top_logprobs", 0)
        events = events_of(await respond(quern, **asked, stream=True))
        deltas = [one for event in events if event["type"] == "response.output_text.delta" for one in event["logprobs"]]
        (done,) = [event for event in events if event["type"] == "response.output_text.done"]
        (part,) = [event["part"] for event in events if event["type"] == "response.content_part.done"]
        assert deltas == done["logprobs"] == part["logprobs"] == tokens


async def test_those_of_a_call_are_not_told(start: Start) -> None:
    async with start(saying(f"Look:\n{call_text('Oslo')}")) as quern:
        message, call = (await responded(quern, tools=[WEATHER], include=[LOGPROBS]))["output"]
        told = b"".join(bytes(token["bytes"]) for token in message["content"][0]["logprobs"])
        assert told.decode().strip() == "Look:"
        assert "logprobs" not in call


async def test_without_being_asked_for_there_are_none(start: Start) -> None:
    async with start(saying("answer")) as quern:
        for asked in ({}, {"top_logprobs": 0}, {"include": ["reasoning.encrypted_content"]}):
            assert (await responded(quern, **asked))["output"][0]["content"][0]["logprobs"] == []


async def test_the_official_client_reads_them(start: Start) -> None:
    async with start(saying("answer"), live=True) as quern, official(quern) as client:
        whole = await client.responses.create(model="fake", input="x", include=[LOGPROBS], top_logprobs=1)
        (message,) = whole.output
        assert isinstance(message, ResponseOutputMessage)
        (part,) = message.content
        assert isinstance(part, ResponseOutputText)
        assert part.logprobs
        assert part.logprobs[0].top_logprobs
        async with client.responses.stream(model="fake", input="x", top_logprobs=1) as stream:
            deltas = [event async for event in stream if event.type == "response.output_text.delta"]
        assert deltas[0].logprobs
