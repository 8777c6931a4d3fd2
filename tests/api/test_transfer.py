"""Export and import: JSON Lines there and back, and Markdown."""

from __future__ import annotations

import asyncio
import gzip
import json
import random
import re
import uuid
from collections.abc import AsyncGenerator, Callable, Iterable, Iterator
from itertools import pairwise
from typing import Any

import httpx2
import psutil
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from quern.api.conversations.markdown import closed, markdown
from quern.engine.fake import FakeEngine
from quern.records import Conversation
from quern.types import Item, Message, Role, ToolCall, ToolResult

from .conftest import Quern, Start
from .engines import saying
from .test_branches import get, messages, numbering, post, prompt_of, shown
from .test_keys import bearer, make

Lines = list[dict[str, Any]]
Change = Callable[[Lines], object]


async def exported(quern: Quern, conversation: str | None = None) -> bytes:
    path = f"/v1/conversations/{conversation}/export" if conversation is not None else "/v1/conversations/export"
    answer = await quern.client.get(path)
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "application/jsonl"
    assert "attachment" in answer.headers["content-disposition"]
    return answer.content


async def imported(quern: Quern, body: bytes, **headers: str) -> httpx2.Response:
    return await quern.client.post("/v1/conversations/import", content=body, headers=headers)


def lines_of(body: bytes) -> Lines:
    return [json.loads(line) for line in body.decode().splitlines()]


def body_of(lines: Lines) -> bytes:
    return "".join(json.dumps(line) + "\n" for line in lines).encode()


def comparable(body: bytes) -> Lines:
    """An export with ids replaced by the order in which they come, and without when it was made."""
    numbers: dict[str, str] = {}

    def numbered(found: re.Match[str]) -> str:
        return numbers.setdefault(found[0], f"id {len(numbers)}")

    text = re.sub(r"[0-9a-f]{8}-[0-9a-f-]{27}", numbered, body.decode())
    return [{name: value for name, value in line.items() if name != "exported_at"} for line in lines_of(text.encode())]


async def some_conversations(quern: Quern, seed: int) -> None:
    """Branches, calls, failures, titles, pins, metadata, things put there without a turn."""
    chance = random.Random(seed)
    for number in range(3):
        body = {"metadata": {"n": str(number)}, "title": "标题 \u2028 x" if number else None}
        conversation = (await post(quern, "/v1/conversations", body))["id"]
        one = f"/v1/conversations/{conversation}"
        for step in range(6):
            kind = chance.choice(["say", "again", "edit", "put", "tool", "take"])
            there = await messages(quern, conversation)
            said = [message for message in there if message["role"] == "user"]
            if kind == "say" or not said:
                await quern.chat(f"step {step} 排序 \\n", conversation)
            elif kind == "again":
                await post(quern, f"{one}/regenerate", {"temperature": 0.1, "max_tokens": 5})
            elif kind == "edit":
                await post(quern, f"{one}/items/{chance.choice(said)['id']}/edit", {"content": f"{step} edited"})
            elif kind == "put":
                await post(quern, f"{one}/items", {"items": [{"role": "system", "content": "\x85\u2029ß\t"}]})
            elif kind == "take":
                item = chance.choice((await get(quern, f"{one}/items"))["data"])
                await quern.client.delete(f"{one}/items/{item['id']}")
            else:
                call = {"type": "function_call", "call_id": "c1", "name": "look", "arguments": '{"at": "x"}'}
                result = {"type": "function_call_output", "call_id": "c1", "output": "there"}
                await post(
                    quern,
                    "/v1/responses",
                    {"input": [call, result], "conversation": conversation, "instructions": "Be."},
                )
        await post(quern, one, {"pinned": chance.random() < 0.5, "archived": chance.random() < 0.5})


@pytest.mark.parametrize("seed", range(5))
async def test_what_is_exported_and_imported_is_exported_the_same(start: Start, seed: int) -> None:
    async with start(numbering()) as quern:
        await some_conversations(quern, seed)
        whole = await exported(quern)
        assert lines_of(whole)[-1] == {"type": "end", "conversations": 3}
        await quern.client.delete("/v1/conversations?all=true")
        answer = await imported(quern, whole)
        assert answer.status_code == 200, answer.text
        again = await exported(quern)
        assert comparable(again) == comparable(whole)
        # And once more beside them: nothing is replaced.
        assert (await imported(quern, whole)).status_code == 200
        assert lines_of(await exported(quern))[-1]["conversations"] == 6


