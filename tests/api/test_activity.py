"""What goes on now: as administrators ask for it over HTTP, and as `quern top` shows it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from io import StringIO
from typing import Any

import httpx2
from rich.console import Console

from quern.cli.top import frame
from quern.engine.fake import FakeEngine
from quern.prompt.codec import TextCodec

from .conftest import Quern, Start
from .test_keys import bearer, control, make


@asynccontextmanager
async def busy(start: Start) -> AsyncGenerator[tuple[Quern, dict[str, Any]]]:
    """A server with one sequence, on which a turn of anna's runs and one of [ben]'s waits; and its activity."""
    engine = FakeEngine(parallel=1, token_delay=0.01, vocabulary_size=TextCodec.builtin().vocabulary_size)
    async with start(engine) as quern:
        tasks: list[asyncio.Future[httpx2.Response]] = []
        for name, path in (("anna", "/v1/chat/completions"), ("[ben]", "/v1/messages")):
            body = {"messages": [{"role": "user", "content": f"the {name} plan " * 30}], "max_tokens": 300}
            key = await make(quern, name)
            tasks.append(asyncio.ensure_future(quern.client.post(path, json=body, headers=bearer(key))))
            while len((await activity(quern))["turns"]) < len(tasks):
                await asyncio.sleep(0.005)
        while not (found := await activity(quern))["turns"][0]["tokens_per_second"]:
            await asyncio.sleep(0.005)
        yield quern, found
        for task in tasks:
            task.cancel()


async def activity(quern: Quern) -> dict[str, Any]:
    async with control(quern) as local:
        answer = await local.get("/v1/admin/activity")
    assert answer.status_code == 200, answer.text
    return answer.json()


def shown(now: dict[str, Any], rows: int = 40) -> str:
    text = StringIO()
    Console(file=text, width=140).print(frame(now, rows))
    return text.getvalue()


async def test_every_turn_is_told_with_its_key_state_and_progress(start: Start) -> None:
    async with busy(start) as (_, now):
        runs, waits = now["turns"]
        assert (runs["key"], runs["state"], waits["key"], waits["state"]) == ("anna", "decode", "[ben]", "queued")
        assert runs["prefilled_tokens"] == runs["prompt_tokens"] > 300
        assert 0 < runs["generated_tokens"] <= runs["max_tokens"] == 300
        assert (waits["prefilled_tokens"], waits["generated_tokens"], waits["tokens_per_second"]) == (0, 0, None)
        assert (now["engine"]["state"], now["engine"]["running"], now["engine"]["waiting"]) == ("ready", 1, 1)
        sums = {key["key"]: (key["running"], key["waiting"]) for key in now["keys"]}
        assert sums == {"anna": (1, 0), "[ben]": (0, 1)}


async def test_nothing_of_a_prompt_or_an_answer_is_told(start: Start) -> None:
    async with busy(start) as (quern, now):
        assert "plan" not in str(now)
        assert "plan" not in (await quern.client.get("/metrics")).text


async def test_activity_is_for_administrators(quern: Quern) -> None:
    assert (await quern.client.get("/v1/admin/activity")).status_code == 403, "an open server has no administrators"
    user, admin = await make(quern, "anna"), await make(quern, "ops", role="admin")
    assert (await quern.client.get("/v1/admin/activity")).status_code == 401
    assert (await quern.client.get("/v1/admin/activity", headers=bearer(user))).status_code == 403
    assert (await quern.client.get("/v1/admin/activity", headers=bearer(admin))).status_code == 200


async def test_a_server_that_loads_or_has_nothing_to_do_can_be_shown(start: Start) -> None:
    async with start() as quern:
        assert "ready" in shown(await activity(quern))
    async with start(FakeEngine(load_delay=30), wait_until_loaded=False) as quern:
        now = await activity(quern)
        assert "loading" in shown(now)
        assert now["turns"] == []


async def test_top_shows_keys_sequences_and_the_queue(start: Start) -> None:
    async with busy(start) as (_, now):
        text = shown(now)
        assert "1 of 1 running, 1 waiting" in text
        assert "anna" in text
        assert "[ben]" in text, "a key's name is no markup"
        assert "decode" in text
        assert "queued" in text
        assert "… and 1 more" in shown(now, rows=1)
        blocks = {**now, "engine": {**now["engine"], "kv_blocks": {"used": 1, "cached": 2, "free": 3}}}
        assert "1 used, 2 cached, 3 free" in shown(blocks)
