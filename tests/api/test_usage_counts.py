"""What is counted of turns, whichever way they end, and which requests count for a limit."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from quern.access.key_changes import KeyChanges
from quern.engine.fake import FakeEngine
from quern.records import KeyLimits

from .conftest import Quern, Start
from .test_keys import bearer, make

CHAT, RESPONSES = "/v1/chat/completions", "/v1/responses"
USER = [{"role": "user", "content": "hi there"}]
ANSWER_TOKENS = 6


def answering(**more: Any) -> FakeEngine:
    return FakeEngine(reply=lambda _: [100] * ANSWER_TOKENS, **more)


async def used(quern: Quern, headers: dict[str, str]) -> dict[str, int]:
    """The row of somebody's usage, where they have used one model on one day; zeros where they have used none."""
    while quern.application.turns.active:
        await asyncio.sleep(0.01)
    rows = (await quern.client.get("/v1/usage", headers=headers)).json()["data"]
    assert len(rows) <= 1
    names = ("requests", "prompt_tokens", "cached_tokens", "completion_tokens")
    return {name: rows[0][name] if rows else 0 for name in names}


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("path", "body"),
    [
        (CHAT, {"messages": USER}),
        ("/v1/completions", {"prompt": "hi"}),
        (RESPONSES, {"input": "hi"}),
        ("/v1/messages", {"messages": USER, "max_tokens": 50}),
        ("/api/chat", {"messages": USER}),
        ("/completion", {"prompt": "hi"}),
        ("/infill", {"input_prefix": "a", "input_suffix": "b"}),
    ],
)
async def test_every_dialect_counts_streamed_or_not(start: Start, path: str, body: Any, stream: bool) -> None:
    async with start(answering()) as quern:
        anna = bearer(await make(quern, "anna"))
        for _ in range(2):
            answer = await quern.client.post(path, json={**body, "stream": stream}, headers=anna)
            assert answer.status_code == 200, answer.text
        counted = await used(quern, anna)
        assert counted["requests"] == 2
        assert counted["completion_tokens"] == 2 * ANSWER_TOKENS
        assert counted["prompt_tokens"] == sum(len(request.prompt) for request in quern.engine.requests)


@pytest.mark.parametrize("path", ["/v1/code/generate", "/v1/code/chat_stream"])
async def test_the_plain_endpoints_count(start: Start, path: str) -> None:
    async with start(answering()) as quern:
        anna = bearer(await make(quern, "anna"))
        assert (await quern.client.post(path, data={"prompt": "hi"}, headers=anna)).status_code == 200
        counted = await used(quern, anna)
        assert (counted["requests"], counted["completion_tokens"]) == (1, ANSWER_TOKENS)


async def test_each_of_several_choices_counts(start: Start) -> None:
    async with start(answering()) as quern:
        anna = bearer(await make(quern, "anna"))
        answer = await quern.client.post(CHAT, json={"messages": USER, "n": 3}, headers=anna)
        assert len(answer.json()["choices"]) == 3
        counted = await used(quern, anna)
        assert counted["completion_tokens"] == 3 * ANSWER_TOKENS
        assert counted["prompt_tokens"] == sum(len(request.prompt) for request in quern.engine.requests)


async def test_background_responses_count_also_when_they_are_cancelled(start: Start) -> None:
    async with start(FakeEngine(token_delay=0.01, reply=lambda _: [100] * 500)) as quern:
        anna = bearer(await make(quern, "anna"))
        begun = await quern.client.post(RESPONSES, json={"input": "hi", "background": True}, headers=anna)
        path = f"{RESPONSES}/{begun.json()['id']}"
        while "text" not in (await quern.client.get(path, headers=anna)).text.partition('"output"')[2][:400]:
            await asyncio.sleep(0.02)
        await quern.client.post(f"{path}/cancel", headers=anna)
        told = (await quern.client.get(path, headers=anna)).json()
        assert told["status"] == "cancelled"
        counted = await used(quern, anna)
        assert counted["requests"] == 1
        assert 0 < counted["completion_tokens"] < 500
        assert counted["prompt_tokens"] == len(quern.engine.requests[0].prompt)


async def test_turns_that_fail_count_with_what_they_have_cost(start: Start) -> None:
    async with start(FakeEngine(fail_after=3, reply=lambda _: [100] * 9)) as quern:
        anna = bearer(await make(quern, "anna"))
        assert (await quern.client.post(CHAT, json={"messages": USER}, headers=anna)).status_code >= 500
        counted = await used(quern, anna)
        assert (counted["requests"], counted["completion_tokens"]) == (1, 3)
        assert counted["prompt_tokens"] == len(quern.engine.requests[0].prompt)


async def test_turns_that_the_servers_end_interrupts_count(start: Start) -> None:
    engine = FakeEngine(token_delay=0.01, reply=lambda _: [100] * 500)
    async with start(engine) as quern:
        anna = bearer(await make(quern, "anna"))
        begun = await quern.client.post(RESPONSES, json={"input": "hi", "background": True}, headers=anna)
        while engine.stats().running == 0:
            await asyncio.sleep(0.005)
        assert begun.status_code == 200
    async with start() as quern:
        assert (await used(quern, anna))["requests"] == 1


