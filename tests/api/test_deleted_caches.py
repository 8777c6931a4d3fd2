"""What is deleted for good is not in the engine's cache any more, nor in the memory of the last turns."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Any

import pytest

from .conftest import Quern, Start
from .test_keys import bearer, make

SECRET = "the launch code is 8 4 2 7, and whoever is asked for it says nothing about it"
OTHER = "a list of numbers is to be sorted without any help, and in the order of their names"


async def cached(quern: Quern, text: str, **headers: str) -> int:
    """How many tokens of a text, said again outside of any conversation, the engine has kept."""
    body = {"messages": [{"role": "user", "content": text}], "max_tokens": 1}
    answer = await quern.client.post("/v1/chat/completions", json=body, headers=headers)
    assert answer.status_code == 200, answer.text
    return answer.json()["usage"]["prompt_tokens_details"]["cached_tokens"]


async def one(quern: Quern, conversation: str) -> None:
    assert (await quern.client.delete(f"/v1/conversations/{conversation}")).status_code in {200, 204}


async def every(quern: Quern, _conversation: str) -> None:
    assert (await quern.client.delete("/v1/conversations", params={"all": "true"})).status_code == 200


async def its_message(quern: Quern, conversation: str) -> None:
    said = (await quern.client.get(f"/v1/conversations/{conversation}/items", params={"order": "asc"})).json()["data"]
    assert (await quern.client.delete(f"/v1/conversations/{conversation}/items/{said[0]['id']}")).status_code == 200


async def by_age(quern: Quern, _conversation: str) -> None:
    assert await quern.application.conversations.sweep(datetime.now(UTC).replace(year=2100)) == 1


DELETED: list[Callable[[Quern, str], Awaitable[None]]] = [one, every, its_message, by_age]


@pytest.mark.parametrize("delete", DELETED)
async def test_of_a_deleted_conversation_nothing_is_cached(
    start: Start, delete: Callable[[Quern, str], Awaitable[None]]
) -> None:
    async with start(conversations={"keep_days": 1}) as quern:
        conversation = await quern.begin(SECRET)
        await cached(quern, OTHER)
        await delete(quern, conversation)
        assert await cached(quern, SECRET) == 0
        assert await cached(quern, OTHER) > len(OTHER), "what was not deleted is"
        assert SECRET not in str([*quern.application.turns.observer.recent][2:])


async def test_without_deleting_it_would_be(start: Start) -> None:
    async with start() as quern:
        await quern.begin(SECRET)
        assert await cached(quern, SECRET) > len(SECRET)


@pytest.mark.parametrize("cancelled", [False, True])
async def test_of_a_deleted_response_nothing_is_cached(start: Start, cancelled: bool) -> None:
    async with start() as quern:
        kept = (await quern.client.post("/v1/responses", json={"input": OTHER})).json()
        body: dict[str, Any] = {"input": SECRET, "background": cancelled}
        secret = (await quern.client.post("/v1/responses", json=body)).json()
        assert (await quern.client.delete(f"/v1/responses/{secret['id']}")).status_code == 200
        assert await cached(quern, SECRET) == 0
        assert kept["status"] == "completed"
        assert await cached(quern, OTHER) > len(OTHER)


async def test_a_response_that_another_one_continues_goes_with_the_last_of_them(start: Start) -> None:
    async with start() as quern:
        first = (await quern.client.post("/v1/responses", json={"input": SECRET})).json()["id"]
        body = {"input": "and?", "previous_response_id": first}
        second = (await quern.client.post("/v1/responses", json=body)).json()["id"]
        for response in (first, second):
            assert (await quern.client.delete(f"/v1/responses/{response}")).status_code == 200
        assert await cached(quern, SECRET) == 0


async def test_another_owners_cache_is_not_touched(start: Start) -> None:
    async with start() as quern:
        ann, bob = bearer(await make(quern, "ann")), bearer(await make(quern, "bob"))
        await cached(quern, SECRET, **bob)
        said = await quern.client.post("/v1/code/chat_stream", data={"prompt": SECRET}, headers=ann)
        conversation = said.text.partition("\n---\n")[0].removeprefix("conversation_id:")
        assert (await quern.client.delete(f"/v1/conversations/{conversation}", headers=bob)).status_code == 404
        assert await cached(quern, SECRET, **ann) > len(SECRET)
        await quern.client.delete("/v1/conversations", params={"all": "true"}, headers=ann)
        assert await cached(quern, SECRET, **bob) > len(SECRET)


async def test_what_a_title_was_made_of_is_not_cached_either(start: Start) -> None:
    async with start(conversations={"titles": "model"}) as quern:
        conversation = await quern.begin(SECRET)
        await quern.application.titles.idle()
        (asked,) = [one for one in quern.engine.requests if one.cache_tag != conversation]
        await one(quern, conversation)
        text = quern.codec.tokenizer.decode(asked.prompt)
        question = text.partition("user\n")[2].partition("<|im_end|>")[0]
        assert SECRET in question
        assert await cached(quern, question) == 0
