"""Changes to a conversation while one of its turns begins or runs, and turns that are no responses."""

from __future__ import annotations

import asyncio
import uuid

import pytest

from quern.engine.fake import FakeEngine

from .conftest import Quern, Start, being_admitted

MORE = {"items": [{"role": "user", "content": "more"}]}


async def _texts(quern: Quern, conversation_id: str) -> list[str]:
    body = (await quern.client.get(f"/v1/conversations/{conversation_id}")).json()
    return [message["content"] for message in body["messages"]]


async def test_while_a_turn_is_being_admitted_nothing_is_put_into_its_conversation_or_taken_out(
    start: Start,
) -> None:
    async with start(FakeEngine(reply=lambda _request: tuple(b"answer"))) as quern:
        conversation_id = await quern.begin("hello")
        items = f"/v1/conversations/{conversation_id}/items"
        first = (await quern.client.get(items, params={"order": "asc"})).json()["data"][0]["id"]
        async with being_admitted(quern, "slow", conversation_id) as admitting:
            for refused in (await quern.client.post(items, json=MORE), await quern.client.delete(f"{items}/{first}")):
                assert refused.status_code == 409
                assert refused.json()["error"]["code"] == "conversation_busy"
        assert (await admitting).text == "answer"
        assert await _texts(quern, conversation_id) == ["hello", "answer", "slow", "answer"]
        assert (await quern.client.post(items, json=MORE)).status_code == 200
        assert (await quern.client.delete(f"{items}/{first}")).status_code == 200
        assert await _texts(quern, conversation_id) == ["answer", "slow", "answer", "more"]


async def test_several_callers_at_once_put_all_of_their_items_into_an_idle_conversation(quern: Quern) -> None:
    conversation_id = (await quern.client.post("/v1/conversations", json={})).json()["id"]
    url = f"/v1/conversations/{conversation_id}/items"
    said = [[f"{caller}.{number}" for number in range(3)] for caller in range(5)]
    bodies = [{"items": [{"role": "user", "content": text} for text in texts]} for texts in said]
    answers = await asyncio.gather(*(quern.client.post(url, json=body) for body in bodies))
    assert {answer.status_code for answer in answers} == {200}
    texts = await _texts(quern, conversation_id)
    assert sorted(texts[start : start + 3] for start in range(0, 15, 3)) == said, "each caller's items stay together"


@pytest.mark.parametrize(("method", "suffix"), [("POST", "/cancel"), ("DELETE", "")])
async def test_a_turn_that_is_no_response_is_not_cancelled_as_one(start: Start, method: str, suffix: str) -> None:
    async with start(FakeEngine(token_delay=0.01, reply=lambda _request: tuple(b"x" * 30))) as quern:
        running = asyncio.ensure_future(quern.chat("hello"))
        while not quern.engine.stats().running:
            await asyncio.sleep(0.005)
        conversation_id = (await quern.client.get("/v1/conversations")).json()["data"][0]["id"]
        turn = (await quern.client.get(f"/v1/conversations/{conversation_id}")).json()["turns"][0]
        response_id = f"resp_{uuid.UUID(turn['id']).hex}"
        answer = await quern.client.request(method, f"/v1/responses/{response_id}{suffix}")
        assert answer.status_code == 404
        assert answer.json()["error"]["code"] == "not_found"
        assert (await running).text.endswith("x" * 30)
