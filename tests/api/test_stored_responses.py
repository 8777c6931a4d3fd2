"""Stored responses as a whole: listed, deleted with everything else, forgotten when they are old."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import func, select

from quern.store import schema

from .conftest import Quern, Start
from .engines import saying
from .openai_clients import error_of, fetched, official, responded, until, writing
from .test_keys import bearer, make

LEFT = (schema.responses, schema.turn_events, schema.generations, schema.idempotency_keys, schema.items)


async def listed(quern: Quern, **query: Any) -> dict[str, Any]:
    answer = await quern.client.get("/v1/responses", params=query)
    assert answer.status_code == 200, answer.text
    return answer.json()


async def rows(quern: Quern) -> dict[str, int]:
    async with quern.application.database.transaction() as connection:
        return {
            table.name: (await connection.execute(select(func.count()).select_from(table))).scalar_one()
            for table in LEFT
        }


async def test_responses_are_listed_page_by_page_newest_first_or_oldest(start: Start) -> None:
    async with start(saying("answer")) as quern:
        assert await listed(quern) == {
            "object": "list",
            "data": [],
            "first_id": None,
            "last_id": None,
            "has_more": False,
        }
        conversation = await quern.begin()
        first = await responded(quern, metadata={"a": "b"})
        second = await responded(quern, previous_response_id=first["id"], max_output_tokens=2)
        third = await responded(quern, conversation=conversation)
        await responded(quern, store=False)
        page = await listed(quern, limit=2)
        assert [one["id"] for one in page["data"]] == [third["id"], second["id"]]
        assert (page["has_more"], page["last_id"]) == (True, second["id"])
        rest = await listed(quern, limit=2, after=page["last_id"])
        assert ([one["id"] for one in rest["data"]], rest["has_more"]) == ([first["id"]], False)
        oldest = await listed(quern, order="asc", limit=1)
        assert oldest["data"][0]["id"] == first["id"]
        assert (await listed(quern, order="asc", after=first["id"]))["data"][0]["id"] == second["id"]
        for one in (await listed(quern))["data"]:
            whole = await fetched(quern, one["id"])
            assert one == {name: whole[name] for name in one}
            assert not {"output", "instructions", "tools"} & one.keys()
        assert rest["data"][0]["metadata"] == {"a": "b"}


async def test_one_that_runs_is_listed_as_it_is_now(start: Start) -> None:
    async with start(saying("x" * 3000, token_delay=0.01)) as quern:
        body = await responded(quern, background=True)
        await writing(quern)
        (one,) = (await listed(quern))["data"]
        assert (one["id"], one["status"], one["background"]) == (body["id"], "in_progress", True)


async def test_a_cursor_that_is_none_is_refused_and_others_are_nobody_elses(start: Start) -> None:
    async with start(saying("answer")) as quern:
        anna, ben = bearer(await make(quern, "anna")), bearer(await make(quern, "ben"))
        created = await quern.client.post("/v1/responses", json={"input": "hi"}, headers=anna)
        mine = created.json()["id"]
        assert (await quern.client.get("/v1/responses", headers=ben)).json()["data"] == []
        for after in ("nonsense", mine, "resp_" + "0" * 32):
            answer = await quern.client.get("/v1/responses", params={"after": after}, headers=ben)
            param, message = error_of(answer, 400)
            assert (param, after in message) == ("after", True)


async def test_delete_all_leaves_nothing_of_what_was_said(start: Start) -> None:
    async with start(saying("answer", token_delay=0.002), live=True) as quern, official(quern) as client:
        headers = {"idempotency-key": "k1"}
        first = await client.responses.create(model="fake", input="hi", extra_headers=headers)
        second = await client.responses.create(model="fake", input="hi", previous_response_id=first.id)
        background = await client.responses.create(model="fake", input="hi " * 50, background=True)
        await quern.begin()
        once = await client.chat.completions.create(
            model="fake", messages=[{"role": "user", "content": "hi"}], extra_headers={"idempotency-key": "k2"}
        )
        assert once.choices[0].message.content == "answer"
        deleted = await quern.client.delete("/v1/conversations?all=true")
        assert deleted.json() == {"object": "list.deleted", "deleted": 1, "responses": 3}
        await until(lambda: not quern.application.turns.active)
        assert set((await rows(quern)).values()) == {0}, await rows(quern)
        for one in (first, second, background):
            assert (await quern.client.get(f"/v1/responses/{one.id}")).status_code == 404
        assert (await listed(quern))["data"] == []
        again = await client.responses.create(model="fake", input="hi", extra_headers=headers)
        assert again.id != first.id


async def test_delete_all_leaves_others_alone(start: Start) -> None:
    async with start(saying("answer")) as quern:
        anna, ben = bearer(await make(quern, "anna")), bearer(await make(quern, "ben"))
        for headers in (anna, ben):
            await quern.client.post("/v1/responses", json={"input": "hi"}, headers=headers)
        assert (await quern.client.delete("/v1/conversations?all=true", headers=anna)).json()["responses"] == 1
        assert len((await quern.client.get("/v1/responses", headers=ben)).json()["data"]) == 1


async def test_old_responses_go_but_those_on_which_a_later_one_builds(start: Start) -> None:
    async with start(saying("answer"), conversations={"keep_days": 7}) as quern:
        alone = await responded(quern)
        first = await responded(quern)
        second = await responded(quern, previous_response_id=first["id"])
        await _age(quern, days=8)
        third = await responded(quern, previous_response_id=second["id"])
        await quern.application.conversations.sweep(datetime.now(UTC))
        kept = [one["id"] for one in (await listed(quern))["data"]]
        assert sorted(kept) == sorted([first["id"], second["id"], third["id"]])
        assert (await quern.client.get(f"/v1/responses/{alone['id']}")).status_code == 404
        await responded(quern, previous_response_id=third["id"])
        await _age(quern, days=8)
        await quern.application.conversations.sweep(datetime.now(UTC))
        assert (await listed(quern))["data"] == []
        assert (await rows(quern))["items"] == 0


async def _age(quern: Quern, *, days: float) -> None:
    """As if all that there is had been made earlier."""
    async with quern.application.database.transaction() as connection:
        turns = (await connection.execute(select(schema.turns.c.id, schema.turns.c.created_at))).all()
        for turn_id, at in turns:
            earlier = schema.turns.update().where(schema.turns.c.id == turn_id)
            await connection.execute(earlier.values(created_at=at - timedelta(days=days)))


@pytest.mark.parametrize("keep_days", [0, 7])
async def test_one_that_runs_is_never_too_old(start: Start, keep_days: float) -> None:
    engine = saying("x" * 3000, token_delay=0.01)
    async with start(engine, conversations={"keep_days": keep_days}) as quern:
        body = await responded(quern, background=True)
        await writing(quern)
        await _age(quern, days=30)
        await quern.application.conversations.sweep(datetime.now(UTC))
        assert (await fetched(quern, body["id"]))["status"] == "in_progress"


async def test_the_file_shrinks_after_deleting_while_a_turn_streams(start: Start) -> None:
    async with start(saying("x" * 400, token_delay=0.01), live=True) as quern:
        items = [{"type": "function_call_output", "call_id": "c", "output": "y" * 2**22}]
        kept = await quern.begin()
        big = (await quern.client.post("/v1/conversations", json={"items": items})).json()["id"]
        file = quern.settings.data_dir / "quern.db"
        full = (await asyncio.to_thread(file.stat)).st_size
        streaming = asyncio.ensure_future(quern.chat("go on", kept))
        await until(lambda: quern.application.turns.active)
        assert (await quern.client.delete(f"/v1/conversations/{big}")).status_code == 200
        async with asyncio.timeout(20):
            while (await asyncio.to_thread(file.stat)).st_size > full - 2**22:
                await asyncio.sleep(0.02)
        assert (await streaming).text.endswith("x" * 400)
