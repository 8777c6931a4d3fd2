"""Conversations as OpenAI's clients know them, over the same store as the original endpoints."""

from __future__ import annotations

import asyncio
import uuid
from typing import Any

import openai
import pytest

from .conftest import Quern, Start
from .engines import saying
from .openai_clients import error_of, official, output_text, prompt_text, respond, responded, writing

UNKNOWN = "5a1f6ed0-1c0e-4a52-9a8b-6f2d1f0c7e11"
UNKNOWN_ITEM = f"msg_{uuid.UUID(UNKNOWN).hex}"


def say(text: str, role: str = "user") -> dict[str, Any]:
    return {"role": role, "content": text}


async def _begun(quern: Quern, *said: str) -> str:
    body = {"items": [say(text) for text in said]}
    answer = await quern.client.post("/v1/conversations", json=body)
    assert answer.status_code == 200, answer.text
    return answer.json()["id"]


async def _items(quern: Quern, conversation_id: str, **query: str) -> dict[str, Any]:
    answer = await quern.client.get(f"/v1/conversations/{conversation_id}/items", params=query)
    assert answer.status_code == 200, answer.text
    return answer.json()


def _texts(page: dict[str, Any]) -> list[str]:
    return [item["content"][0]["text"] for item in page["data"]]


async def test_the_official_client_begins_reads_changes_and_deletes_conversations(start: Start) -> None:
    async with start(saying("answer"), live=True) as quern, official(quern) as client:
        items: Any = [say("hello"), {"type": "function_call_output", "call_id": "c", "output": "rain"}]
        begun = await client.conversations.create(metadata={"a": "b"}, items=items)
        assert begun.metadata == {"a": "b"}
        assert str(uuid.UUID(begun.id)) == begun.id
        assert (await client.conversations.retrieve(begun.id)).created_at == begun.created_at
        changed = await client.conversations.update(begun.id, metadata={"c": "d"})
        assert changed.metadata == {"c": "d"}
        response = await client.responses.create(model="fake", conversation=begun.id)
        assert response.conversation is not None
        assert response.conversation.id == begun.id
        listed = [item async for item in client.conversations.items.list(begun.id, limit=1)]
        assert [item.type for item in listed] == ["message", "function_call_output", "message"]
        added = await client.conversations.items.create(begun.id, items=[{"role": "user", "content": "more"}])
        (item,) = added.data
        assert added.first_id == added.last_id == item.id
        assert await client.conversations.items.retrieve(str(item.id), conversation_id=begun.id) == item
        after = await client.conversations.items.delete(str(item.id), conversation_id=begun.id)
        assert after.id == begun.id
        deleted = await client.conversations.delete(begun.id)
        assert (deleted.id, deleted.deleted) == (begun.id, True)
        with pytest.raises(openai.NotFoundError):
            await client.conversations.retrieve(begun.id)


async def test_an_empty_conversation_needs_no_body(quern: Quern) -> None:
    body = (await quern.client.post("/v1/conversations")).json()
    ours = {"title", "pinned", "archived"}
    assert body.keys() == {"id", "object", "created_at", "updated_at", "metadata", *ours}
    assert (body["object"], body["metadata"]) == ("conversation", {})
    page = await _items(quern, body["id"])
    assert page == {"object": "list", "data": [], "first_id": None, "last_id": None, "has_more": False}


async def test_items_have_the_documented_shapes(start: Start) -> None:
    said = [
        say("rules", "developer"),
        say("question"),
        say("answer", "assistant"),
        {"type": "function_call", "call_id": "c1", "name": "f", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "c1", "output": "result"},
    ]
    async with start(saying("x")) as quern:
        conversation_id = (await quern.client.post("/v1/conversations", json={"items": said})).json()["id"]
        data = (await _items(quern, conversation_id, order="asc"))["data"]
    ids = [item.pop("id") for item in data]
    assert [identity.partition("_")[0] for identity in ids] == ["msg", "msg", "msg", "fc", "fco"]
    message = {"type": "message", "status": "completed"}
    output: dict[str, Any] = {"type": "output_text", "text": "answer", "annotations": [], "logprobs": []}
    assert data == [
        {**message, "role": "system", "content": [{"type": "input_text", "text": "rules"}]},
        {**message, "role": "user", "content": [{"type": "input_text", "text": "question"}]},
        {**message, "role": "assistant", "content": [output]},
        {"type": "function_call", "status": "completed", "call_id": "c1", "name": "f", "arguments": "{}"},
        {"type": "function_call_output", "status": "completed", "call_id": "c1", "output": "result"},
    ]


