"""Conversations named, pinned, archived, listed, and forgotten when they are old."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from quern.engine.fake import FakeEngine

from .conftest import Quern, Start
from .engines import saying
from .test_branches import get, post

LONG = "用 Python 写一个最基础版的冒泡排序算法，并且解释它的时间复杂度和空间复杂度到底是多少，谢谢你"


async def listed(quern: Quern, query: str = "") -> list[Any]:
    data: list[Any] = (await get(quern, f"/v1/conversations{query}"))["data"]
    return data


@pytest.mark.parametrize(
    ("prompt", "title"),
    [
        ("Write a bubble sort.", "Write a bubble sort."),
        ("\n\n  # Fix   the\tparser\nwith more", "Fix the parser"),
        ("用 Python 写冒泡排序", "用 Python 写冒泡排序"),
        (LONG, "用 Python 写一个最基础版的冒泡排序算法，并且解释它的时间复…"),
        ("```python\nprint(1)\n```\nWhat is this?", "print(1)"),
        ("<task>\nRename it\n</task>", "Rename it"),
        ("word " * 40, "word word word word word word word word word word word word…"),
        ("x" * 100, "x" * 59 + "…"),
        ("- one\n- two", "one"),
        ("---", "---"),
        ("a\u202eb\u0007c", "a b c"),
        ("🦀" * 50, "🦀" * 29 + "…"),
    ],
)
async def test_a_conversation_is_named_after_what_was_said_first(quern: Quern, prompt: str, title: str) -> None:
    conversation = await quern.begin(prompt)
    await quern.chat("something else", conversation)
    assert [one["title"] for one in await listed(quern)] == [title]
    items = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": prompt}]
    assert (await post(quern, "/v1/conversations", {"items": items}))["title"] == title


async def test_every_dialect_names_a_conversation_that_has_no_name(quern: Quern) -> None:
    for path, body in (
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": "said here"}]}),
        ("/v1/messages", {"messages": [{"role": "user", "content": "said here"}], "max_tokens": 9}),
    ):
        conversation = (await post(quern, "/v1/conversations"))["id"]
        await quern.client.post(path, json=body, headers={"x-quern-conversation": conversation})
        assert (await get(quern, f"/v1/conversations/{conversation}"))["title"] == "said here"
    conversation = (await post(quern, "/v1/conversations"))["id"]
    await post(quern, "/v1/responses", {"input": "said here", "conversation": conversation})
    assert (await get(quern, f"/v1/conversations/{conversation}"))["title"] == "said here"


async def test_without_titles_there_are_none_but_ones_own(start: Start) -> None:
    async with start(conversations={"titles": "off"}) as quern:
        conversation = await quern.begin("hello")
        assert (await listed(quern))[0]["title"] is None
        await post(quern, f"/v1/conversations/{conversation}", {"title": "Mine"})
        await quern.chat("more", conversation)
        assert (await listed(quern))[0]["title"] == "Mine"


@pytest.mark.parametrize("method", ["POST", "PATCH"])
async def test_what_is_sent_changes_and_the_rest_stays(quern: Quern, method: str) -> None:
    conversation = (await post(quern, "/v1/conversations", {"metadata": {"a": "b"}, "title": " A  \n title "}))["id"]

    async def change(body: Any) -> Any:
        answer = await quern.client.request(method, f"/v1/conversations/{conversation}", json=body)
        assert answer.status_code == 200, answer.text
        seen = await get(quern, f"/v1/conversations/{conversation}")
        assert {**seen, **answer.json()} == seen
        return [seen[name] for name in ("metadata", "title", "pinned", "archived")]

    assert await change({"pinned": True}) == [{"a": "b"}, "A title", True, False]
    assert await change({"archived": True, "title": "标题"}) == [{"a": "b"}, "标题", True, True]
    assert await change({"metadata": {"c": "d"}}) == [{"c": "d"}, "标题", True, True]
    assert await change({"metadata": None, "pinned": False}) == [{}, "标题", False, True]
    assert await change({"title": None}) == [{}, None, False, True]
    await quern.chat("named anew", conversation)
    assert await change({"archived": False}) == [{}, "named anew", False, False]


@pytest.mark.parametrize("method", ["POST", "PATCH"])
@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({}, "metadata"),
        ({"colour": "red"}, "metadata"),
        ({"title": ""}, "title"),
        ({"title": " \n "}, "title"),
        ({"title": "x" * 201}, "title"),
        ({"title": 3}, "title"),
        ({"pinned": "yes"}, "pinned"),
        ({"archived": 1}, "archived"),
    ],
)
async def test_what_can_not_be_changed_is_refused(quern: Quern, method: str, body: Any, param: str) -> None:
    conversation = await quern.begin("hello")
    answer = await quern.client.request(method, f"/v1/conversations/{conversation}", json=body)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, param)
    assert (await listed(quern))[0]["title"] == "hello"


async def test_pinned_ones_come_first_and_archived_ones_when_they_are_asked_for(quern: Quern) -> None:
    ids = [await quern.begin(str(number)) for number in range(6)]
    for number in (1, 3):
        await post(quern, f"/v1/conversations/{ids[number]}", {"pinned": True})
    for number in (3, 4):
        await post(quern, f"/v1/conversations/{ids[number]}", {"archived": True})

    async def titles(query: str = "") -> str:
        return "".join(one["title"] for one in await listed(quern, query))

    assert await titles() == "1520"
    assert await titles("?archived=true") == "34"
    assert await titles("?archived=any") == "315420"
    assert await titles("?pinned=true") == "1"
    assert await titles("?pinned=false&archived=any") == "5420"
    assert (await quern.client.get("/v1/conversations?archived=perhaps")).status_code == 400
    pages, after = "", ""
    while True:
        page = await get(quern, f"/v1/conversations?archived=any&limit=2{after}")
        pages += "".join(one["title"] for one in page["data"])
        if not page["has_more"]:
            break
        after = f"&after={page['last_id']}"
    assert pages == "315420"
    await quern.chat("on", ids[4])
    assert await titles("?archived=true") == "34", "an archived conversation that goes on stays archived"


async def test_old_conversations_are_forgotten_but_pinned_ones_and_those_that_run(start: Start) -> None:
    engine = FakeEngine()
    async with start(engine, conversations={"keep_days": 7}) as quern:
        old, pinned, archived, busy = [await quern.begin(str(number)) for number in range(4)]
        await post(quern, f"/v1/conversations/{pinned}", {"pinned": True})
        await post(quern, f"/v1/conversations/{archived}", {"archived": True})
        engine.token_delay = 60.0
        running = await post(quern, "/v1/responses", {"input": "on", "conversation": busy, "background": True})
        sweep = quern.application.conversations.sweep
        assert await sweep(datetime.now(UTC) + timedelta(days=6.9)) == 0
        assert await sweep(datetime.now(UTC) + timedelta(days=7.1)) == 2
        assert {one["id"] for one in await listed(quern, "?archived=any")} == {pinned, busy}
        assert (await quern.client.get(f"/v1/conversations/{old}")).status_code == 404
        await post(quern, f"/v1/responses/{running['id']}/cancel")


async def test_nothing_is_forgotten_unless_that_is_asked_for(quern: Quern) -> None:
    await quern.begin("hello")
    assert await quern.application.conversations.sweep(datetime.now(UTC) + timedelta(days=100_000)) == 0
    assert len(await listed(quern)) == 1


@pytest.mark.parametrize(
    ("written", "title"),
    [
        ("Bubble sort in Python", "Bubble sort in Python"),
        ('"Bubble sort"\n', "Bubble sort"),
        ("Title: Bubble sort.", "Bubble sort"),
        ("**冒泡排序**", "冒泡排序"),
        ("", "Write a sort"),
        ("\n\n", "Write a sort"),
    ],
)
async def test_the_model_names_a_conversation_once_it_has_answered(start: Start, written: str, title: str) -> None:
    async with start(saying("def sort(): ...", written, "more"), conversations={"titles": "model"}) as quern:
        conversation = await quern.begin("Write a sort")
        await quern.application.titles.idle()
        assert (await get(quern, f"/v1/conversations/{conversation}"))["title"] == title
        asked = quern.engine.requests[1]
        assert asked.priority.name == "BACKGROUND"
        prompt = bytes(token for token in asked.prompt if token < 256).decode()
        assert "Write a sort" in prompt
        assert "def sort()" in prompt
        await quern.chat("go on", conversation)
        await quern.application.titles.idle()
        assert len(quern.engine.requests) == 3, "a conversation is named once"
        assert len((await get(quern, f"/v1/conversations/{conversation}"))["messages"]) == 4


@pytest.mark.parametrize(
    ("answer", "written", "kept"),
    [
        ("Hello! How can I help you today?", "Hello, how can I help you today?", False),
        ("To fix the function, return x.", '"To fix the function, return x."', False),
        ("快速排序是一种排序算法，它把列表分成两半。", "快速排序是一种排序算法，它把列表分成两半。", False),
        ("any", "Mutexes and semaphores in C are used to control access to what several threads share", False),
        ("Merge sort: the lists are merged.", "Merge sort", True),
        ("快速排序是一种算法。", "快速排序", True),
        ("any", "", False),
    ],
)  # fmt: skip
async def test_an_answer_or_a_sentence_is_no_title(start: Start, answer: str, written: str, kept: bool) -> None:
    async with start(saying(answer, written), conversations={"titles": "model"}) as quern:
        conversation = await quern.begin("the rule's own title")
        await quern.application.titles.idle()
        title = (await get(quern, f"/v1/conversations/{conversation}"))["title"]
        assert title == (written if kept else "the rule's own title")


@pytest.mark.parametrize(
    ("question", "chinese"),
    [
        ("用 Python 写一个快速排序", True),
        ("请修复：\n```python\nretrun x\n```", True),
        ("Write a sort", False),
        ("リストを並べ替える関数を書いて", False),
        ("Schreibe eine größere Funktion", False),
    ],
)
async def test_a_title_of_what_is_asked_in_chinese_is_asked_for_in_chinese(
    start: Start, question: str, chinese: bool
) -> None:
    async with start(saying("an answer", "a title"), conversations={"titles": "model"}) as quern:
        await quern.begin(question)
        await quern.application.titles.idle()
        prompt = bytes(token for token in quern.engine.requests[1].prompt if token < 256).decode()
        assert ("请为上面的对话写一个中文标题" in prompt) == chinese
        assert ("Write a title for the conversation above" in prompt) != chinese


async def test_a_name_that_was_given_meanwhile_stays(start: Start) -> None:
    engine = saying("an answer", "the model's")
    async with start(engine, conversations={"titles": "model"}) as quern:
        conversation = (await post(quern, "/v1/conversations", {"title": "Mine"}))["id"]
        await quern.chat("hello", conversation)
        await quern.application.titles.idle()
        assert (await listed(quern))[0]["title"] == "Mine"
        assert len(engine.requests) == 1


async def test_a_title_is_json_that_any_client_reads(quern: Quern) -> None:
    await quern.begin('He said "hi" \\ \u2028 there')
    assert json.loads((await quern.client.get("/v1/conversations")).text)["data"][0]["title"].startswith('He said "hi"')
