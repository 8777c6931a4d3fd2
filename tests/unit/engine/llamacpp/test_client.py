"""The protocol's client against servers that misbehave."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import pytest

from quern.engine.base import EngineEvent, GenerateRequest, Logprob, Tokens
from quern.engine.llamacpp.client import LlamaServer
from quern.engine.llamacpp.slot_generation import SlotGeneration
from quern.engine.slots import SlotTable
from quern.errors import EngineFailed
from quern.events import Prefill
from quern.sampling import SamplingParams

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n"
PROGRESS = (
    b'data: {"content":"","tokens":[0],"stop":false,"tokens_predicted":0,'
    b'"prompt_progress":{"total":2,"cache":0,"processed":2,"time_ms":1}}\n\n'
)
NOTHING_ELSE = b"HTTP/1.1 500 Internal Server Error\r\nContent-Length: 0\r\n\r\n"
IDS = b'HTTP/1.1 200 OK\r\nContent-Length: 16\r\nConnection: close\r\n\r\n{"tokens":[8,9]}'
TOKEN = b'data: {"content":"a","tokens":[7],"stop":false,"tokens_predicted":1}\n\n'


@asynccontextmanager
async def _answering(answer: bytes, *, reset: bool = False, tokenizes: bool = False) -> AsyncGenerator[LlamaServer]:
    """A client of a server that gives one answer to completions, then closes the connection or breaks it; the ids of
    every text are 8 and 9 where `tokenizes`.
    """

    async def respond(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        request = await reader.readuntil(b"\r\n\r\n")
        other = IDS if tokenizes and request.startswith(b"POST /tokenize ") else NOTHING_ELSE
        writer.write(answer if request.startswith(b"POST /completion ") else other)
        await writer.drain()
        if reset:
            await asyncio.sleep(0.05)
            writer.transport.abort()
        writer.close()

    async with await asyncio.start_server(respond, "127.0.0.1", 0) as listening:
        port = listening.sockets[0].getsockname()[1]
        server = LlamaServer(f"http://127.0.0.1:{port}", "key", connections=2, trust_env=False)
        yield server
        await server.close()


async def _generate(server: LlamaServer, logprobs: int | None = None) -> tuple[list[EngineEvent], EngineFailed]:
    """Everything until the failure, and the failure."""
    request = GenerateRequest((1, 2), SamplingParams(max_tokens=5, logprobs=logprobs))
    sequence = SlotGeneration(request, server, SlotTable(1))
    events: list[EngineEvent] = []
    try:
        async for event in sequence.events():
            events.append(event)  # noqa: PERF401 (a comprehension would lose them with the failure)
    except EngineFailed as error:
        return events, error
    pytest.fail("the generation did not fail")


@pytest.mark.parametrize("reset", [False, True])
async def test_an_answer_that_breaks_off_is_a_failure_after_what_came(reset: bool) -> None:
    async with _answering(HEAD + PROGRESS + TOKEN, reset=reset) as server:
        events, error = await _generate(server)
    assert events == [Prefill(2, 2, 0), Tokens((7,))]
    assert "lost" in str(error)


async def test_a_connection_that_closes_without_an_answer_is_a_failure() -> None:
    async with _answering(b"") as server:
        events, error = await _generate(server)
    assert not events
    assert "lost" in str(error)


async def test_a_refusal_is_told_in_the_servers_words() -> None:
    body = b'{"error":{"code":400,"message":"Prompt contains invalid tokens","type":"invalid_request_error"}}'
    head = b"HTTP/1.1 400 Bad Request\r\nContent-Length: %d\r\n\r\n" % len(body)
    async with _answering(head + body) as server:
        _, error = await _generate(server)
    assert str(error) == "The inference server refused or dropped this request: Prompt contains invalid tokens."


async def test_a_refusal_without_words_is_told_by_its_status() -> None:
    async with _answering(b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 6\r\n\r\n<html>") as server:
        _, error = await _generate(server)
    assert "HTTP status 502" in str(error)


async def test_ids_that_cannot_be_asked_for_any_more_are_a_failure_not_a_gap() -> None:
    swallowed = TOKEN.replace(b'"tokens_predicted":1', b'"tokens_predicted":3')
    async with _answering(HEAD + PROGRESS + swallowed) as server:
        events, error = await _generate(server)
    assert events == [Prefill(2, 2, 0)]
    assert "lost" in str(error)


def _told(token: int, text: str, predicted: int) -> bytes:
    """A token with its probability and those of the two likeliest."""
    top = [{"id": 7, "logprob": -0.25}, {"id": 1, "logprob": -1.5}]
    told = [{"id": token, "logprob": -0.25, "top_logprobs": top}]
    event = {"content": text, "tokens": [token], "stop": False, "tokens_predicted": predicted}
    return b"data: " + json.dumps(event | {"completion_probabilities": told}).encode() + b"\n\n"


@pytest.mark.parametrize(("asked", "top"), [(0, ()), (1, ((7, -0.25),)), (2, ((7, -0.25), (1, -1.5)))])
async def test_as_many_of_the_likeliest_are_told_as_were_asked_for(
    asked: int, top: tuple[tuple[int, float], ...]
) -> None:
    async with _answering(HEAD + PROGRESS + _told(7, "a", 1)) as server:
        events, _ = await _generate(server, asked)
    assert events[1:] == [Tokens((7,), (Logprob(-0.25, top),))]


async def test_a_probability_that_nobody_told_is_not_made_up() -> None:
    stream = _told(7, "a", 1) + _told(3, "", 2) + _told(9, "龘", 4) + _told(7, "a", 5)
    async with _answering(HEAD + PROGRESS + stream, tokenizes=True) as server:
        events, _ = await _generate(server, 0)
    told = (Logprob(-0.25),)
    assert events[1:] == [Tokens((7,), told), Tokens((3,), told), Tokens((8, 9)), Tokens((7,), told)]


async def test_where_nothing_listens_or_the_client_is_closed_it_is_a_connection_error(unused_tcp_port: int) -> None:
    server = LlamaServer(f"http://127.0.0.1:{unused_tcp_port}", "", connections=1, trust_env=False)
    for _ in range(2):
        with pytest.raises(ConnectionError):
            await server.facts()
        with pytest.raises(ConnectionError):
            await anext(server.complete({"prompt": [1]}))
        with pytest.raises(ConnectionError):
            await server.ready()
        await server.close()
