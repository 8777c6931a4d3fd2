"""Limits that change while the server runs: the next request meets the new ones, and what runs goes on."""

from __future__ import annotations

import asyncio

from quern.config import Settings
from quern.engine.fake import FakeEngine

from .conftest import Quern, Start, being_admitted
from .test_keys import bearer, make

CHAT = {"messages": [{"role": "user", "content": "hi"}]}


def _with(quern: Quern, **turns: int) -> Settings:
    return quern.settings.model_copy(update={"turns": quern.settings.turns.model_copy(update=turns)})


async def test_the_next_request_meets_the_new_limit_of_the_queue_and_running_ones_go_on(start: Start) -> None:
    engine = FakeEngine(parallel=1, prefill_delay=0.3)
    async with start(engine) as quern:
        running = asyncio.ensure_future(quern.client.post("/v1/chat/completions", json=CHAT))
        waiting = asyncio.ensure_future(quern.client.post("/v1/chat/completions", json=CHAT))
        while engine.stats().waiting == 0:
            await asyncio.sleep(0)
        await quern.application.reload(_with(quern, max_queued=0))
        refused = await quern.client.post("/v1/chat/completions", json=CHAT)
        assert refused.status_code == 503
        assert "retry-after" in refused.headers
        await quern.application.reload(quern.settings)
        assert (await quern.client.post("/v1/chat/completions", json=CHAT)).status_code == 200
        assert {(await one).status_code for one in (running, waiting)} == {200}


async def test_a_turn_that_is_being_admitted_when_the_server_begins_to_stop_has_its_grace(start: Start) -> None:
    async with start() as quern:
        conversation = await quern.begin()
        async with being_admitted(quern, "and then?", conversation) as response:
            draining = asyncio.ensure_future(quern.application.drain(20))
            while not quern.application.turns.stopping:
                await asyncio.sleep(0)
        answer = await response
        assert answer.status_code == 200
        assert "and then?" in answer.text
        await draining
        kept = (await quern.client.get(f"/v1/conversations/{conversation}")).json()
        assert [turn["state"] for turn in kept["turns"]] == ["completed", "completed"]
        assert (await quern.client.post("/v1/chat/completions", json=CHAT)).status_code == 503


async def test_a_reload_over_http_is_for_administrators_and_needs_somebody_who_knows_the_settings(start: Start) -> None:
    async with start() as quern:
        anna, boss = bearer(await make(quern, "anna")), bearer(await make(quern, "boss", role="admin"))
        assert (await quern.client.post("/v1/admin/reload", headers=anna)).status_code == 403
        unknown = await quern.client.post("/v1/admin/reload", headers=boss)
        assert unknown.status_code == 400
        assert "no settings to read anew" in unknown.json()["error"]["message"]
