"""`/v1/turns`: a turn is followed from anywhere, by any number of readers, also after a restart; and goes on."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from typing import Any

import httpx2
import pytest

from .conftest import Quern, Start
from .engines import saying
from .test_keys import bearer, make

ANSWER = "def f():\n    return 'ü'  # 排序\n" * 3
CALL = '<tool_call>\n{"name": "look", "arguments": {"at": "here", "deep": true}}\n</tool_call>'
LOOK = {"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}

Frame = tuple[str | None, str, Any]
"""An event's id, its name and its data."""


def frames(text: str) -> list[Frame]:
    found: list[Frame] = []
    for block in text.split("\n\n"):
        fields = dict(line.split(": ", 1) for line in block.splitlines() if line and not line.startswith(":"))
        if fields:
            found.append((fields.get("id"), fields["event"], json.loads(fields["data"])))
    return found


async def events(quern: Quern, turn_id: str, after: str | None = None, **headers: str) -> list[Frame]:
    params = {"after": after} if after is not None else {}
    answer = await quern.client.get(f"/v1/turns/{turn_id}/events", params=params, headers=headers)
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"].startswith("text/event-stream")
    return frames(answer.text)


def text_of(told: Sequence[Frame]) -> str:
    return "".join(data["text"] for _, name, data in told if name == "text")


def numbered(told: Sequence[Frame]) -> list[Frame]:
    return [frame for frame in told if frame[0] is not None]


async def chat(quern: Quern, **fields: Any) -> httpx2.Response:
    body = {"messages": [{"role": "user", "content": "hi"}], **fields}
    answer = await quern.client.post("/v1/chat/completions", json=body)
    assert answer.status_code == 200, answer.text
    return answer


async def turn_of(quern: Quern, **fields: Any) -> str:
    return (await chat(quern, **fields)).headers["x-quern-turn-id"]


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": "hi"}]}),
        ("/v1/completions", {"prompt": "hi"}),
        ("/v1/responses", {"input": "hi"}),
        ("/v1/messages", {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 20}),
        ("/api/chat", {"model": "fake", "messages": [{"role": "user", "content": "hi"}]}),
        ("/api/generate", {"model": "fake", "prompt": "hi"}),
        ("/completion", {"prompt": "hi"}),
        ("/infill", {"input_prefix": "a", "input_suffix": "b"}),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
async def test_every_dialect_names_the_turn(start: Start, path: str, body: dict[str, Any], stream: bool) -> None:
    async with start() as quern:
        answer = await quern.client.post(path, json={**body, "stream": stream})
        assert answer.status_code == 200, answer.text
        told = await events(quern, answer.headers["x-quern-turn-id"])
        assert told[-1][1] == "ended"
        assert told[-1][2]["state"] == "completed"


async def test_the_original_endpoints_name_the_turn_in_a_header_and_their_bodies_are_as_ever(start: Start) -> None:
    async with start(saying("answer")) as quern:
        chatted = await quern.chat("hi")
        generated = await quern.client.post("/v1/code/generate", data={"prompt": "hi"})
        assert chatted.text.endswith("\n---\nanswer")
        assert generated.json() == {"status": "success", "result": "answer"}
        for answer in (chatted, generated):
            assert text_of(await events(quern, answer.headers["x-quern-turn-id"])) == "answer"


async def test_several_answers_are_several_turns(start: Start) -> None:
    async with start(saying("one", "two")) as quern:
        ids = (await chat(quern, n=2)).headers["x-quern-turn-id"].split(", ")
        assert sorted([text_of(await events(quern, turn_id)) for turn_id in ids]) == ["one", "two"]


async def test_whoever_goes_on_after_any_event_gets_the_rest_exactly(start: Start) -> None:
    async with start(saying(ANSWER)) as quern:
        turn_id = await turn_of(quern)
        whole = numbered(await events(quern, turn_id))
        assert text_of(whole) == ANSWER
        assert [number for number, _, _ in whole[:-1]] == [str(number) for number in range(1, len(whole))]
        assert whole[-1][0] == f"{len(whole) - 1}-end"
        for seen in (0, 1, 7, len(whole) - 2):
            assert numbered(await events(quern, turn_id, str(seen))) == whole[seen:]
            assert numbered(await events(quern, turn_id, **{"last-event-id": str(seen)})) == whole[seen:]


