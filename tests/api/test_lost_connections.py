"""Connections that are cut: a client that asks again gets the answer that it had begun to get, paid for once."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import anthropic
import httpx2
import openai
import pytest

from quern.turns.turn import Turn

from .conftest import Quern, Start
from .cutting_proxy import cutting
from .engines import saying
from .openai_clients import over, until
from .raw_sockets import RawClient, post, request
from .test_idempotency_keys import HI, REQUESTS, generations, key
from .test_keys import bearer, make
from .test_metrics import value

ANSWER = "def f():\n    return 'ü'  # 排序\n" * 4
URGENT = ("/v1/fim/completions", "/infill")
STREAMED = [(path, {**body, "stream": True}) for path, body in REQUESTS]
SLOW = 0.01


def running(quern: Quern) -> list[Turn]:
    return quern.application.turns.all_active()


async def writing(quern: Quern, count: int = 1) -> None:
    """Wait until so many turns write."""
    await until(lambda: sum(len(turn.generated) > 3 for turn in running(quern)) == count)


async def sent(quern: Quern, path: str, body: dict[str, Any], *headers: str) -> RawClient:
    """A request on a connection of its own, its answer unread."""
    client = await RawClient.connect(str(quern.client.base_url))
    await client.send(post(path, *headers, body=json.dumps(body).encode()))
    return client


async def lost(quern: Quern, path: str, body: dict[str, Any], *headers: str) -> list[str]:
    """A request whose connection is lost once its turns write; their ids."""
    count = len(body["prompt"]) if isinstance(body.get("prompt"), list) else body.get("n", 1)
    client = await sent(quern, path, body, *headers)
    await writing(quern, count)
    turns = running(quern)
    await client.close()
    await until(lambda: all(turn.held or turn.ending is not None or turn.log.end is not None for turn in turns))
    return [turn.id for turn in turns]


async def again(quern: Quern, path: str, body: dict[str, Any], *headers: str) -> Any:
    """The same bytes once more, answered whole."""
    client = await sent(quern, path, body, *headers)
    answer = await client.answer()
    await client.close()
    return answer


@asynccontextmanager
async def openai_through(url: str, *, retries: int = 2, **options: Any) -> AsyncGenerator[openai.AsyncOpenAI]:
    async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="unused", max_retries=retries, **options) as client:
        yield client


# Streams, without a key.


@pytest.mark.parametrize(("path", "body"), [one for one in STREAMED if one[0] not in URGENT])
async def test_a_stream_that_was_cut_goes_on_for_an_equal_request(
    start: Start, path: str, body: dict[str, Any]
) -> None:
    async with start(saying(ANSWER, token_delay=SLOW), live=True) as quern:
        ids = await lost(quern, path, body)
        answer = await again(quern, path, body)
        assert answer.status == 200
        assert answer.headers["x-quern-adopted"] == answer.headers["x-quern-turn-id"] == ", ".join(ids)
        assert len(quern.engine.requests) == len(ids)
        records = [(await quern.client.get(f"/v1/turns/{turn_id}")).json() for turn_id in ids]
        assert [record["state"] for record in records] == ["completed"] * len(ids)


async def test_what_is_adopted_is_read_from_its_first_event(start: Start) -> None:
    body = {**HI, "stream": True}
    async with start(saying(ANSWER, token_delay=SLOW), live=True) as quern:
        await lost(quern, "/v1/chat/completions", body)
        answer = await again(quern, "/v1/chat/completions", body)
        frames = [json.loads(line[6:]) for line in answer.body.decode().splitlines() if line.startswith("data: {")]
        assert "".join(frame["choices"][0]["delta"].get("content") or "" for frame in frames) == ANSWER
        assert answer.body.endswith(b"data: [DONE]\n\n")


async def test_plain_text_and_new_conversations_are_adopted_too(start: Start) -> None:
    form, kind = b"prompt=hi", "Content-Type: application/x-www-form-urlencoded"
    for path in ("/v1/code/generate", "/v1/code/chat_stream"):
        bytes_sent = request("POST", path, kind, "Accept: text/plain", body=form)
        async with start(saying(ANSWER, token_delay=SLOW), live=True) as quern:
            client = await RawClient.connect(str(quern.client.base_url))
            await client.send(bytes_sent)
            await writing(quern)
            (turn,) = running(quern)
            await client.close()
            await until(lambda turn=turn: turn.held)
            back = await RawClient.connect(str(quern.client.base_url))
            await back.send(bytes_sent)
            answer = await back.answer()
            await back.close()
            assert answer.headers["x-quern-adopted"] == turn.id
            assert answer.body.decode().endswith(ANSWER)
            assert len(quern.engine.requests) == 1
            listed = (await quern.client.get("/v1/conversations")).json()["data"]
            assert len(listed) == (1 if path.endswith("chat_stream") else 0)


async def test_a_conversations_turn_is_adopted_instead_of_refused_as_busy(start: Start) -> None:
    async with start(saying("one", ANSWER, token_delay=SLOW), live=True, turns={"adopt_seconds": 0}) as quern:
        conversation = await quern.begin()
        form = f"prompt=more&conversation_id={conversation}".encode()
        bytes_sent = request(
            "POST", "/v1/code/chat_stream", "Content-Type: application/x-www-form-urlencoded", body=form
        )
        client = await RawClient.connect(str(quern.client.base_url))
        await client.send(bytes_sent)
        await writing(quern)
        busy = await quern.chat("another", conversation)
        assert busy.status_code == 409
        await client.close()
        await until(lambda: running(quern)[0].held)
        back = await RawClient.connect(str(quern.client.base_url))
        await back.send(bytes_sent)
        answer = await back.answer()
        await back.close()
        assert (answer.status, answer.body.decode()) == (200, ANSWER)
        kept = (await quern.client.get(f"/v1/conversations/{conversation}")).json()
        assert len(kept["messages"]) == 4


async def test_the_same_messages_in_another_conversation_are_another_request(start: Start) -> None:
    body = {**HI, "stream": True}
    async with start(saying("one", "two", ANSWER, token_delay=SLOW), live=True) as quern:
        first, second = await quern.begin(), await quern.begin()
        (lost_id,) = await lost(quern, "/v1/chat/completions", body, f"X-Quern-Conversation: {first}")
        other = await again(quern, "/v1/chat/completions", body, f"X-Quern-Conversation: {second}")
        assert (other.status, other.headers.get("x-quern-adopted")) == (200, None)
        assert other.headers["x-quern-turn-id"] != lost_id


@pytest.mark.parametrize(("path", "body"), STREAMED[:1] + STREAMED[6:9])
async def test_two_equal_streams_that_both_live_are_two_turns(start: Start, path: str, body: dict[str, Any]) -> None:
    async with start(saying(ANSWER, token_delay=SLOW), live=True) as quern:
        answers = await asyncio.gather(*(again(quern, path, body) for _ in range(2)))
        assert len({answer.headers["x-quern-turn-id"] for answer in answers}) == 2
        assert all("x-quern-adopted" not in answer.headers for answer in answers)
        assert len(quern.engine.requests) == 2


async def test_one_lost_connection_is_adopted_by_one_request(start: Start) -> None:
    body = {**HI, "stream": True}
    async with start(saying(ANSWER, token_delay=SLOW), live=True) as quern:
        (lost_id,) = await lost(quern, "/v1/chat/completions", body)
        answers = await asyncio.gather(*(again(quern, "/v1/chat/completions", body) for _ in range(3)))
        assert [answer.headers.get("x-quern-adopted") for answer in answers].count(lost_id) == 1
        assert len({answer.headers["x-quern-turn-id"] for answer in answers}) == 3


async def test_a_follower_that_leaves_is_no_lost_request(start: Start) -> None:
    body = {**HI, "stream": True}
    async with start(saying(ANSWER, token_delay=SLOW), live=True) as quern:
        reader = await sent(quern, "/v1/chat/completions", body)
        await writing(quern)
        (turn,) = running(quern)
        follower = await RawClient.connect(str(quern.client.base_url))
        await follower.send(request("GET", f"/v1/turns/{turn.id}/events"))
        await follower.reader.readuntil(b"event: text")
        await follower.close()
        other = await again(quern, "/v1/chat/completions", body)
        assert "x-quern-adopted" not in other.headers
        await reader.close()


@pytest.mark.parametrize(
    ("settings", "headers"),
    [
        ({}, ["X-Quern-On-Disconnect: cancel"]),
        ({"adopt_retries": False}, []),
        ({"adopt_seconds": 0}, []),
    ],
)
async def test_a_stream_is_cancelled_at_once_where_that_is_asked_for(
    start: Start, settings: dict[str, Any], headers: list[str]
) -> None:
    body = {**HI, "stream": True}
    async with start(saying(ANSWER, token_delay=SLOW), live=True, turns=settings) as quern:
        (lost_id,) = await lost(quern, "/v1/chat/completions", body, *headers)
        answer = await again(quern, "/v1/chat/completions", body)
        assert "x-quern-adopted" not in answer.headers
        record = (await quern.client.get(f"/v1/turns/{lost_id}")).json()
        assert (record["state"], record["error"]) == ("cancelled", "The client closed the connection.")


@pytest.mark.parametrize(("path", "body"), [one for one in STREAMED if one[0] in URGENT])
async def test_a_gap_that_nobody_wants_filled_any_more_is_cancelled_at_once(
    start: Start, path: str, body: dict[str, Any]
) -> None:
    async with start(saying(ANSWER, token_delay=SLOW), live=True) as quern:
        (lost_id,) = await lost(quern, path, body)
        await over(quern)
        assert (await quern.client.get(f"/v1/turns/{lost_id}")).json()["state"] == "cancelled"


async def test_a_whole_answer_that_nobody_waits_for_is_cancelled_at_once(start: Start) -> None:
    async with start(saying(ANSWER, token_delay=SLOW), live=True) as quern:
        (lost_id,) = await lost(quern, "/v1/chat/completions", HI)
        await over(quern)
        record = (await quern.client.get(f"/v1/turns/{lost_id}")).json()
        assert (record["state"], record["error"]) == ("cancelled", "The client closed the connection.")


@pytest.mark.parametrize("stream", [False, True])
async def test_a_turn_that_is_held_anyway_is_adopted_streamed_or_not(start: Start, stream: bool) -> None:
    body = {**HI, "stream": stream}
    async with start(saying(ANSWER, token_delay=SLOW), live=True) as quern:
        (lost_id,) = await lost(quern, "/v1/chat/completions", body, "X-Quern-On-Disconnect: hold")
        answer = await again(quern, "/v1/chat/completions", body)
        assert answer.headers["x-quern-adopted"] == lost_id


async def test_nobody_who_comes_back_in_time_is_nobody(start: Start) -> None:
    body = {**HI, "stream": True}
    async with start(saying(ANSWER * 20, token_delay=SLOW), live=True, turns={"adopt_seconds": 0.05}) as quern:
        (lost_id,) = await lost(quern, "/v1/chat/completions", body)
        await over(quern)
        record = (await quern.client.get(f"/v1/turns/{lost_id}")).json()
        assert record["state"] == "cancelled"
        assert "nobody came back within 0.05 s" in record["error"]
        assert "x-quern-adopted" not in (await again(quern, "/v1/chat/completions", {**body, "max_tokens": 3})).headers


async def test_what_another_owner_lost_is_not_found(start: Start) -> None:
    body = {**HI, "stream": True}
    async with start(saying(ANSWER, token_delay=SLOW), live=True) as quern:
        ann, bob = [bearer(await make(quern, name))["authorization"] for name in ("ann", "bob")]
        (lost_id,) = await lost(quern, "/v1/chat/completions", body, f"Authorization: {ann}")
        other = await again(quern, "/v1/chat/completions", body, f"Authorization: {bob}")
        assert "x-quern-adopted" not in other.headers
        own = await again(quern, "/v1/chat/completions", body, f"Authorization: {ann}")
        assert own.headers.get("x-quern-adopted", lost_id) == lost_id


async def test_another_body_is_another_request(start: Start) -> None:
    async with start(saying(ANSWER, token_delay=SLOW), live=True) as quern:
        await lost(quern, "/v1/chat/completions", {**HI, "stream": True})
        other = await again(quern, "/v1/chat/completions", {**HI, "stream": True, "seed": 1})
        assert "x-quern-adopted" not in other.headers


async def test_a_connection_that_is_lost_again_and_again_is_one_generation(start: Start) -> None:
    body = {**HI, "stream": True}
    async with start(saying(ANSWER, token_delay=SLOW), live=True) as quern:
        for _ in range(5):
            client = await sent(quern, "/v1/chat/completions", body)
            await client.reader.readuntil(b'"content":"d')
            await client.close()
            await until(lambda: running(quern)[0].held)
        answer = await again(quern, "/v1/chat/completions", body)
        assert answer.status == 200
        assert len(quern.engine.requests) == 1
        assert await value(quern, "quern_attached_retries_total", by="connection") == 5


async def test_choices_are_adopted_together_also_where_one_has_ended(start: Start) -> None:
    body = {**HI, "n": 2, "stream": True}
    async with start(saying("short", ANSWER, token_delay=SLOW), live=True) as quern:
        client = await sent(quern, "/v1/chat/completions", body)
        await writing(quern, 2)
        ids = [turn.id for turn in running(quern)]
        await until(lambda: len(running(quern)) == 1)
        await client.close()
        await until(lambda: running(quern)[0].held)
        answer = await again(quern, "/v1/chat/completions", body)
        assert answer.headers["x-quern-adopted"] == ", ".join(ids)
        assert len(quern.engine.requests) == 2


# The official clients, through a proxy that cuts connections.


async def test_openais_client_that_retries_by_itself_pays_for_one_stream(start: Start) -> None:
    """It does so as long as no byte of the answer has come."""
    async with (
        start(saying(ANSWER, token_delay=SLOW), live=True) as quern,
        cutting(str(quern.client.base_url), 0, 0) as (proxy, url),
        openai_through(url) as client,
    ):
        stream = await client.chat.completions.create(model="fake", messages=HI["messages"], stream=True)
        text = "".join([chunk.choices[0].delta.content or "" async for chunk in stream])
        assert text == ANSWER
        assert proxy.connections == 3
        assert len(quern.engine.requests) == 1


@pytest.mark.parametrize("keyed", [False, True])
async def test_an_openai_stream_that_breaks_in_the_middle_and_is_asked_for_again_is_paid_once(
    start: Start, keyed: bool
) -> None:
    """There the client raises, and its caller asks again."""
    async with (
        start(saying(ANSWER, token_delay=SLOW), live=True) as quern,
        cutting(str(quern.client.base_url), 900, 1500, 2500) as (proxy, url),
        openai_through(url, retries=0) as client,
    ):
        headers, text, breaks = key() if keyed else {}, "", 0
        while not text:
            pieces: list[str] = []
            try:
                stream = await client.chat.completions.create(
                    model="fake", messages=HI["messages"], stream=True, extra_headers=headers
                )
                pieces.extend([chunk.choices[0].delta.content or "" async for chunk in stream])
            except (openai.APIConnectionError, httpx2.TransportError, OSError):
                breaks += 1
            else:
                text = "".join(pieces)
        assert (text, breaks, proxy.connections) == (ANSWER, 3, 4)
        assert len(quern.engine.requests) == 1


@pytest.mark.parametrize("running", [False, True])
async def test_openais_client_with_a_key_pays_for_one_whole_answer(start: Start, running: bool) -> None:
    """Cut while the answer is written, and when it is on its way."""
    async with (
        start(saying(ANSWER, token_delay=SLOW / 2), live=True) as quern,
        cutting(str(quern.client.base_url), *([] if running else [0, 40])) as (proxy, url),
        openai_through(url) as client,
    ):
        client._idempotency_header = "Idempotency-Key"  # which its makers' generator has for it
        asked = asyncio.ensure_future(client.chat.completions.create(model="fake", messages=HI["messages"]))
        if running:
            await writing(quern)
            proxy.cut()
        answer = await asked
        assert answer.choices[0].message.content == ANSWER
        assert proxy.connections == (2 if running else 3)
        assert generations(quern) == len(quern.engine.requests) == 1


@pytest.mark.parametrize("keyed", [False, True])
@pytest.mark.parametrize("kind", ["responses", "completions"])
async def test_openais_other_streams_are_paid_once_too(start: Start, kind: str, keyed: bool) -> None:
    async with (
        start(saying(ANSWER, token_delay=SLOW), live=True) as quern,
        cutting(str(quern.client.base_url), 0) as (_, url),
        openai_through(url) as client,
    ):
        headers = key() if keyed else {}
        if kind == "responses":
            events = await client.responses.create(model="fake", input="hi", stream=True, extra_headers=headers)
            text = "".join([event.delta async for event in events if event.type == "response.output_text.delta"])
        else:
            chunks = await client.completions.create(model="fake", prompt="hi", stream=True, extra_headers=headers)
            text = "".join([chunk.choices[0].text async for chunk in chunks])
        assert text == ANSWER
        assert len(quern.engine.requests) == 1


@pytest.mark.parametrize("keyed", [False, True])
@pytest.mark.parametrize("cut_after", [0, 1200])
async def test_anthropics_client_pays_for_one_stream(start: Start, keyed: bool, cut_after: int) -> None:
    async with (
        start(saying(ANSWER, token_delay=SLOW), live=True) as quern,
        cutting(str(quern.client.base_url), cut_after) as (proxy, url),
        anthropic.AsyncAnthropic(base_url=url, api_key="unused", max_retries=1) as client,
    ):
        headers, text = key() if keyed else {}, ""
        while not text:
            try:
                async with client.messages.stream(
                    model="fake", messages=HI["messages"], max_tokens=500, extra_headers=headers
                ) as stream:
                    text = await stream.get_final_text()
            except (anthropic.APIConnectionError, httpx2.TransportError, OSError):
                assert cut_after, "it retries by itself before the answer begins"
        assert text == ANSWER
        assert proxy.connections == 2
        assert len(quern.engine.requests) == 1


async def test_anthropics_client_with_a_key_pays_for_one_whole_message(start: Start) -> None:
    async with (
        start(saying(ANSWER, token_delay=SLOW / 2), live=True) as quern,
        cutting(str(quern.client.base_url), 0) as (proxy, url),
        anthropic.AsyncAnthropic(base_url=url, api_key="unused") as client,
    ):
        message = await client.messages.create(
            model="fake", messages=HI["messages"], max_tokens=500, extra_headers=key()
        )
        assert message.content[0].type == "text"
        assert message.content[0].text == ANSWER
        assert proxy.connections == 2
        assert len(quern.engine.requests) == 1


@pytest.mark.parametrize(("path", "body"), STREAMED)
@pytest.mark.parametrize("stream", [False, True])
async def test_a_lost_request_with_a_key_is_held_for_its_repeat(
    start: Start, path: str, body: dict[str, Any], stream: bool
) -> None:
    same = f"Idempotency-Key: {key()['idempotency-key']}"
    async with start(saying(ANSWER, token_delay=SLOW), live=True) as quern:
        ids = await lost(quern, path, {**body, "stream": stream}, same)
        answer = await again(quern, path, {**body, "stream": stream}, same)
        assert answer.headers["x-quern-adopted"] == ", ".join(ids)
        assert len(quern.engine.requests) == len(ids)


async def test_a_keyed_turn_that_was_cancelled_as_nobody_came_goes_on_for_its_repeat(start: Start) -> None:
    same, body = f"Idempotency-Key: {key()['idempotency-key']}", {**HI, "stream": True}
    async with start(saying(ANSWER, token_delay=SLOW), live=True, turns={"hold_seconds": 0.05}) as quern:
        ids = await lost(quern, "/v1/chat/completions", body, same)
        await over(quern)
        assert (await quern.client.get(f"/v1/turns/{ids[0]}")).json()["state"] == "cancelled"
        answer = await again(quern, "/v1/chat/completions", body, same)
        assert answer.headers["x-quern-adopted"] == ids[0]
        assert generations(quern) == 1
        frames = [json.loads(line[6:]) for line in answer.body.decode().splitlines() if line.startswith("data: {")]
        assert "".join(frame["choices"][0]["delta"].get("content") or "" for frame in frames) == ANSWER
