"""Two servers on one PostgreSQL database: whatever a turn's server, its owner finds it at both."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from unittest.mock import AsyncMock

import pytest
from tests.postgresql import PostgreSQL

from quern.access.principal import ANONYMOUS
from quern.engine.fake import FakeEngine

from .conftest import Quern, Start
from .test_keys import bearer, make
from .test_turn_events import ANSWER, events, numbered, saying, text_of

HELLO = {"messages": [{"role": "user", "content": "hello"}]}
FINISH = {"x-quern-on-disconnect": "finish"}
Pair = Callable[..., AbstractAsyncContextManager[tuple[Quern, Quern]]]


def slowly() -> FakeEngine:
    return saying(ANSWER, token_delay=0.01)


@pytest.fixture
def pair(start: Start, postgresql: PostgreSQL) -> Pair:
    """Two servers on a new database."""
    url = postgresql.url(postgresql.migrated_database())

    @asynccontextmanager
    async def starting(lease_seconds: float = 30.0, **settings: object) -> AsyncGenerator[tuple[Quern, Quern]]:
        store = {"url": url, "lease_seconds": lease_seconds}
        async with (
            start(slowly(), store=store, live=True, **settings) as here,
            start(slowly(), store=store, live=True, **settings) as there,
        ):
            yield here, there

    return starting


@asynccontextmanager
async def running_turn(quern: Quern, **fields: object) -> AsyncGenerator[str]:
    """The id of a turn that runs while the block does; afterwards it is waited for."""
    asked = asyncio.ensure_future(quern.client.post("/v1/chat/completions", json={**HELLO, **fields}, headers=FINISH))
    async with asyncio.timeout(20):
        while not quern.application.turns.active:
            await asyncio.sleep(0.005)
    yield quern.application.turns.all_active()[0].id
    await asked


async def state_of(quern: Quern, turn_id: str) -> str:
    return (await quern.client.get(f"/v1/turns/{turn_id}")).json()["state"]


async def test_a_turn_is_followed_at_the_other_server_event_by_event(pair: Pair) -> None:
    async with pair() as (here, there):
        async with running_turn(here) as turn_id:
            followed = await asyncio.gather(*(events(there, turn_id, str(seen)) for seen in (0, 0, 3)))
        told = numbered(await events(here, turn_id))
        assert text_of(told) == ANSWER
        assert [numbered(one) for one in followed] == [told, told, told[3:]]
        assert numbered(await events(there, turn_id)) == told
        assert not there.engine.requests


async def test_a_turn_is_cancelled_from_the_other_server(pair: Pair) -> None:
    async with pair() as (here, there), running_turn(here) as turn_id:
        cancelled = await there.client.post(f"/v1/turns/{turn_id}/cancel")
        assert cancelled.json()["state"] == "cancelled"
        assert await state_of(here, turn_id) == "cancelled"


async def test_a_retry_at_the_other_server_gets_the_same_turn(pair: Pair) -> None:
    key = {"idempotency-key": "one", **FINISH}
    async with pair() as (here, there):
        asked = [
            asyncio.ensure_future(quern.client.post("/v1/chat/completions", json=HELLO, headers=key))
            for quern in (here, there)
        ]
        first, second = [await one for one in asked]
        assert first.status_code == second.status_code == 200, second.text
        assert first.json()["choices"] == second.json()["choices"]
        assert first.headers["x-quern-turn-id"] == second.headers["x-quern-turn-id"]
        assert len(here.engine.requests) + len(there.engine.requests) == 1


async def test_a_conversation_has_one_turn_at_once_whatever_the_server(pair: Pair) -> None:
    async with pair() as (here, there):
        conversation = (await here.client.post("/v1/conversations", json={})).json()["id"]
        headers = {"x-quern-conversation": conversation, **FINISH}
        asked = asyncio.ensure_future(here.client.post("/v1/chat/completions", json=HELLO, headers=headers))
        while not here.application.turns.active:
            await asyncio.sleep(0.005)
        refused = await there.client.post("/v1/chat/completions", json=HELLO, headers=headers)
        assert refused.status_code == 409, refused.text
        assert (await asked).status_code == 200
        assert (await there.client.post("/v1/chat/completions", json=HELLO, headers=headers)).status_code == 200


async def test_a_key_that_is_made_or_revoked_at_one_server_counts_at_the_other_at_once(pair: Pair) -> None:
    async with pair() as (here, there):
        headers = bearer(await make(here, "anna", role="admin"))
        async with asyncio.timeout(5):  # far less than the minute after which keys are read anew anyway
            while (await there.client.get("/v1/conversations")).status_code != 401:
                await asyncio.sleep(0.02)
        assert (await there.client.get("/v1/conversations", headers=headers)).status_code == 200
        revoked = await here.client.delete("/v1/admin/keys/anna", headers=headers)
        assert revoked.status_code == 200, revoked.text
        async with asyncio.timeout(5):
            while (await there.client.get("/v1/conversations", headers=headers)).status_code != 401:
                await asyncio.sleep(0.02)


async def test_turns_of_a_server_that_lost_its_lease_go_on_at_the_other_and_readers_see_one_answer(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with pair(lease_seconds=0.5, turns={"resume_interrupted": "all"}) as (here, there):
        here.engine.token_delay = 0.2  # it will not be done in time
        async with running_turn(here) as turn_id:
            follower = asyncio.ensure_future(events(there, turn_id))
            assert here.application.instance is not None
            monkeypatch.setattr(here.application.instance._store, "renew", AsyncMock(side_effect=asyncio.Event().wait))
            told = numbered(await follower)
            assert text_of(told) == ANSWER
            assert told[-1][2]["state"] == "completed"
            here.engine.token_delay = 0
        assert await state_of(here, turn_id) == "completed"
        assert there.engine.requests
        assert numbered(await events(here, turn_id)) == told


async def test_the_turns_of_a_server_that_is_there_are_left_to_it(pair: Pair) -> None:
    async with pair(lease_seconds=0.5) as (here, there), running_turn(here) as turn_id:
        assert await there.application.turns.take_over() == 0
        await asyncio.sleep(1)
        assert await state_of(there, turn_id) in {"running", "completed"}


async def test_limits_hold_over_both_servers(pair: Pair) -> None:
    async with pair(limits={"requests_per_minute": 4}) as (here, there):
        for quern in (here, there, here, there):
            assert (await quern.client.post("/v1/code/generate", data={"prompt": "hi"})).status_code == 200
        async with asyncio.timeout(20):
            while here.application.usage.allowances(ANONYMOUS)["requests"].remaining:
                await asyncio.sleep(0.05)
        for quern in (here, there):
            refused = await quern.client.post("/v1/code/generate", data={"prompt": "hi"})
            assert refused.status_code == 429, refused.text


async def test_turns_at_once_are_counted_over_both_servers(pair: Pair) -> None:
    async with pair(limits={"turns_at_once": 1}) as (here, there):
        here.engine.token_delay = 0.05
        async with running_turn(here):
            await asyncio.sleep(2)  # twice as long as servers take to tell each other
            asked = asyncio.ensure_future(there.client.post("/v1/code/generate", data={"prompt": "hi"}))
            await asyncio.sleep(1)
            assert here.application.turns.active, "it still runs"
            assert not there.engine.requests, "it waits for the one at the other server"
        assert (await asked).status_code == 200