async def test_calls_are_told_again_with_their_ids(start: Start) -> None:
    async with start(saying("I look. " + CALL)) as quern:
        answer = await chat(quern, tools=[LOOK])
        told = await events(quern, answer.headers["x-quern-turn-id"])
        call = answer.json()["choices"][0]["message"]["tool_calls"][0]
        begun = next(data for _, name, data in told if name == "call_started")
        assert (begun["call_id"], begun["name"]) == (call["id"], "look")
        arguments = "".join(data["arguments"] for _, name, data in told if name == "call_arguments")
        assert json.loads(arguments) == {"at": "here", "deep": True}
        assert told[-1][2]["finish_reason"] == "tool_calls"


async def test_a_server_that_came_back_tells_the_same_events(start: Start) -> None:
    async with start(saying("I look. " + CALL)) as quern:
        turns = [await turn_of(quern, tools=[LOOK]), (await quern.chat("hi")).headers["x-quern-turn-id"]]
        before = [numbered(await events(quern, turn_id)) for turn_id in turns]
    async with start(saying("something else")) as quern:
        for turn_id, told in zip(turns, before, strict=True):
            assert numbered(await events(quern, turn_id)) == told
            assert numbered(await events(quern, turn_id, "3")) == told[3:]


async def test_any_number_of_readers_follow_a_turn_that_runs(start: Start) -> None:
    async with start(saying(ANSWER, token_delay=0.002), live=True) as quern:
        first = asyncio.ensure_future(quern.chat("hi"))
        while not quern.application.turns.active:
            await asyncio.sleep(0.001)
        (turn,) = quern.application.turns.all_active()
        readers = await asyncio.gather(*(events(quern, turn.id, str(seen)) for seen in (0, 0, 2)))
        whole = numbered(readers[0])
        assert text_of(whole) == ANSWER
        assert numbered(readers[1]) == whole
        assert numbered(readers[2]) == whole[2:]
        assert readers[0][0][1] == "turn"
        assert (await first).text.endswith(ANSWER)


async def test_waiting_and_prefill_are_told_with_what_is_left(start: Start) -> None:
    async with start(saying("x" * 30, parallel=1, token_delay=0.01, prefill_delay=0.01), live=True) as quern:
        running = asyncio.ensure_future(quern.chat("first"))
        while not quern.engine.requests:
            await asyncio.sleep(0.001)
        waiting = asyncio.ensure_future(quern.chat("second " * 60))
        while quern.application.turns.active < 2:
            await asyncio.sleep(0.001)
        told = await events(quern, quern.application.turns.all_active()[1].id)
        await asyncio.gather(running, waiting)
    names = [name for _, name, _ in told]
    assert names[:2] == ["turn", "queued"]
    assert told[1][2]["position"] == 1
    progress = [data for _, name, data in told if name == "prefill"]
    assert [data["done"] for data in progress] == sorted(data["done"] for data in progress)
    assert progress[-1]["done"] == progress[-1]["total"]
    assert progress[-1]["seconds_left"] == 0
    assert any(data["seconds_left"] for data in progress)


async def test_what_the_end_released_is_provisional_where_the_answer_may_go_on(start: Start) -> None:
    async with start(saying("abcEN")) as quern:
        whole = await events(quern, await turn_of(quern, stop=["END"]))
        cut = await events(quern, await turn_of(quern, stop=["END"], max_tokens=5))
    assert text_of(whole) == text_of(cut) == "abcEN"
    assert numbered(whole)[-1][0] == "4-end"
    assert [data for number, name, data in cut if name == "text" and number is None] == [
        {"text": "EN", "provisional": True}
    ]
    assert cut[-1][0] == "3-end"


async def test_a_browser_that_has_seen_the_end_is_told_not_to_ask_again(start: Start) -> None:
    async with start(saying("abc")) as quern:
        turn_id = await turn_of(quern)
        last = (await events(quern, turn_id))[-1][0]
        answer = await quern.client.get(f"/v1/turns/{turn_id}/events", headers={"last-event-id": str(last)})
        assert answer.status_code == 204


@pytest.mark.parametrize("after", ["x", "-1", "1.5", "1-ended", "9" * 40])
async def test_an_id_that_no_event_has_is_refused(start: Start, after: str) -> None:
    async with start() as quern:
        turn_id = await turn_of(quern)
        answer = await quern.client.get(f"/v1/turns/{turn_id}/events", params={"after": after})
        assert answer.status_code == 400
        assert "number" in answer.json()["error"]["message"]


