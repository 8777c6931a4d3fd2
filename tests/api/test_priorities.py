"""Who can wait for whom: what requests say of it, and what becomes of it while they live."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from quern.engine.base import Priority
from quern.engine.fake import FakeEngine

from .conftest import Quern, Start

HEADER = "x-quern-priority"
CHAT: dict[str, Any] = {"messages": [{"role": "user", "content": "hi"}]}
MESSAGE: dict[str, Any] = {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 5}
GAP: dict[str, Any] = {"prompt": "a", "suffix": "b", "max_tokens": 5}
REQUESTS: list[tuple[str, dict[str, Any]]] = [
    ("/v1/chat/completions", CHAT),
    ("/v1/completions", {"prompt": "hi", "max_tokens": 5}),
    ("/v1/completions", GAP),
    ("/v1/fim/completions", GAP),
    ("/v1/responses", {"input": "hi"}),
    ("/v1/messages", MESSAGE),
    ("/api/chat", {"model": "fake", **CHAT, "stream": False}),
    ("/api/generate", {"model": "fake", "prompt": "hi", "stream": False}),
    ("/completion", {"prompt": "hi", "n_predict": 5}),
    ("/infill", {"input_prefix": "a", "input_suffix": "b", "n_predict": 5}),
    ("/infill", {"input_prefix": "a", "input_suffix": "b", "n_predict": 0}),
]


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(5):
        while not condition():
            await asyncio.sleep(0.005)


async def asked(quern: Quern, path: str, body: dict[str, Any], **headers: str) -> Priority:
    """The priority under which the engine was asked."""
    given = {name.replace("_", "-"): value for name, value in headers.items()}
    response = await quern.client.post(path, json=body, headers=given)
    assert response.status_code == 200, response.text
    await until(lambda: quern.application.turns.active == 0)
    return quern.engine.requests[-1].priority


@pytest.mark.parametrize(("path", "body"), REQUESTS)
async def test_every_request_can_say_that_it_can_wait_or_that_it_is_like_others(
    quern: Quern, path: str, body: dict[str, Any]
) -> None:
    assert await asked(quern, path, body, x_quern_priority="background") is Priority.BACKGROUND
    assert await asked(quern, path, body, x_quern_priority=" Normal ") is Priority.NORMAL


async def test_the_plain_endpoints_can_say_so_too(quern: Quern) -> None:
    for path in ("/v1/code/generate", "/v1/code/chat_stream"):
        await quern.client.post(path, data={"prompt": "hi"}, headers={HEADER: "background"})
        assert quern.engine.requests[-1].priority is Priority.BACKGROUND


@pytest.mark.parametrize("value", ["interactive", "urgent", "0", "", "background, normal"])
async def test_nobody_can_claim_to_be_urgent_nor_anything_else(quern: Quern, value: str) -> None:
    refused = await quern.client.post("/v1/chat/completions", json=CHAT, headers={HEADER: value})
    assert refused.status_code == 400
    assert refused.json()["error"]["message"] == f"The header {HEADER} takes one of background, normal."
    refused = await quern.client.post("/v1/messages", json=MESSAGE, headers={HEADER: value})
    assert refused.status_code == 400
    assert not quern.engine.requests


@pytest.mark.parametrize(
    ("path", "body", "priority"),
    [
        ("/v1/chat/completions", {**CHAT, "service_tier": "flex"}, Priority.BACKGROUND),
        ("/v1/chat/completions", {**CHAT, "service_tier": "auto"}, Priority.NORMAL),
        ("/v1/chat/completions", {**CHAT, "service_tier": "priority"}, Priority.NORMAL),
        ("/v1/chat/completions", {**CHAT, "service_tier": None}, Priority.NORMAL),
        ("/v1/chat/completions", {**CHAT, "priority": 0}, Priority.NORMAL),
        ("/v1/responses", {"input": "hi", "service_tier": "flex"}, Priority.BACKGROUND),
        ("/v1/responses", {"input": "hi", "service_tier": "default"}, Priority.NORMAL),
        ("/v1/responses", {"input": "hi", "background": True}, Priority.BACKGROUND),
        ("/v1/responses", {"input": "hi", "background": False}, Priority.NORMAL),
        ("/v1/responses/compact", {"input": "hi", "service_tier": "flex"}, Priority.BACKGROUND),
        ("/v1/messages", {**MESSAGE, "service_tier": "standard_only"}, Priority.NORMAL),
    ],
)
async def test_the_vendors_own_fields_say_it_as_well(
    quern: Quern, path: str, body: dict[str, Any], priority: Priority
) -> None:
    assert await asked(quern, path, body) is priority


async def test_the_header_has_the_last_word(quern: Quern) -> None:
    for body in ({"input": "hi", "background": True}, {"input": "hi", "service_tier": "flex"}):
        assert await asked(quern, "/v1/responses", body, x_quern_priority="normal") is Priority.NORMAL
        assert await asked(quern, "/v1/responses", body, x_quern_priority="background") is Priority.BACKGROUND


@pytest.mark.parametrize(("tier", "said"), [("flex", "flex"), ("auto", "default"), (None, "default")])
async def test_a_response_tells_its_tier(quern: Quern, tier: str | None, said: str) -> None:
    created = (await quern.client.post("/v1/responses", json={"input": "hi", "service_tier": tier})).json()
    fetched = (await quern.client.get(f"/v1/responses/{created['id']}")).json()
    assert created["service_tier"] == fetched["service_tier"] == said


async def test_every_request_of_an_owner_goes_under_its_name(quern: Quern) -> None:
    for path, body in REQUESTS:
        await asked(quern, path, body)
    assert {(request.owner, request.weight) for request in quern.engine.requests} == {("anonymous", 1.0)}


def slow() -> FakeEngine:
    return FakeEngine(parallel=1, reply=lambda _request: tuple(b"x" * 400), token_delay=0.005)


async def test_responses_in_the_background_refuse_no_chat(start: Start) -> None:
    async with start(slow(), turns={"max_queued": 2}) as quern:
        responses = [
            await quern.client.post("/v1/responses", json={"input": "hi", "background": True}) for _ in range(4)
        ]
        assert [response.status_code for response in responses] == [200, 200, 200, 503]
        chat = asyncio.ensure_future(quern.client.post("/v1/chat/completions", json={**CHAT, "max_tokens": 3}))
        await until(lambda: quern.engine.stats().waiting == 3)
        for response in responses[:1]:
            await quern.client.post(f"/v1/responses/{response.json()['id']}/cancel")
        assert (await chat).status_code == 200
        assert quern.engine.requests[1].priority is Priority.NORMAL, "it went before those that came first"
        for response in responses[1:3]:
            await quern.client.post(f"/v1/responses/{response.json()['id']}/cancel")


async def test_chats_that_were_left_refuse_no_chat_and_the_oldest_end_where_there_are_too_many(start: Start) -> None:
    async with start(slow(), live=True, turns={"max_queued": 1}) as quern:
        for number in range(6):
            url = "/v1/code/chat_stream"
            async with quern.client.stream("POST", url, data={"prompt": f"hi {number}"}) as left:
                assert left.status_code == 200, number
            await until(lambda: all(turn.priority is Priority.BACKGROUND for turn in live(quern)))
            await until(lambda: len(live(quern)) <= 2 + 1)
        states = [
            (await quern.client.get(f"/v1/conversations/{item['id']}")).json()["turns"][0]
            for item in (await quern.client.get("/v1/conversations")).json()["data"]
        ]
        ended = [turn["error"] for turn in states if turn["state"] == "cancelled"]
        assert ended
        assert all("wait for a reader that comes back" in reason for reason in ended)


def live(quern: Quern) -> list[Any]:
    return quern.application.turns.turns_of("anonymous")
