"""`POST /v1/code/chat_stream`: raw text, and a memory."""

import re
import uuid

from quern.engine.fake import FakeEngine

from .conftest import Start

HEADER = re.compile(r"conversation_id:([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})\n---\n")


def _answers(*texts: str) -> FakeEngine:
    remaining = iter(texts)
    return FakeEngine(reply=lambda _request: tuple(next(remaining).encode()))


async def test_the_first_turn_begins_with_the_header_and_is_followed_directly_by_the_text(start: Start) -> None:
    async with start(_answers("你好，世界")) as quern:
        response = await quern.chat("hello")
    assert response.status_code == 200
    assert response.headers["content-type"] == "text/event-stream; charset=utf-8"
    header = HEADER.match(response.text)
    assert header is not None
    assert uuid.UUID(header[1]).version == 4
    assert response.text[header.end() :] == "你好，世界"


async def test_the_header_leaves_in_one_write_of_its_own_and_no_write_splits_a_character(start: Start) -> None:
    text = "冒泡排序 🦄 — fin"
    async with (
        start(FakeEngine(reply=lambda _request: tuple(text.encode()), token_delay=0.001), live=True) as quern,
        quern.client.stream("POST", "/v1/code/chat_stream", data={"prompt": "hello"}) as response,
    ):
        chunks = [chunk async for chunk in response.aiter_raw()]
    assert HEADER.fullmatch(chunks[0].decode())
    assert "".join(chunk.decode() for chunk in chunks[1:]) == text
    assert len(chunks) > 5, "the text came as it was generated"


async def test_later_turns_carry_the_text_alone_and_see_the_whole_history(start: Start) -> None:
    engine = _answers("first answer", "second answer", "third answer")
    async with start(engine) as quern:
        conversation_id = await quern.begin("first prompt")
        second = await quern.chat("second prompt", conversation_id)
        third = await quern.chat("third prompt", conversation_id)
        decode = quern.codec.tokenizer.decode
    assert second.text == "second answer"
    assert third.text == "third answer"
    seen = decode(engine.requests[2].prompt)
    order = [
        seen.index(text) for text in ("first prompt", "first answer", "second prompt", "second answer", "third prompt")
    ]
    assert order == sorted(order)


async def test_conversations_do_not_mix(start: Start) -> None:
    engine = FakeEngine(reply=lambda _request: tuple(b"ok"))
    async with start(engine) as quern:
        one = await quern.begin("apples")
        other = await quern.begin("oranges")
        await quern.chat("more", one)
        await quern.chat("more", other)
        decode = quern.codec.tokenizer.decode
    assert "oranges" not in decode(engine.requests[2].prompt)
    assert "apples" not in decode(engine.requests[3].prompt)


async def test_a_conversation_goes_on_after_a_restart(start: Start) -> None:
    async with start(_answers("before the restart")) as quern:
        conversation_id = await quern.begin("hello")
    engine = _answers("after the restart")
    async with start(engine) as quern:
        response = await quern.chat("go on", conversation_id)
        seen = quern.codec.tokenizer.decode(engine.requests[0].prompt)
    assert response.text == "after the restart"
    assert "before the restart" in seen


async def test_an_answer_that_only_holds_special_tokens_is_an_empty_text(start: Start) -> None:
    async with start(_answers("")) as quern:
        response = await quern.chat("hello")
    assert HEADER.fullmatch(response.text)