async def test_another_owners_turn_can_neither_be_followed_ended_nor_gone_on_with(start: Start) -> None:
    async with start(saying("abc"), live=True) as quern:
        ann, bob = await make(quern, "ann"), await make(quern, "bob")
        body = {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 2}
        answer = await quern.client.post("/v1/chat/completions", json=body, headers=bearer(ann))
        turn_id = answer.headers["x-quern-turn-id"]
        for method, path in (("GET", "events"), ("POST", "cancel"), ("POST", "continue")):
            refused = await quern.client.request(method, f"/v1/turns/{turn_id}/{path}", headers=bearer(bob))
            unknown = await quern.client.request(method, f"/v1/turns/{turn_id[:-1]}/{path}", headers=bearer(bob))
            assert refused.status_code == unknown.status_code == 404
        mine = await quern.client.get("/v1/turns", headers=bearer(ann))
        others = await quern.client.get("/v1/turns", headers=bearer(bob))
        assert [turn["id"] for turn in mine.json()["data"]] == [turn_id]
        assert others.json()["data"] == []


async def test_turns_are_listed_by_page_state_and_conversation(start: Start) -> None:
    async with start(saying("abc")) as quern:
        conversation = await quern.begin()
        ids = [await turn_of(quern) for _ in range(3)]
        first = (await quern.client.get("/v1/turns", params={"limit": 2})).json()
        assert [turn["id"] for turn in first["data"]] == [ids[2], ids[1]]
        assert first["has_more"]
        rest = (await quern.client.get("/v1/turns", params={"after": ids[1]})).json()
        assert rest["data"][0]["id"] == ids[0]
        assert not rest["has_more"]
        of = (await quern.client.get("/v1/turns", params={"conversation_id": conversation})).json()
        assert [turn["conversation_id"] for turn in of["data"]] == [conversation]
        assert (await quern.client.get("/v1/turns", params={"state": "failed"})).json()["data"] == []
        assert (await quern.client.get("/v1/turns", params={"after": "nothing"})).status_code == 400


async def test_a_turn_that_runs_is_cancelled_and_keeps_what_it_wrote(start: Start) -> None:
    async with start(saying("x" * 500, token_delay=0.002), live=True) as quern:
        running = asyncio.ensure_future(quern.client.post("/v1/code/generate", data={"prompt": "hi"}))
        while not quern.engine.requests:
            await asyncio.sleep(0.001)
        (turn,) = quern.application.turns.all_active()
        cancelled = (await quern.client.post(f"/v1/turns/{turn.id}/cancel")).json()
        assert (cancelled["state"], cancelled["error"]) == ("cancelled", "The turn was cancelled.")
        assert (await quern.client.post(f"/v1/turns/{turn.id}/cancel")).json()["state"] == "cancelled"
        await running
        assert (await events(quern, turn.id))[-1][2]["state"] == "cancelled"


async def test_an_answer_that_its_length_ended_goes_on_as_one(start: Start) -> None:
    async with start(saying(ANSWER), generation={"max_tokens": 10}) as quern:
        conversation = await quern.begin()
        (item,) = (await quern.client.get(f"/v1/conversations/{conversation}")).json()["turns"]
        turn_id = item["id"]
        before = numbered(await events(quern, turn_id))
        answer = await quern.client.post(f"/v1/turns/{turn_id}/continue", json={"max_tokens": 500, "stream": True})
        assert answer.status_code == 200, answer.text
        told = frames(answer.text)
        assert text_of(told) == ANSWER
        assert numbered(told)[: len(before) - 1] == before[:-1]
        assert told[-1][2]["usage"]["completion_tokens"] == len(ANSWER.encode())
        assert numbered(await events(quern, turn_id, before[-1][0])) == numbered(told)[len(before) - 1 :]
        seen = (await quern.client.get(f"/v1/conversations/{conversation}/items")).json()
        assert [part["content"][0]["text"] for part in seen["data"]].count(ANSWER) == 1
        assert len(seen["data"]) == 2


async def test_a_cancelled_call_goes_on_and_is_whole(start: Start) -> None:
    text = "I look. " + CALL
    async with start(saying(text, token_delay=0.005), live=True) as quern:
        body = {"messages": [{"role": "user", "content": "hi"}], "tools": [LOOK], "stream": True}
        async with quern.client.stream("POST", "/v1/chat/completions", json=body) as stream:
            turn_id = stream.headers["x-quern-turn-id"]
            while len(quern.application.turns.all_active()[0].generated) < text.index("here") + 2:
                await asyncio.sleep(0.001)
            await quern.client.post(f"/v1/turns/{turn_id}/cancel")
        cut = await events(quern, turn_id)
        assert [data["whole"] for _, name, data in cut if name == "call_ended"] == [False]
        quern.engine.token_delay = 0
        await quern.client.post(f"/v1/turns/{turn_id}/continue")
        told = await events(quern, turn_id)
        arguments = "".join(data["arguments"] for _, name, data in told if name == "call_arguments")
        assert json.loads(arguments) == {"at": "here", "deep": True}
        assert told[-1][2]["finish_reason"] == "tool_calls"
        assert numbered(cut)[:-1] == numbered(told)[: len(numbered(cut)) - 1]