async def test_one_conversation_goes_to_another_key_and_goes_on_there(start: Start) -> None:
    async with start(numbering()) as quern:
        conversation = await quern.begin("first")
        await quern.chat("second", conversation)
        await post(quern, f"/v1/conversations/{conversation}/regenerate")
        body = await exported(quern, conversation)
        texts = await shown(quern, conversation)
        ben = bearer(await make(quern, "ben"))
        answer = (await imported(quern, body, **ben)).json()
        (brought,) = answer["data"]
        assert (brought["object"], brought["imported_from"], brought["title"]) == (
            "conversation",
            conversation,
            "first",
        )
        path = f"/v1/conversations/{brought['id']}"
        quern.client.headers.update(ben)
        assert await shown(quern, brought["id"]) == texts
        await post(quern, f"{path}/regenerate")
        assert (await shown(quern, brought["id"]))[:3] == texts[:3]
        (fork,) = (await get(quern, f"{path}/branches"))["forks"]
        assert [one["answer"] for one in fork["siblings"]] == ["answer 2", "answer 3", "answer 4"]
        assert "second" in prompt_of(quern.engine.requests[-1])
        hits = (await get(quern, "/v1/conversations/search?q=second"))["data"]
        assert {hit["conversation"]["id"] for hit in hits} == {brought["id"]}


async def test_a_turn_that_ran_is_brought_as_interrupted(start: Start) -> None:
    engine = numbering()
    async with start(engine) as quern:
        conversation = await quern.begin("first")
        engine.token_delay = 60.0
        running = await post(quern, "/v1/responses", {"input": "on", "conversation": conversation, "background": True})
        body = await exported(quern, conversation)
        brought = (await imported(quern, body)).json()["data"][0]["id"]
        states = [turn["state"] for turn in (await get(quern, f"/v1/conversations/{brought}"))["turns"]]
        assert states == ["completed", "interrupted"]
        await post(quern, f"/v1/responses/{running['id']}/cancel")
        engine.token_delay = 0.0
        await post(quern, f"/v1/conversations/{brought}/regenerate")
        assert (await shown(quern, brought))[-1].startswith("answer")


async def small_export(quern: Quern) -> Lines:
    conversation = await quern.begin("first")
    await post(quern, f"/v1/conversations/{conversation}/regenerate")
    return lines_of(await exported(quern, conversation))


def _set(index: int, **values: Any) -> Change:
    def change(lines: Lines) -> None:
        lines[index].update(values)

    return change


def _drop(*indexes: int) -> Change:
    def change(lines: Lines) -> None:
        for index in sorted(indexes, reverse=True):
            del lines[index]

    return change


def _double(index: int) -> Change:
    def change(lines: Lines) -> None:
        lines.insert(index, lines[index])

    return change


def _said(index: int, **values: Any) -> Change:
    def change(lines: Lines) -> None:
        lines[index]["said"].update(values)

    return change


# header 0, conversation 1, branch 2, turns 3 4, items 5 to 8, end 9
BROKEN: list[tuple[str, int, Change]] = [
    ("no header", 1, _drop(0)),
    ("another format", 1, _set(0, type="chatgpt")),
    ("a later version", 1, _set(0, version=2)),
    ("no version", 1, _set(0, version=None)),
    ("no conversation", 2, _drop(1)),
    ("no end", 10, _drop(9)),
    ("a wrong count", 10, _set(9, conversations=2)),
    ("after the end", 11, lambda lines: lines.append(dict(lines[1]))),
    ("no branch", 4, _drop(2)),
    ("a branch twice", 4, _double(2)),
    ("a branch of itself", 3, _set(2, parent=1)),
    ("a branch 0", 3, _set(2, number=0)),
    ("a branch of a later one", 3, _set(2, parent=7)),
    ("a head that is not there", 10, _set(1, head=5)),
    ("a turn twice", 5, _double(3)),
    ("an item twice", 7, _double(5)),
    ("two items at one place", 7, _set(6, position=0)),
    ("an item before its branch", 8, lambda lines: (lines[2].update(after=1), lines[7].update(position=1))),
    ("an item of no turn", 6, _set(5, turn_id="11111111-1111-4111-8111-111111111111")),
    ("an item of another branch's turn", 6, _set(5, branch=1)),
    ("an id that is none", 6, _set(5, id="x")),
    ("an unknown state", 4, _set(3, state="sleeping")),
    ("an unknown member", 2, _set(1, colour="red")),
    ("a number that is none", 6, _set(5, position="first")),
    ("a huge number", 6, _set(5, position=2**40)),
    ("a time without a zone", 2, _set(1, created_at="2026-01-01T00:00:00")),
    ("sampling that is none", 4, _set(3, sampling={"heat": 3})),
    ("sampling that can't be", 4, lambda lines: lines[3]["sampling"].update(temperature=1e9)),
    ("too deep", 4, lambda lines: lines[3].update(asked=json.loads('{"a":' * 200 + "1" + "}" * 200))),
    ("what was asked that is none", 4, _set(3, asked={"tool_use": 3})),
    ("a role that is none", 6, _said(5, role="king")),
    ("a tool that says something", 6, _said(5, role="tool")),
    ("no content", 6, _said(5, content=None)),
    ("a kind that is none", 6, _said(5, kind="poem")),
    ("a type that is none", 6, _set(5, type="poem")),
    ("a NUL", 6, _said(5, content="a\x00b")),
    ("half a character", 6, _said(5, content="a\ud800b")),
]  # fmt: skip