async def test_what_a_conversation_that_is_deleted_meanwhile_has_cost_counts(start: Start) -> None:
    engine = FakeEngine(token_delay=0.01, reply=lambda _: [100] * 500)
    async with start(engine) as quern:
        anna = bearer(await make(quern, "anna"))
        conversation = (await quern.client.post("/v1/conversations", json={}, headers=anna)).json()["id"]
        body = {"input": "hi", "conversation": conversation, "background": True}
        await quern.client.post(RESPONSES, json=body, headers=anna)
        while engine.stats().running == 0:
            await asyncio.sleep(0.005)
        await quern.client.delete(f"/v1/conversations/{conversation}", headers=anna)
        assert (await used(quern, anna))["requests"] == 1


@pytest.mark.parametrize(("path", "inputs"), [("/v1/embeddings", ["a b", "c"]), ("/api/embed", "d e f")])
async def test_embeddings_count(start: Start, path: str, inputs: Any) -> None:
    async with start(embedding_length=64) as quern:
        anna = bearer(await make(quern, "anna", limits={"tokens_per_day": 3}))
        assert (await quern.client.post(path, json={"input": inputs}, headers=anna)).status_code == 200
        counted = await used(quern, anna)
        assert counted["requests"] == 1
        assert counted["prompt_tokens"] == sum(len(request.prompt) for request in quern.engine.embedded)
        assert (await quern.client.post(path, json={"input": inputs}, headers=anna)).status_code == 429


@pytest.mark.parametrize("more", [0, 1])
async def test_what_was_cached_costs_nothing_of_a_limit(start: Start, more: int) -> None:
    async with start(FakeEngine(reply=lambda _: [100])) as quern:
        ben = bearer(await make(quern, "ben"))
        await quern.client.post(CHAT, json={"messages": USER}, headers=ben)
        prompt = len(quern.engine.requests[0].prompt)
        cost = (prompt + 1) + 2 * (1 + 1)  # the last token of a prompt is always computed
        anna = bearer(await make(quern, "anna", limits={"tokens_per_day": cost + more}))
        for _ in range(3):
            assert (await quern.client.post(CHAT, json={"messages": USER}, headers=anna)).status_code == 200
            await used(quern, anna)
        counted = await used(quern, anna)
        assert counted["prompt_tokens"] == 3 * prompt
        assert counted["cached_tokens"] == 2 * (prompt - 1)
        fourth = await quern.client.post(CHAT, json={"messages": USER}, headers=anna)
        assert fourth.status_code == (200 if more else 429)


@pytest.mark.parametrize("method", ["GET", "HEAD", "OPTIONS", "DELETE", "PUT"])
async def test_what_is_no_post_counts_for_nothing(quern: Quern, method: str) -> None:
    anna = bearer(await make(quern, "anna", limits={"requests_per_minute": 1}))
    for path in ("/v1/models", CHAT, "/v1/conversations", "/slots", "/nowhere"):
        for _ in range(3):
            assert (await quern.client.request(method, path, headers=anna)).status_code != 429
    assert (await quern.client.post(CHAT, json={"messages": USER}, headers=anna)).status_code == 200


async def test_who_is_over_a_limit_may_still_end_what_runs(start: Start) -> None:
    async with start(FakeEngine(token_delay=0.01, reply=lambda _: [100] * 500)) as quern:
        anna = bearer(await make(quern, "anna", limits={"requests_per_minute": 1}))
        begun = await quern.client.post(RESPONSES, json={"input": "hi", "background": True}, headers=anna)
        assert (await quern.client.post(RESPONSES, json={"input": "hi"}, headers=anna)).status_code == 429
        ended = await quern.client.post(f"{RESPONSES}/{begun.json()['id']}/cancel", headers=anna)
        assert ended.json()["status"] == "cancelled"
        for path in ("/api/show", "/api/pull", "/v1/conversations"):
            assert (await quern.client.post(path, json={}, headers=anna)).status_code != 429


@pytest.mark.parametrize("content", [b"", b"{", b"x" * 100_000, b'{"messages": 5}', b"\xff\xfe"])
async def test_over_a_limit_no_body_is_looked_at(quern: Quern, content: bytes) -> None:
    limits = {"requests_per_minute": 1}
    anna, ben = bearer(await make(quern, "anna", limits=limits)), bearer(await make(quern, "ben", limits=limits))
    json_type = {"content-type": "application/json"}
    assert (await quern.client.post(CHAT, content=content, headers={**ben, **json_type})).status_code == 400
    await quern.client.post(CHAT, json={"messages": USER}, headers=anna)
    for headers in (anna, ben):
        refused = await quern.client.post(CHAT, content=content, headers={**headers, **json_type})
        assert refused.status_code == 429
        assert 1 <= int(refused.headers["retry-after"]) <= 60


async def test_a_limit_that_is_changed_holds_for_the_next_request(quern: Quern) -> None:
    anna = bearer(await make(quern, "anna", limits={"requests_per_minute": 1}))
    keys = quern.application.keys
    assert (await quern.client.post(CHAT, json={"messages": USER}, headers=anna)).status_code == 200
    assert (await quern.client.post(CHAT, json={"messages": USER}, headers=anna)).status_code == 429

    await keys.change("anna", KeyChanges(limits=KeyLimits(requests_per_minute=0)), "local")
    assert (await quern.client.post(CHAT, json={"messages": USER}, headers=anna)).status_code == 200
