"""Streams that were cut when all but their end had been sent: the turn has ended before its request comes again."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from .conftest import Quern, Start
from .engines import saying
from .openai_clients import over
from .raw_sockets import RawClient, post, request
from .test_idempotency_keys import HI, REQUESTS, key
from .test_keys import bearer, make
from .test_lost_connections import again, lost, running, sent, writing
from .test_metrics import value

ANSWER = "def f():\n    return 'ü'  # 排序\n"
URGENT = ("/v1/fim/completions", "/infill")
STREAMED = [(path, {**body, "stream": True}) for path, body in REQUESTS if path not in URGENT]
CHAT = "/v1/chat/completions"
STREAM: dict[str, Any] = {**HI, "stream": True}
SLOW = 0.005
FORM = "Content-Type: application/x-www-form-urlencoded"


async def ended_unheard(quern: Quern, path: str, body: dict[str, Any], *headers: str) -> list[str]:
    """A request whose connection is lost and whose turns are written to their ends then; their ids."""
    ids = await lost(quern, path, body, *headers)
    await over(quern)
    return ids


async def said(quern: Quern, form: bytes) -> RawClient:
    """A turn of a conversation, on a connection of its own."""
    client = await RawClient.connect(str(quern.client.base_url))
    await client.send(request("POST", "/v1/code/chat_stream", FORM, body=form))
    return client


@pytest.mark.parametrize(("path", "body"), STREAMED)
async def test_a_turn_that_ended_after_its_stream_was_cut_is_told_to_an_equal_request(
    start: Start, path: str, body: dict[str, Any]
) -> None:
    async with start(saying(ANSWER, token_delay=SLOW), live=True) as quern:
        ids = await ended_unheard(quern, path, body)
        repeat = await again(quern, path, body)
        assert repeat.headers["x-quern-adopted"] == repeat.headers["x-quern-turn-id"] == ", ".join(ids)
        assert len(quern.engine.requests) == len(ids)
        assert await value(quern, "quern_attached_retries_total", by="connection") == 1
        undisturbed = await again(quern, path, body)
        assert "x-quern-adopted" not in undisturbed.headers, "what was told whole is not told once more"
        assert len(quern.engine.requests) == 2 * len(ids)
        lines = [len(answer.body.splitlines()) for answer in (repeat, undisturbed)]
        assert lines[0] == lines[1] > len(ANSWER)


async def test_plain_text_and_new_conversations_are_told_again_too(start: Start) -> None:
    for path in ("/v1/code/generate", "/v1/code/chat_stream"):
        bytes_sent = request("POST", path, FORM, "Accept: text/plain", body=b"prompt=hi")
        async with start(saying(ANSWER, token_delay=SLOW), live=True) as quern:
            client = await RawClient.connect(str(quern.client.base_url))
            await client.send(bytes_sent)
            await writing(quern)
            (turn,) = running(quern)
            await client.close()
            await over(quern)
            back = await RawClient.connect(str(quern.client.base_url))
            await back.send(bytes_sent)
            answer = await back.answer()
            await back.close()
            assert answer.headers["x-quern-adopted"] == turn.id
            assert answer.body.decode().endswith(ANSWER)
            assert len(quern.engine.requests) == 1


@pytest.mark.parametrize("kept_alive", [False, True])
@pytest.mark.parametrize(("path", "body"), STREAMED)
async def test_who_got_the_whole_answer_and_asks_the_same_again_gets_another_one(
    start: Start, path: str, body: dict[str, Any], kept_alive: bool
) -> None:
    async with start(saying(ANSWER), live=True) as quern:
        client = await sent(quern, path, body)
        first = await client.answer()
        if kept_alive:
            await client.send(post(path, body=json.dumps(body).encode()))
            second = await client.answer()
        else:
            await client.close()
            second = await again(quern, path, body)
        await client.close()
        assert (first.status, second.status) == (200, 200)
        assert "x-quern-adopted" not in second.headers
        assert first.headers["x-quern-turn-id"] != second.headers["x-quern-turn-id"]


async def test_in_a_conversation_nothing_is_said_twice(start: Start) -> None:
    async with start(saying("one", ANSWER, "three", token_delay=SLOW), live=True) as quern:
        conversation = await quern.begin()
        form = f"prompt=more&conversation_id={conversation}".encode()
        client = await said(quern, form)
        await writing(quern)
        await client.close()
        await over(quern)
        back = await said(quern, form)
        answer = await back.answer()
        assert (answer.status, answer.body.decode()) == (200, ANSWER)
        await back.close()
        kept = (await quern.client.get(f"/v1/conversations/{conversation}")).json()
        assert [message["content"] for message in kept["messages"]] == ["hello", "one", "more", ANSWER]


async def test_in_a_conversation_that_went_on_the_same_words_are_another_question(start: Start) -> None:
    async with start(saying("one", ANSWER, "three", "four", token_delay=SLOW), live=True) as quern:
        conversation = await quern.begin()
        form = f"prompt=more&conversation_id={conversation}".encode()
        client = await said(quern, form)
        await writing(quern)
        await client.close()
        await over(quern)
        assert (await quern.chat("something else", conversation)).text == "three"
        back = await said(quern, form)
        answer = await back.answer()
        await back.close()
        assert (answer.headers.get("x-quern-adopted"), answer.body.decode()) == (None, "four")


async def test_what_was_deleted_meanwhile_is_not_told(start: Start) -> None:
    async with start(saying(ANSWER, "another", token_delay=SLOW), live=True) as quern:
        client = await said(quern, b"prompt=hi")
        await writing(quern)
        (turn,) = running(quern)
        await client.close()
        await over(quern)
        assert (await quern.client.delete(f"/v1/conversations/{turn.conversation_id}")).status_code in {200, 204}
        back = await said(quern, b"prompt=hi")
        answer = await back.answer()
        await back.close()
        assert "x-quern-adopted" not in answer.headers
        assert answer.body.decode().endswith("another")
        assert str(turn.conversation_id) not in answer.body.decode()


async def test_a_turn_that_was_cancelled_on_purpose_is_not_told(start: Start) -> None:
    async with start(saying(ANSWER * 9, ANSWER, token_delay=SLOW), live=True) as quern:
        (lost_id,) = await lost(quern, CHAT, STREAM)
        await quern.client.post(f"/v1/turns/{lost_id}/cancel")
        answer = await again(quern, CHAT, STREAM)
        assert (answer.status, answer.headers.get("x-quern-adopted")) == (200, None)


async def test_a_turn_that_failed_is_not_told(start: Start) -> None:
    async with start(saying(ANSWER, token_delay=SLOW, fail_after=20), live=True) as quern:
        (lost_id,) = await ended_unheard(quern, CHAT, STREAM)
        assert (await quern.client.get(f"/v1/turns/{lost_id}")).json()["state"] == "failed"
        assert "x-quern-adopted" not in (await again(quern, CHAT, STREAM)).headers


async def test_who_comes_too_late_gets_another_answer(start: Start) -> None:
    async with start(saying(ANSWER, token_delay=SLOW), live=True, turns={"adopt_seconds": 0.02}) as quern:
        await ended_unheard(quern, CHAT, STREAM, "X-Quern-On-Disconnect: finish")
        answer = await again(quern, CHAT, STREAM)
        assert (answer.status, answer.headers.get("x-quern-adopted")) == (200, None)
        assert len(quern.engine.requests) == 2


async def test_nothing_is_told_again_where_that_is_switched_off(start: Start) -> None:
    async with start(saying(ANSWER, token_delay=SLOW), live=True, turns={"adopt_retries": False}) as quern:
        await ended_unheard(quern, CHAT, STREAM, "X-Quern-On-Disconnect: finish")
        assert "x-quern-adopted" not in (await again(quern, CHAT, STREAM)).headers


async def test_one_lost_stream_is_told_once(start: Start) -> None:
    async with start(saying(ANSWER, token_delay=SLOW), live=True) as quern:
        (lost_id,) = await ended_unheard(quern, CHAT, STREAM)
        answers = await asyncio.gather(*(again(quern, CHAT, STREAM) for _ in range(3)))
        assert [answer.headers.get("x-quern-adopted") for answer in answers].count(lost_id) == 1
        assert len(quern.engine.requests) == 3


async def test_choices_that_have_all_ended_are_told_together(start: Start) -> None:
    body = {**STREAM, "n": 2}
    async with start(saying(ANSWER, token_delay=SLOW), live=True) as quern:
        ids = await ended_unheard(quern, CHAT, body)
        answer = await again(quern, CHAT, body)
        assert answer.headers["x-quern-adopted"] == ", ".join(ids)
        assert len(quern.engine.requests) == 2


async def test_what_another_owner_lost_is_not_told(start: Start) -> None:
    async with start(saying(ANSWER, token_delay=SLOW), live=True) as quern:
        ann, bob = [bearer(await make(quern, name))["authorization"] for name in ("ann", "bob")]
        (lost_id,) = await ended_unheard(quern, CHAT, STREAM, f"Authorization: {ann}")
        assert "x-quern-adopted" not in (await again(quern, CHAT, STREAM, f"Authorization: {bob}")).headers
        own = await again(quern, CHAT, STREAM, f"Authorization: {ann}")
        assert own.headers["x-quern-adopted"] == lost_id


async def test_it_needs_nothing_that_is_kept_in_the_database(start: Start) -> None:
    async with start(saying(ANSWER, token_delay=SLOW), live=True, turns={"resume_hours": 0}) as quern:
        (lost_id,) = await ended_unheard(quern, CHAT, STREAM)
        assert (await again(quern, CHAT, STREAM)).headers["x-quern-adopted"] == lost_id


async def test_a_key_goes_before_a_lost_connection(start: Start) -> None:
    same = f"Idempotency-Key: {key()['idempotency-key']}"
    async with start(saying(ANSWER, token_delay=SLOW), live=True) as quern:
        await ended_unheard(quern, CHAT, STREAM)
        keyed = await again(quern, CHAT, STREAM, same)
        assert "x-quern-adopted" not in keyed.headers
        repeat = await again(quern, CHAT, STREAM, same)
        assert repeat.headers["x-quern-adopted"] == keyed.headers["x-quern-turn-id"]


@pytest.mark.parametrize("keyed", [False, True])
@pytest.mark.parametrize("ended", [False, True])
async def test_the_request_id_of_a_repeat_names_the_turn_that_it_got(start: Start, keyed: bool, ended: bool) -> None:
    headers = [f"Idempotency-Key: {key()['idempotency-key']}"] if keyed else []
    async with start(saying(ANSWER, token_delay=SLOW), live=True) as quern:
        (lost_id,) = await lost(quern, CHAT, STREAM, *headers)
        if ended:
            await over(quern)
        repeat = await again(quern, CHAT, STREAM, *headers, "x-request-id: my-second-try")
        assert repeat.headers["x-quern-adopted"] == lost_id
        assert (await quern.client.get("/v1/turns/my-second-try")).json()["id"] == lost_id
        assert (await quern.client.get("/v1/turns/my-second-try/events")).status_code == 200
        other = bearer(await make(quern, "bob"))
        assert (await quern.client.get("/v1/turns/my-second-try", headers=other)).status_code == 404