async def test_a_conversation_of_the_original_endpoint_goes_on_in_a_response_and_back(start: Start) -> None:
    async with start(saying("answer")) as quern:
        conversation_id = await quern.begin("first")
        response = await responded(quern, input="second", conversation=conversation_id, instructions="Only now.")
        assert response["conversation"] == {"id": conversation_id}
        text = prompt_text(quern)
        assert text.index("Only now.") < text.index("first") < text.index("answer") < text.index("second")
        await quern.chat("third", conversation_id)
        text = prompt_text(quern)
        assert text.index("first") < text.index("second") < text.index("third")
        assert "Only now." not in text
        assert _texts(await _items(quern, conversation_id, order="asc")) == [
            *["first", "answer", "second", "answer", "third", "answer"]
        ]
        body = (await quern.client.get(f"/v1/conversations/{conversation_id}")).json()
        assert [message["role"] for message in body["messages"]] == ["user", "assistant"] * 3
        assert len(body["turns"]) == 3


async def test_a_conversation_of_responses_goes_on_in_the_original_endpoint_after_a_restart(start: Start) -> None:
    async with start(saying("answer")) as quern:
        conversation_id = await _begun(quern, "before")
        response = await responded(quern, input="first", conversation={"id": conversation_id})
    async with start(saying("again")) as quern:
        assert (await quern.chat("second", conversation_id)).text == "again"
        text = prompt_text(quern)
        assert text.index("before") < text.index("first") < text.index("answer") < text.index("second")
        assert output_text((await quern.client.get(f"/v1/responses/{response['id']}")).json()) == "answer"


async def test_a_response_of_a_conversation_can_be_continued_outside_of_it(start: Start) -> None:
    async with start(saying("answer")) as quern:
        conversation_id = await quern.begin("first")
        fork = await responded(quern, input="second", conversation=conversation_id)
        await quern.chat("third", conversation_id)
        aside = await responded(quern, input="aside", previous_response_id=fork["id"])
        assert aside["conversation"] is None
        text = prompt_text(quern)
        assert text.index("first") < text.index("second") < text.index("aside")
        assert "third" not in text
        assert "aside" not in _texts(await _items(quern, conversation_id))


async def test_a_response_that_is_not_stored_still_belongs_to_its_conversation(start: Start) -> None:
    async with start(saying("answer")) as quern:
        conversation_id = await _begun(quern)
        response = await responded(quern, input="said", conversation=conversation_id, store=False)
        assert _texts(await _items(quern, conversation_id)) == ["answer", "said"]
        error_of(await quern.client.get(f"/v1/responses/{response['id']}"), 404)


async def test_what_a_deleted_response_said_stays_in_its_conversation(start: Start) -> None:
    async with start(saying("answer")) as quern:
        conversation_id = await _begun(quern)
        response = await responded(quern, input="said", conversation=conversation_id)
        await quern.client.delete(f"/v1/responses/{response['id']}")
        assert _texts(await _items(quern, conversation_id)) == ["answer", "said"]
        await responded(quern, input="next", conversation=conversation_id)
        assert "said" in prompt_text(quern)


async def test_the_model_sees_items_that_were_put_in_and_none_that_were_taken_out(start: Start) -> None:
    async with start(saying("answer")) as quern:
        conversation_id = await _begun(quern, "keep", "drop")
        drop, _ = (await _items(quern, conversation_id))["data"]
        path = f"/v1/conversations/{conversation_id}/items"
        answer = await quern.client.delete(f"{path}/{drop['id']}")
        assert answer.json()["id"] == conversation_id
        await quern.client.post(path, json={"items": [say("added")]})
        await responded(quern, input=None, conversation=conversation_id)
        text = prompt_text(quern)
        assert text.index("keep") < text.index("added")
        assert "drop" not in text
        error_of(await quern.client.get(f"{path}/{drop['id']}"), 404)
        error_of(await quern.client.delete(f"{path}/{drop['id']}"), 404)


async def test_items_of_responses_keep_their_ids(start: Start) -> None:
    async with start(saying("answer")) as quern:
        conversation_id = await _begun(quern)
        response = await responded(quern, input="said", conversation=conversation_id)
        answer, said = (await _items(quern, conversation_id))["data"]
        assert [answer] == response["output"]
        listed = (await quern.client.get(f"/v1/responses/{response['id']}/input_items")).json()
        assert listed["data"] == [said]
        path = f"/v1/conversations/{conversation_id}/items/{answer['id']}"
        assert (await quern.client.get(path)).json() == answer


async def test_an_item_is_referred_to_across_conversations(start: Start) -> None:
    async with start(saying("answer")) as quern:
        first = await _begun(quern, "original")
        (item,) = (await _items(quern, first))["data"]
        reference = {"type": "item_reference", "id": item["id"]}
        answer = await quern.client.post("/v1/conversations", json={"items": [reference]})
        (copy,) = (await _items(quern, answer.json()["id"]))["data"]
        assert copy["content"] == item["content"]
        assert copy["id"] != item["id"]


