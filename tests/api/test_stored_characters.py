"""Characters that no database can hold: refused in what would be kept, replaced in what the model writes."""

from __future__ import annotations

from .conftest import Quern, Start
from .engines import saying

NUL = "a\x00b"


async def test_a_chat_within_a_conversation_is_refused_by_its_own_field(quern: Quern) -> None:
    body = {"messages": [{"role": "user", "content": NUL}]}
    conversation = {"x-quern-conversation": await quern.begin()}
    response = await quern.client.post("/v1/chat/completions", json=body, headers=conversation)
    error = response.json()["error"]
    assert (response.status_code, error["param"]) == (400, "messages"), error
    assert "NUL character" in error["message"]


async def test_a_message_within_a_conversation_is_refused_without_naming_a_prompt(quern: Quern) -> None:
    body = {"model": "fake", "max_tokens": 5, "messages": [{"role": "user", "content": NUL}]}
    conversation = {"x-quern-conversation": await quern.begin()}
    response = await quern.client.post("/v1/messages", json=body, headers=conversation)
    assert (response.status_code, response.json()["error"]["type"]) == (400, "invalid_request_error")
    assert "prompt" not in response.json()["error"]["message"]


async def test_the_plain_endpoint_names_its_prompt(quern: Quern) -> None:
    response = await quern.chat(NUL)
    assert response.status_code == 422
    assert response.json()["detail"][0]["loc"] == ["body", "prompt"]


async def test_a_response_is_the_same_while_it_is_written_and_when_it_is_fetched(start: Start) -> None:
    async with start(saying("a\x00b")) as quern:
        created = (await quern.client.post("/v1/responses", json={"input": "hi"})).json()
        fetched = (await quern.client.get(f"/v1/responses/{created['id']}")).json()
    assert created["output"] == fetched["output"]
    assert created["output"][0]["content"][0]["text"] == "a\ufffdb"