@pytest.mark.parametrize(("line", "change"), [case[1:] for case in BROKEN], ids=[case[0] for case in BROKEN])
async def test_a_line_that_is_wrong_is_named_and_nothing_is_imported(start: Start, line: int, change: Change) -> None:
    async with start(numbering()) as quern:
        lines = await small_export(quern)
        assert [one["type"] for one in lines[1:]] == ["conversation", "branch", *["turn"] * 2, *["item"] * 4, "end"]
        before = comparable(await exported(quern))
        good = [dict(one) for one in json.loads(json.dumps(lines))]
        change(lines)
        answer = await imported(quern, body_of(lines))
        assert answer.status_code == 400, answer.text
        error = answer.json()["error"]
        assert error["message"].startswith(f"Line {line} can't be imported: "), error
        assert error["param"] == f"line {line}"
        assert comparable(await exported(quern)) == before
        assert (await imported(quern, body_of(good))).status_code == 200


@pytest.mark.parametrize(
    ("body", "line"),
    [
        (b"", 1),
        (b"\n\n", 3),
        (b"not json", 1),
        (b"[1]", 1),
        (b"null", 1),
        (b'{"type":"quern.conversations","version":1}\n{"type":', 2),
        (b'{"type":"quern.conversations","version":1}\n\n\xff\xfe', 3),
        (b'{"type":"quern.conversations","version":1}\n{"type":"end","conversations":NaN}', 2),
        (b'{"type":"quern.conversations","version":1}\n{"type":"end","conversations":1e999}', 2),
        (b'{"type":"quern.conversations","version":1}\n' + b"[" * 100_000, 2),
        (b'{"type":"quern.conversations","version":true}', 1),
    ],
)
async def test_what_is_no_export_is_refused(quern: Quern, body: bytes, line: int) -> None:
    answer = await imported(quern, body)
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == f"line {line}"


async def test_nothing_comes_of_an_import_of_nothing_and_blank_lines_are_none(quern: Quern) -> None:
    body = b'\r\n{"type":"quern.conversations","version":1}\r\n\r\n{"type":"end","conversations":0}\r\n'
    assert (await imported(quern, body)).json() == {"object": "list", "data": [], "has_more": False, "last_id": None}
    assert lines_of(await exported(quern))[-1] == {"type": "end", "conversations": 0}


@pytest.mark.parametrize("announced", [True, False])
async def test_an_import_that_is_too_large_is_a_413(start: Start, announced: bool) -> None:
    async def pieces() -> AsyncGenerator[bytes]:
        for _ in range(100):
            yield b" " * 100

    async with start(conversations={"max_import_bytes": 5000}) as quern:
        content = b"x" * 5001 if announced else pieces()
        answer = await quern.client.post("/v1/conversations/import", content=content)
        assert answer.status_code == 413
        assert "conversations.max_import_bytes" in answer.text


async def test_a_line_that_is_too_long_is_refused_by_its_number(start: Start) -> None:
    async with start(server={"max_request_bytes": 2000}) as quern:
        lines = await small_export(quern)
        lines[5]["said"]["content"] = "x" * 2001
        answer = await imported(quern, body_of(lines))
        assert (answer.status_code, answer.json()["error"]["param"]) == (400, "line 6")
        assert "server.max_request_bytes" in answer.text


