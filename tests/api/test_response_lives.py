"""A response's life: how it ends, in the background or not, cancelled, deleted, or left by its client."""

from __future__ import annotations

import asyncio
import json

import openai
import pytest

from quern.engine.fake import FakeEngine

from .conftest import Start
from .engines import saying
from .openai_clients import (
    error_of,
    events_of,
    fetched,
    official,
    output_text,
    over,
    prompt_text,
    respond,
    responded,
    until,
    writing,
)


async def test_an_answer_that_met_its_limit_is_incomplete_and_can_be_continued(start: Start) -> None:
    async with start(saying("answer")) as quern:
        body = await responded(quern, max_output_tokens=3)
        assert (body["status"], body["incomplete_details"]) == ("incomplete", {"reason": "max_output_tokens"})
        assert body["completed_at"] is None
        assert (output_text(body), body["output"][0]["status"]) == ("ans", "incomplete")
        assert await fetched(quern, body["id"]) == body
        await responded(quern, previous_response_id=body["id"])
        assert "ans" in prompt_text(quern)


async def test_an_answer_that_failed_is_a_500_and_keeps_what_there_is(start: Start) -> None:
    async with start(saying("answer", fail_after=3), live=True) as quern, official(quern) as client:
        stream = await client.responses.create(model="fake", input="hi", stream=True)
        events = [event async for event in stream]
        last = events[-1]
        assert last.type == "response.failed"
        assert last.response.error is not None
        assert last.response.error.code == "server_error"
        assert "failed after 3 tokens" in last.response.error.message
        assert last.response.output_text == "ans"
        assert last.response.output[0].type == "message"
        assert last.response.output[0].status == "incomplete"
        assert await client.responses.retrieve(last.response.id) == last.response
        with pytest.raises(openai.InternalServerError, match="failed after 3 tokens") as raised:
            await client.responses.create(model="fake", input="hi")
        kept = raised.value.message.partition("GET /v1/responses/")[2].partition(".")[0]
        assert (await client.responses.retrieve(kept)).output_text == "ans"
        with pytest.raises(openai.InternalServerError, match=r"as it was told to\.$"):
            await client.responses.create(model="fake", input="hi", store=False)
        param, message = error_of(await respond(quern, previous_response_id=last.response.id), 400)
        assert (param, "ended as failed" in message) == ("previous_response_id", True)


async def test_the_first_engine_error_before_any_text_leaves_no_output(start: Start) -> None:
    async with start(FakeEngine(fail_after=0)) as quern:
        events = events_of(await respond(quern, stream=True))
    assert [event["type"] for event in events] == ["response.created", "response.in_progress", "response.failed"]
    assert events[-1]["response"]["output"] == []


async def test_in_the_background_the_answer_is_fetched_later(start: Start) -> None:
    async with start(saying("answer" * 5, token_delay=0.005)) as quern:
        body = await responded(quern, background=True)
        assert (body["status"], body["output"], body["usage"]) == ("queued", [], None)
        await writing(quern)
        running = await fetched(quern, body["id"])
        assert running["status"] == "in_progress"
        error_of(await respond(quern, previous_response_id=body["id"]), 409)
        await over(quern)
        ended = await fetched(quern, body["id"])
    assert (ended["status"], output_text(ended)) == ("completed", "answer" * 5)
    assert output_text(ended).startswith(output_text(running))


async def test_a_response_that_waits_for_a_place_is_queued(start: Start) -> None:
    async with start(saying("x" * 3000, parallel=1, token_delay=0.01)) as quern:
        first = await responded(quern, background=True)
        second = await responded(quern, background=True)
        await until(lambda: quern.engine.stats().waiting == 1)
        assert (await fetched(quern, second["id"]))["status"] == "queued"
        for response in (second, first):
            answer = await quern.client.post(f"/v1/responses/{response['id']}/cancel")
            assert answer.json()["status"] == "cancelled"


@pytest.mark.parametrize("background", [True, False])
async def test_a_response_is_cancelled_once_and_keeps_what_there_is(start: Start, background: bool) -> None:
    async with start(saying("x" * 3000, token_delay=0.01)) as quern:
        creating = asyncio.ensure_future(respond(quern, background=background, input="only"))
        path = f"/v1/responses/{await writing(quern)}/cancel"
        cancelled = (await quern.client.post(path)).json()
        assert cancelled["status"] == "cancelled"
        assert cancelled["error"] is None
        assert output_text(cancelled).startswith("x")
        assert cancelled["output"][0]["status"] == "incomplete"
        assert not quern.engine.stats().running
        assert (await quern.client.post(path)).json() == cancelled
        created = (await creating).json()
        assert created["status"] == ("queued" if background else "cancelled")
        if not background:
            assert created == cancelled


async def test_cancelling_what_has_ended_changes_nothing(start: Start) -> None:
    async with start(saying("answer")) as quern:
        body = await responded(quern)
        assert (await quern.client.post(f"/v1/responses/{body['id']}/cancel")).json() == body


async def test_deleting_a_running_response_ends_it(start: Start) -> None:
    async with start(saying("x" * 3000, token_delay=0.01)) as quern:
        body = await responded(quern, background=True)
        answer = await quern.client.delete(f"/v1/responses/{body['id']}")
        assert answer.json() == {"id": body["id"], "object": "response", "deleted": True}
        assert not quern.application.turns.active
        error_of(await quern.client.get(f"/v1/responses/{body['id']}"), 404)


@pytest.mark.parametrize(("policy", "status"), [("cancel", "cancelled"), ("finish", "completed")])
async def test_a_client_that_leaves_decides_by_its_header(start: Start, policy: str, status: str) -> None:
    async with start(saying("x" * 60, token_delay=0.01), live=True) as quern:
        async with quern.client.stream(
            "POST",
            "/v1/responses",
            json={"input": "hi", "stream": True},
            headers={"x-quern-on-disconnect": policy},
        ) as answer:
            first = await anext(answer.aiter_text())
        await over(quern)
        response_id = json.loads(first.split("\n\n")[0].partition("data: ")[2])["response"]["id"]
        assert (await fetched(quern, response_id))["status"] == status


async def test_in_the_background_it_goes_on_without_its_reader_whatever_the_header_says(start: Start) -> None:
    async with start(saying("x" * 60, token_delay=0.01), live=True) as quern:
        async with quern.client.stream(
            "POST",
            "/v1/responses",
            json={"input": "hi", "stream": True, "background": True},
            headers={"x-quern-on-disconnect": "cancel"},
        ) as answer:
            first = await anext(answer.aiter_text())
        await over(quern)
        response_id = json.loads(first.split("\n\n")[0].partition("data: ")[2])["response"]["id"]
        assert output_text(await fetched(quern, response_id)) == "x" * 60


async def test_a_response_can_be_followed_while_it_runs(start: Start) -> None:
    async with start(saying("x" * 40, token_delay=0.01)) as quern:
        creating = asyncio.ensure_future(respond(quern))
        path = f"/v1/responses/{await writing(quern)}"
        events = events_of(await quern.client.get(path, params={"stream": "true"}))
        assert events[-1]["response"] == (await creating).json()