async def test_a_turn_goes_on_after_a_restart_with_what_there_was(start: Start) -> None:
    async with start(saying(ANSWER, fail_after=20)) as quern:
        failed = await quern.client.post("/v1/chat/completions", json={"messages": [{"role": "user", "content": "hi"}]})
        turn_id = failed.headers["x-quern-turn-id"]
        before = numbered(await events(quern, turn_id))
        assert before[-1][2]["state"] == "failed"
    async with start(saying(ANSWER)) as quern:
        answer = await quern.client.post(f"/v1/turns/{turn_id}/continue", json={"stream": True})
        assert text_of(frames(answer.text)) == ANSWER
        assert quern.engine.requests[-1].generated == tuple(ANSWER.encode()[:20])


@pytest.mark.parametrize("which", ["conversations", "all", "off"])
async def test_what_a_stop_interrupted_goes_on_by_itself_where_it_is_wanted(start: Start, which: str) -> None:
    async with start(saying(ANSWER, token_delay=0.01), live=True) as quern:
        goes_on = {"x-quern-on-disconnect": "finish"}
        asks = [quern.chat("hi"), quern.client.post("/v1/code/generate", data={"prompt": "hi"}, headers=goes_on)]
        running = [asyncio.ensure_future(ask) for ask in asks]
        while len(quern.engine.requests) < 2 or min(len(t.generated) for t in quern.application.turns.all_active()) < 5:
            await asyncio.sleep(0.001)
        turns = {turn.conversation_id is not None: turn.id for turn in quern.application.turns.all_active()}
    await asyncio.gather(*running, return_exceptions=True)
    async with start(saying(ANSWER), turns={"resume_interrupted": which}) as quern:
        for _ in range(200):
            await asyncio.sleep(0.005)
        states = {kind: (await events(quern, turn_id))[-1][2]["state"] for kind, turn_id in turns.items()}
        assert states[True] == ("interrupted" if which == "off" else "completed")
        assert states[False] == ("completed" if which == "all" else "interrupted")
        if which != "off":
            assert text_of(await events(quern, turns[True])) == ANSWER


async def test_what_can_not_go_on_is_a_conflict_that_says_why(start: Start) -> None:
    async with start(saying("abc", "more")) as quern:
        whole = await turn_of(quern)
        refused = await quern.client.post(f"/v1/turns/{whole}/continue")
        assert (refused.status_code, "whole" in refused.json()["error"]["message"]) == (409, True)
        chatted = await quern.chat("hi", max_tokens="2")
        conversation = chatted.text.partition("\n---\n")[0].removeprefix("conversation_id:")
        await quern.chat("go on", conversation)
        later = await quern.client.post(f"/v1/turns/{chatted.headers['x-quern-turn-id']}/continue")
        assert (later.status_code, "gone on after" in later.json()["error"]["message"]) == (409, True)


async def test_where_nothing_is_kept_nothing_is_told_again(start: Start) -> None:
    async with start(saying("abc"), turns={"resume_hours": 0}) as quern:
        turn_id = await turn_of(quern, max_tokens=2)
        answer = await quern.client.get(f"/v1/turns/{turn_id}/events")
        assert (answer.status_code, "not kept" in answer.json()["error"]["message"]) == (404, True)
        refused = await quern.client.post(f"/v1/turns/{turn_id}/continue")
        assert refused.status_code == 409
        ended = await quern.client.post(f"/v1/turns/{turn_id}/cancel")
        assert (ended.status_code, ended.json()["state"]) == (200, "completed")
        chatted = await quern.chat("hi")
        assert text_of(await events(quern, chatted.headers["x-quern-turn-id"])) == "abc"


async def test_what_was_kept_is_forgotten_in_time(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    async with start(saying("abc"), turns={"resume_hours": 0.0001}) as quern:
        turn_id = await turn_of(quern)
        await asyncio.sleep(0.4)
    async with start(saying("abc")) as quern:
        while (await quern.client.get(f"/v1/turns/{turn_id}/events")).status_code == 200:
            await asyncio.sleep(0.01)
        assert (await quern.client.get(f"/v1/turns/{turn_id}")).json()["state"] == "completed"
