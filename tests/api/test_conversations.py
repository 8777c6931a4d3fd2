"""Stored conversations: listed, read, deleted."""

import asyncio

import httpx2
import pytest

from quern.engine.fake import FakeEngine
from quern.store.conversations import ConversationStore

from .conftest import Quern, Start


async def test_conversations_are_listed_newest_activity_first_in_pages(quern: Quern) -> None:
    ids = [await quern.begin(f"number {n}") for n in range(5)]
    await quern.chat("again", ids[1])
    listed: list[str] = []
    after = None
    for expected_more in (True, True, False):
        query = {"limit": "2", **({"after": after} if after else {})}
        page = (await quern.client.get("/v1/conversations", params=query)).json()
        assert page["object"] == "list"
        assert page["has_more"] is expected_more
        listed += [item["id"] for item in page["data"]]
        after = page["last_id"]
    assert listed == [ids[1], ids[4], ids[3], ids[2], ids[0]]


async def test_a_conversation_has_its_messages_and_its_turns_with_states_usage_and_timings(start: Start) -> None:
    async with start(FakeEngine(reply=lambda _request: tuple(b"answer"), token_delay=0.001)) as quern:
        conversation_id = await quern.begin("你好")
        await quern.chat("second", conversation_id)
        body = (await quern.client.get(f"/v1/conversations/{conversation_id}")).json()
    assert body["id"] == conversation_id
    assert body["object"] == "conversation"
    assert [(message["role"], message["content"]) for message in body["messages"]] == [
        ("user", "你好"),
        ("assistant", "answer"),
        ("user", "second"),
        ("assistant", "answer"),
    ]
    first, second = body["turns"]
    assert [message["turn_id"] for message in body["messages"]] == [first["id"]] * 2 + [second["id"]] * 2
    for turn in (first, second):
        assert (turn["state"], turn["finish_reason"], turn["error"]) == ("completed", "stop", None)
        assert turn["usage"]["completion_tokens"] == len("answer")
        assert turn["timings"]["decode_ms"] > 0
        assert turn["timings"]["tokens_per_second"] > 0
        assert turn["created_at"] <= turn["started_at"] <= turn["finished_at"]
    assert first["usage"]["cached_tokens"] == 0
    assert second["usage"]["cached_tokens"] >= first["usage"]["prompt_tokens"]


async def test_messages_come_in_pages_with_the_turns_of_each_page(quern: Quern) -> None:
    conversation_id = await quern.begin("one")
    await quern.chat("two", conversation_id)
    url = f"/v1/conversations/{conversation_id}"
    first = (await quern.client.get(url, params={"limit": 2})).json()
    rest = (await quern.client.get(url, params={"limit": 2, "after": first["last_id"]})).json()
    assert (first["has_more"], rest["has_more"]) == (True, False)
    assert [message["content"] for message in first["messages"] + rest["messages"]][::2] == ["one", "two"]
    assert len(first["turns"]) == len(rest["turns"]) == 1


@pytest.mark.parametrize(
    ("parameter", "value", "beginning"),
    [
        ("limit", "0", "The parameter limit can't be used: "),
        ("limit", "101", "The parameter limit can't be used: "),
        ("limit", "x", "The parameter limit can't be used: "),
        ("after", "nothing", "There is no conversation 'nothing' to go on after: "),
    ],
)
async def test_a_page_that_cannot_be_is_a_400_that_names_the_parameter(
    quern: Quern, parameter: str, value: str, beginning: str
) -> None:
    response = await quern.client.get("/v1/conversations", params={parameter: value})
    assert response.status_code == 400
    error = response.json()["error"]
    assert error.pop("message").startswith(beginning)
    assert error == {"type": "invalid_request_error", "param": parameter, "code": None}


async def test_a_deleted_conversation_is_gone(quern: Quern) -> None:
    conversation_id = await quern.begin()
    response = await quern.client.delete(f"/v1/conversations/{conversation_id}")
    assert response.json() == {"id": conversation_id, "object": "conversation.deleted", "deleted": True}
    assert (await quern.client.get(f"/v1/conversations/{conversation_id}")).status_code == 404
    assert (await quern.client.delete(f"/v1/conversations/{conversation_id}")).status_code == 404
    assert (await quern.chat("hello", conversation_id)).status_code == 404


async def test_deleting_a_conversation_cancels_its_running_turn_first(start: Start) -> None:
    async with start(FakeEngine(token_delay=0.01, reply=lambda _request: tuple(b"x" * 3000))) as quern:
        running = asyncio.ensure_future(quern.chat("hello"))
        while not quern.engine.stats().running:
            await asyncio.sleep(0.005)
        conversation_id = (await quern.client.get("/v1/conversations")).json()["data"][0]["id"]
        response = await quern.client.delete(f"/v1/conversations/{conversation_id}")
        assert response.status_code == 200
        assert quern.engine.stats().running == 0
        await asyncio.gather(running, return_exceptions=True)
        assert (await quern.client.get("/v1/conversations")).json()["data"] == []


async def test_deleting_everything_needs_to_be_said(quern: Quern) -> None:
    await quern.begin()
    await quern.begin()
    refused = await quern.client.delete("/v1/conversations")
    assert refused.status_code == 400
    assert refused.json() == {
        "error": {
            "message": "This deletes all of your conversations and stored responses. Add ?all=true if you mean it, or "
            "name one in the path.",
            "type": "invalid_request_error",
            "param": "all",
            "code": None,
        }
    }
    assert len((await quern.client.get("/v1/conversations")).json()["data"]) == 2
    response = await quern.client.delete("/v1/conversations", params={"all": "true"})
    assert response.json() == {"object": "list.deleted", "deleted": 2, "responses": 0}
    assert (await quern.client.get("/v1/conversations")).json()["data"] == []


async def test_a_turn_whose_conversation_vanished_under_it_is_no_whole_answer(start: Start) -> None:
    engine = FakeEngine(token_delay=0.01, reply=lambda _request: tuple(b"x" * 40))
    async with start(engine, live=True) as quern:
        broken = False
        async with quern.client.stream("POST", "/v1/code/chat_stream", data={"prompt": "hello"}) as response:
            chunks = response.aiter_text()
            conversation_id = (await anext(chunks)).partition("\n")[0].removeprefix("conversation_id:")
            await ConversationStore(quern.application.database).delete(conversation_id, "anonymous")
            try:
                async for _ in chunks:
                    pass
            except httpx2.RemoteProtocolError:
                broken = True
        assert broken
        assert quern.application.turns.active == 0