def long_export(conversations: int, characters: int) -> Iterator[bytes]:
    """An export piece by piece, with line ends anywhere in them."""
    now = "2026-01-01T00:00:00+00:00"
    yield b'{"type": "quern.conversations", "version": 1}\n'
    for number in range(conversations):
        told: dict[str, Any] = {
            "type": "conversation", "id": str(uuid.UUID(int=number)), "created_at": now, "updated_at": now,
            "metadata": {}, "title": f"Number {number}", "pinned": False, "archived": False, "head": 0,
        }  # fmt: skip
        turn: dict[str, Any] = {
            "type": "turn", "id": str(uuid.UUID(int=1)), "branch": 0, "request_id": "r", "model": "fake",
            "state": "failed", "finish_reason": None, "error": "x", "text": "x" * characters,
            "usage": {"prompt_tokens": 1, "cached_tokens": 0, "completion_tokens": 1},
            "timings": {"queued_ms": 0, "prefill_ms": 0, "decode_ms": 0, "drafts_accepted": 0},
            "created_at": now, "started_at": now, "finished_at": now,
            "repairs": 0, "loop": None, "sampling": {}, "asked": None,
        }  # fmt: skip
        said: dict[str, Any] = {
            "type": "item", "id": str(uuid.UUID(int=2)), "turn_id": turn["id"], "branch": 0, "position": 0,
            "created_at": now, "said": {"kind": "message", "role": "user", "content": f"{number} 排序"},
        }  # fmt: skip
        yield "\n".join(map(json.dumps, (told, turn, said))).encode()
        yield b"\n"
    yield json.dumps({"type": "end", "conversations": conversations}).encode()


async def streamed(body: Iterable[bytes]) -> AsyncGenerator[bytes]:
    for piece in body:
        yield piece


async def test_forty_megabytes_are_imported_and_are_never_in_memory(start: Start) -> None:
    async with start(live=True) as quern:
        quern.client.timeout = httpx2.Timeout(120)
        process = psutil.Process()
        before, most, size = process.memory_info().rss, 0, 0

        async def counted() -> AsyncGenerator[bytes]:
            nonlocal size
            for piece in long_export(400, 100_000):
                size += len(piece)
                yield piece

        asked = asyncio.ensure_future(quern.client.post("/v1/conversations/import", content=counted()))
        while not asked.done():
            most = max(most, process.memory_info().rss)
            await asyncio.sleep(0.005)
        answer = await asked
        assert answer.status_code == 200, answer.text
        assert size > 40_000_000
        assert most - before < 30_000_000
        data = answer.json()["data"]
        assert [one["imported_from"] for one in data] == [str(uuid.UUID(int=number)) for number in range(400)]
        last = await get(quern, f"/v1/conversations/{data[-1]['id']}")
        assert (last["messages"][0]["content"], len(last["turns"][0]["text"])) == ("399 排序", 100_000)
        assert {path.name.partition(".")[0] for path in quern.settings.data_dir.iterdir()} == {"quern"}


async def test_what_is_wrong_at_the_end_of_a_long_file_leaves_nothing_of_it(start: Start) -> None:
    async with start() as quern:
        *pieces, _ = long_export(60, 50_000)
        answer = await quern.client.post("/v1/conversations/import", content=streamed([*pieces, b'{"type": "end"}']))
        assert (answer.status_code, answer.json()["error"]["param"]) == (400, "line 182")
        assert (await get(quern, "/v1/conversations"))["data"] == []


async def test_where_the_last_conversations_cant_be_stored_the_first_ones_go_again(start: Start) -> None:
    async with start() as quern:
        async with quern.application.database.transaction() as connection:
            await connection.exec_driver_sql(
                "CREATE TRIGGER full_disk BEFORE INSERT ON conversations WHEN NEW.title = 'Number 55' "
                "BEGIN SELECT RAISE(ABORT, 'no room is left'); END"
            )
        answer = await quern.client.post("/v1/conversations/import", content=streamed(long_export(60, 50_000)))
        assert answer.status_code == 500
        assert (await get(quern, "/v1/conversations"))["data"] == []


async def test_a_file_that_cant_be_laid_aside_is_told_and_nothing_is_imported(start: Start) -> None:
    async with start() as quern:
        folder = quern.settings.data_dir
        quern.application.asgi.state.services.transfer._folder = folder / "gone"
        answer = await imported(quern, b"".join(long_export(1, 10)))
        assert answer.status_code == 500
        assert "laid aside" in answer.json()["error"]["message"]


