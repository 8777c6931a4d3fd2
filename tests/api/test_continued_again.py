"""`POST /v1/turns/{id}/continue`, sent again: what goes on is followed, and what went on is told."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from .conftest import Quern, Start
from .engines import saying
from .openai_clients import over, until
from .raw_sockets import RawClient
from .test_idempotency_keys import HI, generations, key
from .test_lost_connections import again, running, sent
from .test_metrics import value
from .test_turn_events import events, frames, text_of

ANSWER = "def f():\n    return 'ü'  # 排序\n" * 2
CUT = 10
CHAT = "/v1/chat/completions"
WRITTEN_BY: list[tuple[str, dict[str, Any], str]] = [
    (CHAT, HI, "max_tokens"),
    ("/v1/completions", {"prompt": "hi"}, "max_tokens"),
    ("/v1/fim/completions", {"prompt": "a", "suffix": "b"}, "max_tokens"),
    ("/v1/responses", {"input": "hi"}, "max_output_tokens"),
    ("/v1/messages", HI, "max_tokens"),
    ("/api/chat", {"model": "fake", **HI, "options": {"num_predict": CUT}}, ""),
    ("/completion", {"prompt": "hi"}, "n_predict"),
    ("/infill", {"input_prefix": "a", "input_suffix": "b"}, "n_predict"),
]
REST = {"max_tokens": 500, "stream": True}


async def cut(
    quern: Quern, path: str = "/v1/chat/completions", body: dict[str, Any] = HI, limit: str = "max_tokens"
) -> str:
    """The path on which a turn goes on that its length ended."""
    answer = await quern.client.post(path, json={**body, **({limit: CUT} if limit else {}), "stream": False})
    assert answer.status_code == 200, answer.text
    return f"/v1/turns/{answer.headers['x-quern-turn-id']}/continue"


def header(given: dict[str, str]) -> str:
    return f"Idempotency-Key: {given['idempotency-key']}"


async def following(quern: Quern) -> None:
    """Wait until the turn goes on beyond what there was."""
    await until(lambda: any(len(turn.generated) > CUT + 5 for turn in running(quern)))


@pytest.mark.parametrize(("path", "body", "limit"), WRITTEN_BY)
async def test_under_a_key_a_repeat_reads_along_and_then_is_told_what_went_on(
    start: Start, path: str, body: dict[str, Any], limit: str
) -> None:
    same = key()
    async with start(saying(ANSWER), live=True) as quern:
        there = await cut(quern, path, body, limit)
        quern.engine.token_delay = 0.005
        first = asyncio.ensure_future(again(quern, there, REST, header(same)))
        await following(quern)
        meanwhile = await again(quern, there, REST, header(same))
        begun = await first
        assert "x-quern-adopted" not in begun.headers
        later = await again(quern, there, REST, header(same))
    async with start(saying("another"), live=True) as quern:
        restarted = await again(quern, there, REST, header(same))
        assert not quern.engine.requests
    for repeat in (meanwhile, later, restarted):
        assert repeat.headers["x-quern-adopted"] == begun.headers["x-quern-turn-id"]
        assert text_of(frames(repeat.body.decode())) == text_of(frames(begun.body.decode())) == ANSWER


async def test_under_a_key_the_report_comes_again_where_no_stream_was_asked_for(start: Start) -> None:
    same = key()
    async with start(saying(ANSWER)) as quern:
        there = await cut(quern)
        answers = [await quern.client.post(there, json={"max_tokens": 500}, headers=same) for _ in range(3)]
        assert [answer.status_code for answer in answers] == [200, 200, 200]
        await over(quern)
        ended = (await quern.client.post(there, json={"max_tokens": 500}, headers=same)).json()
        assert (ended["state"], ended["usage"]["completion_tokens"]) == ("completed", len(ANSWER.encode()))
        assert len(quern.engine.requests) == 2
        assert await value(quern, "quern_attached_retries_total", by="key") == 3


async def test_equal_requests_at_the_same_moment_go_on_once(start: Start) -> None:
    same = key()
    async with start(saying(ANSWER, token_delay=0.002)) as quern:
        there = await cut(quern)
        answers = await asyncio.gather(*(quern.client.post(there, json=REST, headers=same) for _ in range(4)))
        assert {text_of(frames(answer.text)) for answer in answers} == {ANSWER}
        assert len(quern.engine.requests) == 2


async def test_a_repeat_under_a_key_does_not_go_on_once_more_where_the_length_ended_it_again(start: Start) -> None:
    same = key()
    async with start(saying(ANSWER)) as quern:
        there = await cut(quern)
        for _ in range(3):
            told = await quern.client.post(there, json={"max_tokens": 5, "stream": True}, headers=same)
            assert text_of(frames(told.text)).encode() == ANSWER.encode()[: CUT + 5]
        other = await quern.client.post(there, json={"max_tokens": 5, "stream": True}, headers=key())
        assert text_of(frames(other.text)).encode() == ANSWER.encode()[: CUT + 10]


async def test_another_request_under_the_key_is_a_422(start: Start) -> None:
    same = key()
    async with start(saying(ANSWER)) as quern:
        there = await cut(quern)
        assert (await quern.client.post(CHAT, json=HI, headers=same)).status_code == 200
        assert (await quern.client.post(there, json=REST, headers=same)).status_code == 422
        mine = key()
        assert (await quern.client.post(there, json=REST, headers=mine)).status_code == 200
        assert (await quern.client.post(there, json={**REST, "max_tokens": 7}, headers=mine)).status_code == 422
        other = await cut(quern)
        assert (await quern.client.post(other, json=REST, headers=mine)).status_code == 422


async def test_a_continuation_that_was_refused_leaves_no_key(start: Start) -> None:
    same = key()
    async with start(saying(ANSWER)) as quern:
        whole = (await quern.client.post(CHAT, json=HI)).headers["x-quern-turn-id"]
        for _ in range(2):
            refused = await quern.client.post(f"/v1/turns/{whole}/continue", json=REST, headers=same)
            assert (refused.status_code, "whole" in refused.text) == (409, True)
        assert (await quern.client.post(await cut(quern), json=REST, headers=same)).status_code == 200


async def test_a_continuation_that_failed_goes_on_for_its_repeat(start: Start) -> None:
    same = key()
    async with start(saying(ANSWER)) as quern:
        there = await cut(quern)
        quern.engine.fail_after = CUT
        failed = await quern.client.post(there, json=REST, headers=same)
        assert frames(failed.text)[-1][2]["state"] == "failed"
    async with start(saying(ANSWER)) as quern:
        told = await quern.client.post(there, json=REST, headers=same)
        assert text_of(frames(told.text)) == ANSWER


@pytest.mark.parametrize("ended", [False, True])
async def test_without_a_key_a_stream_that_was_cut_goes_on_for_its_repeat(start: Start, ended: bool) -> None:
    async with start(saying(ANSWER), live=True) as quern:
        there = await cut(quern)
        quern.engine.token_delay = 0.005
        client = await sent(quern, there, REST)
        await following(quern)
        await client.close()
        await until(lambda: all(turn.held for turn in running(quern)))
        if ended:
            await over(quern)
        repeat = await again(quern, there, REST)
        assert repeat.headers["x-quern-adopted"] in there
        assert text_of(frames(repeat.body.decode())) == ANSWER
        assert len(quern.engine.requests) == 2
        assert await value(quern, "quern_attached_retries_total", by="connection") == 1


async def test_without_a_key_who_got_everything_is_told_that_nothing_is_left(start: Start) -> None:
    async with start(saying(ANSWER), live=True) as quern:
        there = await cut(quern)
        assert (await again(quern, there, REST)).status == 200
        assert (await again(quern, there, REST)).status == 409


async def test_without_a_key_and_a_lost_connection_a_second_one_is_a_conflict(start: Start) -> None:
    async with start(saying(ANSWER), live=True) as quern:
        there = await cut(quern)
        quern.engine.token_delay = 0.005
        client = await sent(quern, there, REST)
        await following(quern)
        second = await again(quern, there, REST)
        assert (second.status, "runs already" in second.sentence()) == (409, True)
        await client.close()


async def test_a_keyed_continuation_is_held_for_its_repeat(start: Start) -> None:
    same = key()
    async with start(saying(ANSWER), live=True, turns={"adopt_seconds": 0}) as quern:
        there = await cut(quern)
        quern.engine.token_delay = 0.005
        client: RawClient = await sent(quern, there, REST, header(same))
        await following(quern)
        await client.close()
        await until(lambda: running(quern)[0].held)
        repeat = await again(quern, there, REST, header(same))
        assert text_of(frames(repeat.body.decode())) == ANSWER
        assert generations(quern) == 1
        assert (await events(quern, there.split("/")[3]))[-1][2]["state"] == "completed"
