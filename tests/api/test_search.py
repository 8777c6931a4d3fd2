"""Searching what was said in conversations."""

from __future__ import annotations

import asyncio
import sqlite3
from datetime import UTC, datetime
from typing import Any

import pytest

from quern.engine.fake import FakeEngine

from .conftest import Quern, Start
from .test_branches import get, messages, post
from .test_keys import bearer, make


async def put(quern: Quern, *texts: str) -> str:
    """A conversation in which these were said, without a turn."""
    items = [{"role": "user", "content": text} for text in texts]
    conversation: str = (await post(quern, "/v1/conversations", {"items": items}))["id"]
    return conversation


async def found(quern: Quern, query: str, **params: Any) -> list[Any]:
    answer = await quern.client.get("/v1/conversations/search", params={"q": query, **params})
    assert answer.status_code == 200, answer.text
    data: list[Any] = answer.json()["data"]
    return data


def marked(hit: Any) -> list[str]:
    """What is marked in a hit's snippet."""
    return [hit["snippet"][one["start"] : one["start"] + one["length"]] for one in hit["matches"]]


@pytest.mark.parametrize(
    ("text", "query", "marks"),
    [
        ("Write a bubble sort.", "bubble", ["bubble"]),
        ("Write a bubble sort.", "BUBBLE", ["bubble"]),
        ("Write a bubble sort.", "ubbl", ["ubbl"]),
        ("Write a bubble sort.", "sort write", ["Write", "sort"]),
        ("用 Python 写一个冒泡排序算法", "冒泡排序", ["冒泡排序"]),
        ("用 Python 写一个冒泡排序算法", "排序", ["排序"]),
        ("用 Python 写一个冒泡排序算法", "序", ["序"]),
        ("用 Python 写一个冒泡排序算法", "python 排序", ["Python", "排序"]),
        ("для сортировки", "СОРТИРОВКИ", ["сортировки"]),
        ('if (a && b) { x = "y"; }', '"y"', ['"y"']),
        ("a OR b NOT c", "OR", ["OR"]),
        ("SELECT * FROM t WHERE a LIKE '100%'", "100%", ["100%"]),
        ("snake_case_name", "e_c", ["e_c"]),
        ("x_y", "_y", ["_y"]),
        ("emoji 🦀🦀🦀 here", "🦀🦀🦀", ["🦀🦀🦀"]),
        ("def f():\n\treturn 1", "f():", ["f():"]),
        ("abcabc", "abc", ["abc", "abc"]),
    ],
)
async def test_a_message_is_found_by_any_piece_of_it(quern: Quern, text: str, query: str, marks: list[str]) -> None:
    conversation = await put(quern, text)
    await put(quern, "Something else altogether: 其他的")
    (hit,) = await found(quern, query)
    assert hit["conversation"]["id"] == conversation
    assert marked(hit) == marks
    assert hit["snippet"] == text


@pytest.mark.parametrize(
    "query",
    [
        "content:bubble",
        "bub*", "NEAR(bubble sort)", "bubble OR nothing", "bubble AND", '"', '""', '"bubble', "^bubble",
        "-sort", "bubble + sort", "{content}:", "(", "%", "_____", "\\", "'; DROP TABLE items; --", "bubble\x00sort",
    ],
)  # fmt: skip
async def test_a_query_is_text_and_never_a_language(quern: Quern, query: str) -> None:
    await put(quern, "Write a bubble sort.")
    assert await found(quern, query) == []
    await put(quern, f"before {query.replace(chr(0), '')} after")
    assert len(await found(quern, query.replace("\x00", ""))) == 1


@pytest.mark.parametrize(("query", "status"), [("", 400), ("   ", 400), ("x" * 201, 400), ("x" * 200, 200)])
async def test_a_query_has_a_length(quern: Quern, query: str, status: int) -> None:
    answer = await quern.client.get("/v1/conversations/search", params={"q": query})
    assert answer.status_code == status
    if status == 400:
        assert answer.json()["error"]["param"] == "q"
    assert (await quern.client.get("/v1/conversations/search")).status_code == 400


async def test_answers_and_all_branches_are_found_and_one_shots_are_not(start: Start) -> None:
    answers = iter(["the first heron", "another heron", "a third heron"])
    async with start(FakeEngine(reply=lambda _: tuple(next(answers).encode()))) as quern:
        conversation = await quern.begin("which bird?")
        await post(quern, f"/v1/conversations/{conversation}/regenerate")
        await quern.client.post("/v1/chat/completions", json={"messages": [{"role": "user", "content": "bird once"}]})
        assert [hit["snippet"] for hit in await found(quern, "heron")] == ["another heron", "the first heron"]
        old = (await found(quern, "first heron"))[0]
        await post(quern, f"/v1/conversations/{conversation}/head", {"item_id": old["item_id"]})
        assert (await messages(quern, conversation))[1]["id"] == old["item_id"]
        assert len(await found(quern, "bird")) == 2, "the question, once for each answer"


