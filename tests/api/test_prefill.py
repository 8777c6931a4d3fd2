"""A request that ends with a message of the assistant's: the answer goes on after it."""

from __future__ import annotations

from typing import Any

from .conftest import Start
from .engines import saying

MESSAGES: list[Any] = [{"role": "user", "content": "Count."}, {"role": "assistant", "content": "one, "}]


async def test_the_answer_has_only_what_is_new_and_a_conversation_keeps_both_as_one_message(start: Start) -> None:
    async with start(saying("two")) as quern:
        conversation = (await quern.client.post("/v1/conversations", json={})).json()["id"]
        response = await quern.client.post(
            "/v1/chat/completions", json={"messages": MESSAGES}, headers={"x-quern-conversation": conversation}
        )
        assert response.json()["choices"][0]["message"]["content"] == "two"
        assert bytes(quern.engine.requests[0].prompt[-5:]) == b"one, "
        kept = (await quern.client.get(f"/v1/conversations/{conversation}")).json()["messages"]
    assert [(message["role"], message["content"]) for message in kept] == [
        ("user", "Count."),
        ("assistant", "one, two"),
    ]
