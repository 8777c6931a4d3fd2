"""Limits of keys over HTTP, and what was used."""

from __future__ import annotations

import asyncio
from typing import Any

import openai
import pytest

from quern.engine.fake import FakeEngine

from .conftest import Quern, Start
from .test_keys import bearer, control, make

CHAT = "/v1/chat/completions"


def ask(**more: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": "hi there"}], **more}


@pytest.mark.parametrize(
    ("path", "body", "told"),
    [
        (CHAT, ask(), "rate_limit_exceeded"),
        ("/v1/messages", ask(max_tokens=3), "rate_limit_error"),
        ("/api/chat", ask(), "requests a minute"),
        ("/v1/completions", {"prompt": "x"}, "rate_limit_exceeded"),
        ("/tokenize", {"content": "x"}, "rate_limit_exceeded"),
    ],
)
async def test_a_key_over_its_limit_gets_a_429_in_its_dialect_and_others_nothing_of_it(
    quern: Quern, path: str, body: Any, told: str
) -> None:
    anna = await make(quern, "anna", limits={"requests_per_minute": 1})
    ben = await make(quern, "ben")
    assert (await quern.client.post(path, json=body, headers=bearer(anna))).status_code == 200
    refused = await quern.client.post(path, json=body, headers=bearer(anna))
    assert refused.status_code == 429
    assert told in str(refused.json()["error"])
    assert 1 <= int(refused.headers["retry-after"]) <= 60
    assert (await quern.client.post(path, json=body, headers=bearer(ben))).status_code == 200


async def test_a_limit_is_told_before_the_body_is_read(start: Start) -> None:
    async with start(live=True) as quern:
        anna = await make(quern, "anna", limits={"requests_per_minute": 1})
        await quern.client.post(CHAT, json=ask(), headers=bearer(anna))
        refused = await quern.client.post(CHAT, content=b"x" * 7_000_000, headers=bearer(anna))
        assert refused.status_code == 429
    assert len(quern.engine.requests) == 1


async def test_headers_say_what_is_left(quern: Quern) -> None:
    anna = await make(quern, "anna", limits={"requests_per_minute": 10, "tokens_per_minute": 1000})
    first = await quern.client.post(CHAT, json=ask(), headers=bearer(anna))
    second = await quern.client.post(CHAT, json=ask(), headers=bearer(anna))
    assert second.headers["x-ratelimit-limit-requests"] == "10"
    assert second.headers["x-ratelimit-remaining-requests"] == "8"
    assert second.headers["anthropic-ratelimit-tokens-limit"] == "1000"
    used = first.json()["usage"]["total_tokens"]
    assert int(second.headers["x-ratelimit-remaining-tokens"]) <= 1000 - used + 20
    plain = await quern.client.post(CHAT, json=ask(), headers=bearer(await make(quern, "ben")))
    assert not [name for name in plain.headers if "ratelimit" in name]


async def test_reading_and_administering_counts_for_nothing(quern: Quern) -> None:
    anna = await make(quern, "anna", limits={"requests_per_minute": 1})
    for _ in range(3):
        assert (await quern.client.get("/v1/models", headers=bearer(anna))).status_code == 200
        assert (await quern.client.post("/v1/conversations", json={}, headers=bearer(anna))).status_code == 200


async def test_a_days_tokens_are_remembered_over_a_restart(start: Start) -> None:
    async with start() as quern:
        anna = await make(quern, "anna", limits={"tokens_per_day": 5})
        assert (await quern.client.post(CHAT, json=ask(), headers=bearer(anna))).status_code == 200
        assert (await quern.client.post(CHAT, json=ask(), headers=bearer(anna))).status_code == 429
    async with start() as quern:
        refused = await quern.client.post(CHAT, json=ask(), headers=bearer(anna))
        assert refused.status_code == 429
        assert int(refused.headers["retry-after"]) > 60 or refused.headers["retry-after"]
        assert refused.headers.get("x-should-retry", "false") == "false"


async def test_openais_client_does_not_try_again_for_a_limit_of_a_day(start: Start) -> None:
    async with start(live=True) as quern:
        anna = await make(quern, "anna", limits={"tokens_per_day": 5})
        url = str(quern.client.base_url).rstrip("/")
        async with openai.AsyncOpenAI(api_key=anna, base_url=f"{url}/v1", max_retries=5) as client:
            await client.chat.completions.create(model="fake", messages=[{"role": "user", "content": "hi"}])
            with pytest.raises(openai.RateLimitError, match="tokens a day"):
                await client.chat.completions.create(model="fake", messages=[{"role": "user", "content": "hi"}])
        assert len(quern.engine.requests) == 1


async def test_of_a_keys_turns_so_many_run_so_many_wait_and_one_more_is_a_429(start: Start) -> None:
    engine = FakeEngine(token_delay=0.02, reply=lambda _: [100] * 30)
    async with start(engine) as quern:
        anna = await make(quern, "anna", limits={"turns_at_once": 2, "turns_waiting": 3})
        ben = await make(quern, "ben")
        asked = [asyncio.ensure_future(quern.client.post(CHAT, json=ask(), headers=bearer(anna))) for _ in range(9)]
        most = 0
        while not all(one.done() for one in asked):
            most = max(most, engine.stats().running)
            await asyncio.sleep(0.005)
        statuses = sorted(one.result().status_code for one in asked)
        assert statuses == [200] * 5 + [429] * 4
        assert most == 2
        assert (await quern.client.post(CHAT, json=ask(), headers=bearer(ben))).status_code == 200


async def test_a_turn_that_waits_for_its_keys_own_can_be_given_up(start: Start) -> None:
    engine = FakeEngine(token_delay=0.02, reply=lambda _: [100] * 50)
    async with start(engine, live=True) as quern:
        anna = await make(quern, "anna", limits={"turns_at_once": 1})
        first = asyncio.ensure_future(quern.client.post(CHAT, json=ask(), headers=bearer(anna)))
        while engine.stats().running == 0:
            await asyncio.sleep(0.01)
        second = asyncio.ensure_future(quern.client.post(CHAT, json=ask(), headers=bearer(anna)))
        await asyncio.sleep(0.1)
        second.cancel()
        assert (await first).status_code == 200
        assert (await quern.client.post(CHAT, json=ask(), headers=bearer(anna))).status_code == 200


async def test_usage_is_ones_own_and_all_for_an_administrator(quern: Quern) -> None:
    anna, ben, boss = await make(quern, "anna"), await make(quern, "ben"), await make(quern, "boss", role="admin")
    for key, times in ((anna, 2), (ben, 1)):
        for _ in range(times):
            await quern.client.post(CHAT, json=ask(), headers=bearer(key))
    [mine] = (await quern.client.get("/v1/usage", headers=bearer(anna))).json()["data"]
    assert (mine["key"], mine["requests"]) == ("anna", 2)
    assert mine["prompt_tokens"] > 0
    assert mine["completion_tokens"] > 0
    everybody = (await quern.client.get("/v1/usage", headers=bearer(boss))).json()["data"]
    assert {row["key"]: row["requests"] for row in everybody} == {"anna": 2, "ben": 1}
    async with control(quern) as local:
        assert len((await local.get("/v1/usage")).json()["data"]) == 2


async def test_what_was_used_stays_when_the_conversation_is_deleted(quern: Quern) -> None:
    conversation = await quern.begin()
    before = (await quern.client.get("/v1/usage")).json()["data"]
    await quern.client.delete(f"/v1/conversations/{conversation}")
    assert (await quern.client.get("/v1/usage")).json()["data"] == before
    assert before[0]["requests"] == 1


@pytest.mark.parametrize(
    "query", ["from=2027-01-02&to=2027-01-01", "from=yesterday", "from=1000-01-01&to=3000-01-01", "to=0001-01-01"]
)
async def test_days_that_are_none_are_refused_or_empty(quern: Quern, query: str) -> None:
    answer = await quern.client.get(f"/v1/usage?{query}")
    assert answer.status_code == 400 or answer.json()["data"] == []