async def test_pages_follow_each_other_newest_first(quern: Quern) -> None:
    for number in range(5):
        await put(quern, f"heron {number}a", f"heron {number}b")
    seen: list[str] = []
    after = ""
    while True:
        page = await get(quern, f"/v1/conversations/search?q=heron&limit=3{after}")
        seen += [hit["snippet"] for hit in page["data"]]
        if not page["has_more"]:
            break
        after = f"&after={page['last_id']}"
    assert seen == [f"heron {number}{letter}" for number in (4, 3, 2, 1, 0) for letter in "ba"]
    unknown = await quern.client.get("/v1/conversations/search", params={"q": "heron", "after": "x"})
    assert (unknown.status_code, unknown.json()["error"]["param"]) == (400, "after")


async def test_a_snippet_is_where_the_words_are_and_says_where_that_is(quern: Quern) -> None:
    text = "字" * 1000 + " heron " + "鸟" * 1000
    await put(quern, text)
    (hit,) = await found(quern, "heron")
    assert len(hit["snippet"]) <= 240
    assert marked(hit) == ["heron"]
    assert text[hit["offset"] :].startswith(hit["snippet"])


async def test_only_ones_own_is_found(start: Start) -> None:
    async with start() as quern:
        keys = [bearer(await make(quern, name)) for name in ("anna", "ben")]
        for key in keys:
            items = {"items": [{"role": "user", "content": "a secret heron"}]}
            await quern.client.post("/v1/conversations", json=items, headers=key)
        ids: list[set[str]] = []
        for key in keys:
            answer = await quern.client.get("/v1/conversations/search?q=heron", headers=key)
            ids.append({hit["item_id"] for hit in answer.json()["data"]})
        assert [len(one) for one in ids] == [1, 1]
        assert not ids[0] & ids[1]
        theirs = {"q": "heron", "after": ids[0].pop()}
        refused = await quern.client.get("/v1/conversations/search", params=theirs, headers=keys[1])
        assert refused.status_code == 400


def index_rows(quern: Quern) -> list[int]:
    connection = sqlite3.connect(quern.settings.data_dir / "quern.db")
    try:
        tables = "item_numbers", "item_search_docsize"
        counts = [connection.execute(f"SELECT count(*) FROM {name}").fetchone()[0] for name in tables]
        connection.execute("INSERT INTO item_search (item_search) VALUES ('integrity-check')")
        return counts
    finally:
        connection.close()


@pytest.mark.parametrize("how", ["conversation", "all", "item", "age", "response"])
async def test_what_is_deleted_is_found_no_more_and_leaves_nothing_in_the_file(start: Start, how: str) -> None:
    async with start(conversations={"keep_days": 30}) as quern:
        conversation = await put(quern, "a purple heron", "又一只紫色的苍鹭")
        assert await asyncio.to_thread(index_rows, quern) == [2, 2]
        one = f"/v1/conversations/{conversation}"
        now = datetime.now(UTC)
        if how == "conversation":
            await quern.client.delete(one)
        elif how == "all":
            await quern.client.delete("/v1/conversations?all=true")
        elif how == "age":
            now = now.replace(year=now.year + 1)
        elif how == "item":
            for item in (await get(quern, f"{one}/items"))["data"]:
                assert (await quern.client.delete(f"{one}/items/{item['id']}")).status_code == 200
        else:
            await post(quern, "/v1/responses", {"input": "x", "conversation": conversation, "store": True})
            await quern.client.delete(one)
        await quern.application.conversations.sweep(now)
        assert await found(quern, "heron") == await found(quern, "苍鹭") == await found(quern, "紫") == []
        if how not in {"item", "response"}:
            assert await asyncio.to_thread(index_rows, quern) == [0, 0]
        file = (quern.settings.data_dir / "quern.db").read_bytes()
        for secret in ("purple", "heron", "ron", "苍鹭", "色的苍"):
            assert secret.encode() not in file


async def test_deleting_one_leaves_the_others_to_be_found(quern: Quern) -> None:
    kept, gone = await put(quern, "a heron"), await put(quern, "a heron too")
    await quern.client.delete(f"/v1/conversations/{gone}")
    await quern.application.conversations.sweep(datetime.now(UTC))
    assert [hit["conversation"]["id"] for hit in await found(quern, "heron")] == [kept]
    assert await asyncio.to_thread(index_rows, quern) == [1, 1]
