"""What a key may have stored: bounded in every dialect that stores, before a turn begins; free again once deleted."""

from __future__ import annotations

import json
from typing import Any

import pytest

from .conftest import Quern, Start
from .engines import saying
from .test_keys import bearer, control, make

KIB = 1024
BIG = "x" * 700 * KIB
SAID = [{"role": "user", "content": BIG}]


async def keep(quern: Quern, headers: dict[str, str], text: str = BIG) -> str:
    """A conversation with so much text, that no model has seen."""
    items = [{"type": "message", "role": "user", "content": text}]
    body = {"items": items, "title": "t"}
    answer = await quern.client.post("/v1/conversations", json=body, headers=headers)
    assert answer.status_code == 200, answer.text
    return answer.json()["id"]


async def keep_all_that_is_left(quern: Quern, headers: dict[str, str]) -> None:
    """As much as makes a MiB, with the title and the metadata."""
    (row,) = await stored(quern, headers)
    await keep(quern, headers, "y" * (2**20 - row["bytes"] - len("t{}")))
    assert (await stored(quern, headers))[0]["bytes"] == 2**20


async def stored(quern: Quern, headers: dict[str, str]) -> list[dict[str, Any]]:
    return (await quern.client.get("/v1/usage", headers=headers)).json()["storage"]


STORING: list[tuple[str, dict[str, Any]]] = [
    ("/v1/responses", {"input": "hi"}),
    ("/v1/responses", {"input": "hi", "stream": True}),
    ("/v1/responses", {"input": "hi", "background": True}),
    ("/v1/responses", {"input": "hi", "conversation": "CONVERSATION", "store": False}),
    ("/v1/conversations", {"items": [{"type": "message", "role": "user", "content": "hi"}]}),
    ("/v1/conversations/CONVERSATION/items", {"items": [{"type": "message", "role": "user", "content": "hi"}]}),
    ("/v1/conversations/CONVERSATION/regenerate", {}),
]
CONTINUING: list[tuple[str, dict[str, Any]]] = [
    ("/v1/chat/completions", {"messages": [{"role": "user", "content": "hi"}]}),
    ("/v1/messages", {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 9}),
]


@pytest.mark.parametrize(("path", "body"), [*STORING, *CONTINUING])
async def test_who_has_stored_too_much_begins_nothing_that_is_stored(
    start: Start, path: str, body: dict[str, Any]
) -> None:
    async with start(saying("answer")) as quern:
        anna = bearer(await make(quern, "anna", limits={"storage_mib": 1}))
        await keep(quern, anna)
        small = await keep(quern, anna, "a question")
        await keep_all_that_is_left(quern, anna)
        renamed = await quern.client.post(f"/v1/conversations/{small}", json={"title": "longer"}, headers=anna)
        assert renamed.status_code == 200, "what is there can be put in order"
        before = await stored(quern, anna)
        headers = {**anna, "x-quern-conversation": small} if (path, body) in CONTINUING else anna
        content = json.loads(json.dumps(body).replace("CONVERSATION", small))
        refused = await quern.client.post(path.replace("CONVERSATION", small), json=content, headers=headers)
        assert refused.status_code == 403, refused.text
        error = refused.json()["error"]
        assert "limit storage_mib" in error["message"]
        assert error.get("code", "storage_exceeded") == "storage_exceeded"
        assert error["type"] == ("permission_error" if path == "/v1/messages" else "invalid_request_error")
        assert not quern.engine.requests
        assert await stored(quern, anna) == before
        deleted = await quern.client.delete("/v1/conversations?all=true", headers=anna)
        assert deleted.json() == {"object": "list.deleted", "deleted": 3, "responses": 0}
        assert await stored(quern, anna) == [{**before[0], "bytes": 0}]
        assert (await quern.client.post("/v1/responses", json={"input": "hi"}, headers=anna)).status_code == 200


async def test_the_plain_chat_is_refused_with_a_sentence_too(start: Start) -> None:
    async with start(limits={"storage_mib": 1}) as quern:
        begun = await quern.begin("hello")
        await keep(quern, {})
        await keep_all_that_is_left(quern, {})
        for refused in (await quern.chat("hi"), await quern.chat("hi", begun)):
            assert refused.status_code == 403
            assert "limit storage_mib" in refused.json()["detail"]
        assert (await quern.client.post("/v1/code/generate", data={"prompt": "hi"})).status_code == 200


async def test_what_is_brought_from_elsewhere_counts_as_a_whole(start: Start) -> None:
    async with start() as quern:
        anna = bearer(await make(quern, "anna", limits={"storage_mib": 1}))
        await keep(quern, anna)
        exported = (await quern.client.get("/v1/conversations/export", headers=anna)).content
        headers = {**anna, "content-type": "application/jsonl"}
        refused = await quern.client.post("/v1/conversations/import", content=exported, headers=headers)
        assert (refused.status_code, refused.json()["error"]["code"]) == (403, "storage_exceeded")
        assert len((await quern.client.get("/v1/conversations", headers=anna)).json()["data"]) == 1


async def test_keys_have_limits_of_their_own_and_an_administrator_sees_all(start: Start) -> None:
    async with start(limits={"storage_mib": 1}) as quern:
        anna, ben = bearer(await make(quern, "anna")), bearer(await make(quern, "ben", limits={"storage_mib": 0}))
        chief = bearer(await make(quern, "chief", role="admin"))
        for _ in range(2):
            await keep(quern, ben)
        assert (await stored(quern, anna))[0]["limit_bytes"] == 2**20
        (bens,) = await stored(quern, ben)
        assert (bens["key"], bens["limit_bytes"]) == ("ben", None)
        assert bens["bytes"] >= 1400 * KIB
        await keep(quern, anna, "a")
        assert {row["key"]: row["limit_bytes"] for row in await stored(quern, chief)} == {"anna": 2**20, "ben": None}
        async with control(quern) as local:
            changed = await local.post("/v1/admin/keys/ben", json={"limits": {"storage_mib": 1}})
            assert changed.json()["limits"] == {"storage_mib": 1}
        refused = await quern.client.post("/v1/responses", json={"input": "hi"}, headers=ben)
        assert refused.status_code == 403


async def test_what_is_not_stored_is_not_refused(start: Start) -> None:
    async with start(saying("answer")) as quern:
        anna = bearer(await make(quern, "anna", limits={"storage_mib": 1}))
        await keep(quern, anna)
        await keep_all_that_is_left(quern, anna)
        for path, body in [*CONTINUING, ("/v1/responses", {"input": "hi", "store": False})]:
            answer = await quern.client.post(path, json=body, headers=anna)
            assert answer.status_code == 200, answer.text