async def test_a_packed_import_is_unpacked_within_the_limit_of_bodies(start: Start) -> None:
    body = b"".join(long_export(2, 10))
    async with start(server={"max_request_bytes": 5000}) as quern:
        assert (await imported(quern, gzip.compress(body), **{"content-encoding": "gzip"})).status_code == 200
        long = gzip.compress(b"".join(long_export(2, 5000)))
        assert (await imported(quern, long, **{"content-encoding": "gzip"})).status_code == 413


async def test_only_ones_own_is_exported(start: Start) -> None:
    async with start() as quern:
        anna, ben = bearer(await make(quern, "anna")), bearer(await make(quern, "ben"))
        items = {"items": [{"role": "user", "content": "secret"}]}
        conversation = (await quern.client.post("/v1/conversations", json=items, headers=anna)).json()["id"]
        assert (await quern.client.get("/v1/conversations/export", headers=ben)).content.count(b"\n") == 2
        for query in ("", "?format=markdown"):
            path = f"/v1/conversations/{conversation}/export{query}"
            assert (await quern.client.get(path, headers=ben)).status_code == 404
            assert (await quern.client.get(path, headers=anna)).status_code == 200
        unknown = await quern.client.get(f"/v1/conversations/{conversation}/export?format=pdf", headers=anna)
        assert (unknown.status_code, unknown.json()["error"]["param"]) == (400, "format")


async def test_markdown_has_the_shown_path(start: Start) -> None:
    code = "Here:\n\n```python\nprint('嗨')\n```\nDone."
    async with start(saying("old", code)) as quern:
        conversation = await quern.begin("Write a greeting")
        await post(quern, f"/v1/conversations/{conversation}/regenerate")
        answer = await quern.client.get(f"/v1/conversations/{conversation}/export?format=markdown")
        assert answer.headers["content-type"].startswith("text/markdown")
        assert answer.text == f"# Write a greeting\n\n## User\n\nWrite a greeting\n\n## Assistant\n\n{code}\n"


CONVERSATION = Conversation("c", "ann", None, None, title="T")  # type: ignore[arg-type]
HEADINGS = {"T", "User", "Assistant", "System", "Tool", "Assistant calls look"}


@pytest.mark.parametrize(
    "text",
    [
        "```py\nx", "```py\nx\n", "~~~\n```\nx", "````\n```\nx\n```", "``` a`b ```\nx", "```\nx\n``` y", "   ```\nx",
        "    ```\nx", "```\nx\n```", "```\nx\n   `````  ", "plain", "", "~~~ a`b\nx", "```\n~~~\n", "```",
        "```\r\nx\r\n```\r\ny",
    ],
)  # fmt: skip
def test_a_block_of_code_that_is_not_closed_swallows_no_heading(text: str) -> None:
    assert closed(text).startswith(text.removesuffix("\n"))
    told = markdown(CONVERSATION, [Message(Role.ASSISTANT, text), Message(Role.USER, "next")])
    assert _headings(told) == ["T", "Assistant", "User"]


def _headings(text: str) -> list[str]:
    tokens = MarkdownIt("commonmark").parse(text)
    return [
        "".join(child.content for child in after.children or [])
        for token, after in pairwise(tokens)
        if token.type == "heading_open" and token.tag in {"h1", "h2"}
    ]


@given(st.text(alphabet="`~x \n", max_size=40), st.text(alphabet="`~{}\n", max_size=20))
@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_every_item_has_its_heading_whatever_fences_are_in_it(text: str, code: str) -> None:
    items: list[Item] = [
        Message(Role.USER, text),
        ToolCall("c", "look", code),
        ToolResult("c", code),
        Message(Role.ASSISTANT, "end"),
    ]
    told = markdown(CONVERSATION, items)
    assert _headings(told) == ["T", "User", "Assistant calls look", "Tool", "Assistant"]
    blocks = [token.content for token in MarkdownIt("commonmark").parse(told) if token.type == "fence"]
    assert [block.removesuffix("\n") for block in blocks[-2:]] == [code.removesuffix("\n")] * 2


async def test_an_export_survives_a_server_that_is_another(start: Start) -> None:
    async with start(numbering()) as quern:
        await some_conversations(quern, 11)
        body = await exported(quern)
    async with start(FakeEngine(), data_dir=quern.settings.data_dir / "other") as other:
        assert (await imported(other, body)).status_code == 200
        assert comparable(await exported(other)) == comparable(body)