async def test_items_come_in_pages(quern: Quern) -> None:
    conversation_id = await _begun(quern, *"abcde")
    first = await _items(quern, conversation_id, limit="2")
    rest = await _items(quern, conversation_id, after=first["last_id"])
    assert (_texts(first), first["has_more"]) == (["e", "d"], True)
    assert (_texts(rest), rest["has_more"]) == (["c", "b", "a"], False)
    upward = await _items(quern, conversation_id, order="asc", limit="3")
    assert _texts(upward) == ["a", "b", "c"]
    assert _texts(await _items(quern, conversation_id, order="asc", after=upward["last_id"])) == ["d", "e"]


async def test_nothing_changes_under_a_running_turn(start: Start) -> None:
    async with start(saying("x" * 3000, token_delay=0.01)) as quern:
        conversation_id = await _begun(quern, "before")
        (item,) = (await _items(quern, conversation_id))["data"]
        running = asyncio.ensure_future(respond(quern, conversation=conversation_id))
        await writing(quern)
        path = f"/v1/conversations/{conversation_id}/items"
        for refused in (
            await quern.client.post(path, json={"items": [say("more")]}),
            await quern.client.delete(f"{path}/{item['id']}"),
            await respond(quern, conversation=conversation_id),
        ):
            error_of(refused, 409)
            assert refused.json()["error"]["code"] == "conversation_busy"
        await quern.client.delete(f"/v1/conversations/{conversation_id}")
        assert (await running).json()["status"] == "cancelled"


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("GET", "", None),
        ("POST", "", {"metadata": {}}),
        ("DELETE", "", None),
        ("GET", "/items", None),
        ("POST", "/items", {"items": [say("x")]}),
        ("GET", f"/items/{UNKNOWN_ITEM}", None),
        ("DELETE", f"/items/{UNKNOWN_ITEM}", None),
    ],
)
async def test_an_unknown_conversation_is_a_404(quern: Quern, method: str, path: str, body: Any) -> None:
    answer = await quern.client.request(method, f"/v1/conversations/{UNKNOWN}{path}", json=body)
    assert error_of(answer, 404)[0] is None


@pytest.mark.parametrize("item_id", ["msg_1", UNKNOWN_ITEM, UNKNOWN])
async def test_an_unknown_item_is_a_404_and_no_cursor(quern: Quern, item_id: str) -> None:
    conversation_id = await _begun(quern, "x")
    path = f"/v1/conversations/{conversation_id}/items"
    for method in ("GET", "DELETE"):
        assert "There is no such item" in error_of(await quern.client.request(method, f"{path}/{item_id}"), 404)[1]
    param, message = error_of(await quern.client.get(path, params={"after": item_id}), 400)
    assert param == "after"
    assert item_id in message


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"items": [say(str(number)) for number in range(21)]}, "items"),
        ({"items": [{"role": "user", "content": [{"type": "input_image"}]}]}, "items.0.content.0"),
        ({"items": [say("\x00")]}, "items"),
        ({"metadata": {"k" * 65: "v"}}, f"metadata.{'k' * 65}.[key]"),
        ({"metadata": {"k": 1}}, "metadata.k"),
        ({"metadata": {str(number): "v" for number in range(17)}}, "metadata"),
    ],
)
async def test_what_a_conversation_cannot_begin_with_is_refused_by_name(
    quern: Quern, body: dict[str, Any], param: str
) -> None:
    assert error_of(await quern.client.post("/v1/conversations", json=body), 400)[0] == param
    assert (await quern.client.get("/v1/conversations")).json()["data"] == []


async def test_changes_say_what_they_change(quern: Quern) -> None:
    conversation_id = await _begun(quern)
    path = f"/v1/conversations/{conversation_id}"
    assert error_of(await quern.client.post(path, json={}), 400)[0] == "metadata"
    assert error_of(await quern.client.post(f"{path}/items", json={"items": []}), 400)[0] == "items"
    assert (await quern.client.get(f"{path}/items", params={"include": "x"})).json()["data"] == []
    assert error_of(await quern.client.get(f"{path}/items", params={"order": "up"}), 400)[0] == "order"
    noted = await quern.client.post(path, json={"metadata": None})
    assert noted.json()["metadata"] == {}


async def test_notes_are_listed_and_read_with_the_conversation(quern: Quern) -> None:
    conversation_id = await _begun(quern, "x")
    await quern.client.post(f"/v1/conversations/{conversation_id}", json={"metadata": {"a": "b"}})
    (listed,) = (await quern.client.get("/v1/conversations")).json()["data"]
    read = (await quern.client.get(f"/v1/conversations/{conversation_id}")).json()
    assert listed["metadata"] == read["metadata"] == {"a": "b"}
    assert read["messages"][0]["turn_id"] is None
