"""Responses as streams: exact transcripts, and the same events again whenever and wherever they are read."""

from __future__ import annotations

import asyncio
import sqlite3
from contextlib import closing
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

import httpx2
import openai
import pytest
from hypothesis import given
from hypothesis import strategies as st

from quern.api.openai.items import turn_id_of
from quern.api.openai.response_events import ResponseEvents, whole_response
from quern.api.openai.response_object import ResponseHead
from quern.api.shared import sse
from quern.events import Prefill, Queued, TurnEnded, TurnEvent
from quern.prompt.codec import TextCodec
from quern.turns.answer import Answer
from quern.turns.decoder import OutputParser
from quern.turns.preparation import call_parser
from quern.turns.request import ToolUse
from quern.types import FinishReason, Message, Timings, Tool, TurnState, Usage

from .conftest import Quern, Start
from .engines import saying
from .openai_clients import (
    WEATHER,
    call_text,
    error_of,
    events_of,
    official,
    output_text,
    respond,
    responded,
    writing,
)


async def _streamed(quern: Quern, response_id: str, after: int | None = None) -> list[dict[str, Any]]:
    query = {"stream": "true", **({"starting_after": str(after)} if after is not None else {})}
    return events_of(await quern.client.get(f"/v1/responses/{response_id}", params=query))


def _without_response(event: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in event.items() if name != "response"}


async def test_a_text_streams_as_documented(start: Start) -> None:
    async with start(saying("你好")) as quern:
        events = events_of(await respond(quern, stream=True))
    first, last = events[0]["response"], events[-1]["response"]
    item_id = last["output"][0]["id"]
    assert item_id.startswith("msg_")
    place = {"item_id": item_id, "output_index": 0, "content_index": 0}
    empty: dict[str, Any] = {"type": "output_text", "text": "", "annotations": [], "logprobs": []}
    item: dict[str, Any] = {
        "id": item_id,
        "status": "in_progress",
        "type": "message",
        "role": "assistant",
        "content": [],
    }
    full = {**empty, "text": "你好"}
    done = {**item, "status": "completed", "content": [full]}
    assert [_without_response(event) for event in events] == [
        {"type": "response.created", "sequence_number": 0},
        {"type": "response.in_progress", "sequence_number": 1},
        {"type": "response.output_item.added", "sequence_number": 2, "output_index": 0, "item": item},
        {"type": "response.content_part.added", "sequence_number": 3, **place, "part": empty},
        {"type": "response.output_text.delta", "sequence_number": 4, **place, "delta": "你", "logprobs": []},
        {"type": "response.output_text.delta", "sequence_number": 5, **place, "delta": "好", "logprobs": []},
        {"type": "response.output_text.done", "sequence_number": 6, **place, "text": "你好", "logprobs": []},
        {"type": "response.content_part.done", "sequence_number": 7, **place, "part": full},
        {"type": "response.output_item.done", "sequence_number": 8, "output_index": 0, "item": done},
        {"type": "response.completed", "sequence_number": 9},
    ]
    assert events[1]["response"] == first
    assert (first["status"], first["output"], first["usage"], first["completed_at"]) == ("in_progress", [], None, None)
    assert (last["status"], last["output"]) == ("completed", [done])
    assert {**last, "status": "", "output": [], "usage": None, "completed_at": None} == {**first, "status": ""}


async def test_silence_is_filled_with_events_that_take_no_number(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sse, "KEEP_ALIVE_SECONDS", 0.005)
    async with start(saying("ab", token_delay=0.05)) as quern:
        events = events_of(await respond(quern, stream=True))
    silent = [event for event in events if event["type"] == "keepalive"]
    assert len(silent) > 1
    assert all(set(event) == {"type", "sequence_number"} for event in silent)
    told = [event["sequence_number"] for event in events if event not in silent]
    assert told == list(range(len(told)))
    assert all(last["sequence_number"] <= event["sequence_number"] for last, event in pairwise(events))


async def test_openais_library_goes_on_over_silence(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sse, "KEEP_ALIVE_SECONDS", 0.005)
    async with start(saying("ab", token_delay=0.05), live=True) as quern:
        url = str(quern.client.base_url).rstrip("/")
        async with (
            openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="unused", max_retries=0) as client,
            client.responses.stream(model="fake", input="hi") as stream,
        ):
            kinds = [str(event.type) async for event in stream]
            response = await stream.get_final_response()
    assert "keepalive" in kinds
    assert response.output_text == "ab"


async def test_text_and_calls_stream_as_documented(start: Start) -> None:
    said = "Hm." + call_text("Ulm") + "\n" + call_text("Linz")
    async with start(saying(said)) as quern:
        events = events_of(await respond(quern, stream=True, tools=[WEATHER]))
        body = (await quern.client.get(f"/v1/responses/{events[0]['response']['id']}")).json()
    assert body == events[-1]["response"]
    message, first, second = body["output"]
    assert output_text(body) == "Hm."
    assert first["call_id"] != second["call_id"]
    for index, (call, city) in enumerate([(first, "Ulm"), (second, "Linz")], 1):
        place = {"item_id": call["id"], "output_index": index}
        arguments = f'{{"city": "{city}"}}'
        whole = {"type": "function_call", "call_id": call["call_id"], "name": "weather", "arguments": arguments}
        assert call == {"id": call["id"], "status": "completed", **whole}
        mine = [_without_response(event) for event in events if event.get("output_index") == index]
        opening, *deltas, done, closing_event = mine
        blank = {**call, "status": "in_progress", "arguments": ""}
        assert opening.items() >= {"type": "response.output_item.added", "output_index": index}.items()
        assert opening["item"] == blank
        assert {(event["type"], event["item_id"]) for event in deltas} == {
            ("response.function_call_arguments.delta", call["id"])
        }
        assert "".join(event["delta"] for event in deltas) == arguments
        assert done.items() >= {"type": "response.function_call_arguments.done", **place}.items()
        assert (done["name"], done["arguments"]) == ("weather", arguments)
        assert closing_event.items() >= {"type": "response.output_item.done", "output_index": index}.items()
        assert closing_event["item"] == call
    places = [event["output_index"] for event in events if "output_index" in event]
    assert places == sorted(places)
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    assert message["status"] == "completed"


async def test_in_the_background_a_stream_says_first_that_it_is_queued(start: Start) -> None:
    async with start(saying("x"), live=True) as quern, official(quern) as client:
        stream = await client.responses.create(model="fake", input="hi", stream=True, background=True)
        events = [event async for event in stream]
        kinds = [event.type for event in events]
        assert kinds[:4] == [
            "response.created",
            "response.queued",
            "response.in_progress",
            "response.output_item.added",
        ]
        responses: list[Any] = [event for event in events if hasattr(event, "response")]
        statuses = [event.response.status for event in responses]
        assert statuses == ["queued", "queued", "in_progress", "completed"]
        created = events[0]
        assert created.type == "response.created"
        again = await client.responses.retrieve(created.response.id, stream=True)
        assert [event async for event in again] == events
        helper: Any = client.responses.stream(response_id=created.response.id, starting_after=4)
        async with helper as following:
            seen = [event async for event in following]
            final = await following.get_final_response()
        assert [event.sequence_number for event in seen] == list(range(5, len(events)))
        assert final.output_text == "x"


async def test_an_empty_answer_is_an_empty_message(start: Start) -> None:
    async with start(saying("")) as quern:
        events = events_of(await respond(quern, stream=True))
    assert [event["type"].removeprefix("response.") for event in events] == [
        "created",
        "in_progress",
        "output_item.added",
        "content_part.added",
        "output_text.done",
        "content_part.done",
        "output_item.done",
        "completed",
    ]
    assert events[-1]["response"]["output"][0]["content"][0]["text"] == ""


async def test_how_it_ended_is_the_last_event(start: Start) -> None:
    async with start(saying("x" * 60, token_delay=0.01)) as quern:
        limited = events_of(await respond(quern, stream=True, max_output_tokens=2))
        streaming = asyncio.ensure_future(respond(quern, stream=True))
        await quern.client.post(f"/v1/responses/{await writing(quern)}/cancel")
        cancelled = events_of(await streaming)
        quern.engine.fail_after = 2
        failed = events_of(await respond(quern, stream=True))
    ends = [(events[-1]["type"], events[-1]["response"]["status"]) for events in (limited, cancelled, failed)]
    assert ends == [
        ("response.incomplete", "incomplete"),
        ("response.incomplete", "cancelled"),
        ("response.failed", "failed"),
    ]
    for events in (limited, cancelled, failed):
        assert events[-2]["item"]["status"] == "incomplete"
        assert output_text(events[-1]["response"]) == "".join(event.get("delta", "") for event in events)


@pytest.mark.parametrize("said", ["Some text. " + call_text("Ulm") + call_text("Linz"), "text", ""])
async def test_events_read_again_are_the_same_and_starting_after_gives_the_tail(start: Start, said: str) -> None:
    async with start(saying(said)) as quern:
        live = events_of(await respond(quern, stream=True, background=True, tools=[WEATHER]))
        response_id = live[0]["response"]["id"]
        assert await _streamed(quern, response_id) == live
    async with start() as quern:
        assert await _streamed(quern, response_id) == live
        for number in range(len(live) - 1):
            assert await _streamed(quern, response_id, number) == live[number + 1 :]


async def test_the_last_event_comes_in_any_case(start: Start) -> None:
    async with start(saying("x")) as quern:
        live = events_of(await respond(quern, stream=True, background=True))
        for number in (len(live) - 1, len(live) + 5):
            assert await _streamed(quern, live[0]["response"]["id"], number) == live[-1:]


async def test_a_reader_that_lost_its_connection_picks_up_where_it_was(start: Start) -> None:
    async with start(saying("0123456789" * 6, token_delay=0.01), live=True) as quern, official(quern) as client:
        stream = await client.responses.create(model="fake", input="hi", stream=True, background=True)
        seen = [await anext(stream) for _ in range(12)]
        await stream.close()
        created = seen[0]
        assert created.type == "response.created"
        rest = await client.responses.retrieve(created.response.id, stream=True, starting_after=11)
        events = [*seen, *[event async for event in rest]]
        assert [event.sequence_number for event in events] == list(range(len(events)))
        deltas = [event.delta for event in events if event.type == "response.output_text.delta"]
        assert "".join(deltas) == "0123456789" * 6


async def test_a_long_wait_in_the_queue_changes_no_number(start: Start) -> None:
    async with start(saying("x" * 20, parallel=1, token_delay=0.01)) as quern:
        first, second = await asyncio.gather(*[respond(quern, stream=True, background=True) for _ in range(2)])
        for answer in (first, second):
            live = events_of(answer)
            assert await _streamed(quern, live[0]["response"]["id"]) == live


def _copy(database: Path, folder: Path) -> None:
    """What a server that dies now leaves behind."""
    folder.mkdir()
    with closing(sqlite3.connect(database)) as source, closing(sqlite3.connect(folder / database.name)) as target:
        source.backup(target)


def _journal(database: Path, turn_id: str) -> str:
    """The text of an unfinished turn, as far as it is saved."""
    with closing(sqlite3.connect(database)) as connection:
        rows = connection.execute("SELECT text FROM turn_events WHERE turn_id = ? ORDER BY number", (turn_id,))
        return "".join(text for (text,) in rows)


@pytest.mark.parametrize("background", [True, False])
async def test_a_server_that_died_leaves_a_failed_response_with_the_text_so_far(
    start: Start, tmp_path: Path, background: bool
) -> None:
    after_the_crash = tmp_path / "copy"
    async with start(saying("x" * 3000, token_delay=0.005), turns={"save_interval_ms": 10}) as quern:
        streaming = asyncio.ensure_future(respond(quern, stream=True, background=background))
        response_id = await writing(quern)
        while len(await asyncio.to_thread(_journal, tmp_path / "quern.db", turn_id_of(response_id))) < 5:
            await asyncio.sleep(0.01)
        await asyncio.to_thread(_copy, tmp_path / "quern.db", after_the_crash)
        await quern.client.post(f"/v1/responses/{response_id}/cancel")
        live = events_of(await streaming)
    async with start(data_dir=after_the_crash) as quern:
        body = (await quern.client.get(f"/v1/responses/{response_id}")).json()
        assert body["status"] == "failed"
        assert body["error"]["code"] == "server_error"
        assert "The server stopped while" in body["error"]["message"]
        assert output_text(body).startswith("xx")
        assert body["usage"] is None
        if not background:
            answer = await quern.client.get(f"/v1/responses/{response_id}", params={"stream": "true"})
            assert error_of(answer, 400)[0] == "stream"
            return
        events = await _streamed(quern, response_id)
        shared = len(events) - 4
        assert events[:shared] == live[:shared]
        assert "".join(event.get("delta", "") for event in events) == output_text(body)
        assert (events[-1]["type"], events[-1]["response"]) == ("response.failed", body)
        assert await _streamed(quern, response_id, len(live)) == events[-1:], "also who saw more learns how it ended"


async def test_a_stopped_server_leaves_the_same_events_as_it_sent(start: Start) -> None:
    async with start(saying("x" * 3000, token_delay=0.005)) as quern:
        streaming: asyncio.Task[httpx2.Response] = asyncio.ensure_future(respond(quern, stream=True, background=True))
        response_id = await writing(quern)
        quern.application.turns.interrupt()
        live = events_of(await streaming)
    assert live[-1]["response"]["status"] == "failed"
    async with start() as quern:
        assert await _streamed(quern, response_id) == live


async def test_an_answer_that_could_not_be_told_apart_from_a_whole_one_is_none(start: Start) -> None:
    """A call that the limit cut off is not to be run."""
    async with start(saying(call_text("Ulm"))) as quern:
        body = await responded(quern, tools=[WEATHER], max_output_tokens=55)
    (call,) = body["output"]
    assert (body["status"], call["status"]) == ("incomplete", "incomplete")


HEAD = ResponseHead(
    "7b1c5a90-2f6e-4c39-8f55-0d3f8f2b6a11", datetime(2026, 5, 1, tzinfo=UTC), "m", None, None, True, {"tools": []}
)
TOOLS = ToolUse((Tool("weather", "", {"type": "object", "properties": {"city": {"type": "string"}}}),))
PROMPT = TextCodec.builtin()

prose = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"), max_size=12)
calls = st.text('abc"\\{}<>/北 \n', max_size=8).map(call_text)
answers = st.lists(prose | calls | st.sampled_from(["<tool_call>", "\n", "</tool_call>", "{"]), max_size=5).map("".join)
ends = st.sampled_from(
    [
        TurnEnded(TurnState.COMPLETED, FinishReason.STOP, None, Usage(5, 2, 3), Timings(1, 2, 3)),
        TurnEnded(TurnState.COMPLETED, FinishReason.LENGTH, None, Usage(5, 2, 3)),
        TurnEnded(TurnState.CANCELLED, None, "gone"),
        TurnEnded(TurnState.FAILED, None, "broken"),
        TurnEnded(TurnState.INTERRUPTED, None, "stopped"),
    ]
)


def _split(text: str, cuts: list[int]) -> list[str]:
    places = [0, *sorted({cut % (len(text) + 1) for cut in cuts}), len(text)]
    return [piece for a, b in pairwise(places) if (piece := text[a:b])]


def _events(pieces: list[str], end: TurnEnded, noise: list[TurnEvent]) -> list[TurnEvent]:
    parser = OutputParser(call_parser(PROMPT, TOOLS, HEAD.turn_id))
    events: list[TurnEvent] = list(noise)
    for piece in pieces:
        events += [*parser.push(piece), *noise]
    return [*events, *parser.finish(), end]


def _told(events: list[TurnEvent]) -> list[dict[str, Any]]:
    told = ResponseEvents(HEAD)
    return [*told.begin(), *[event for item in events for event in told.take(item)]]


@given(answers, st.lists(st.integers(0, 1000), max_size=12), ends)
def test_the_queue_and_the_prefill_leave_no_trace_in_the_events(text: str, cuts: list[int], end: TurnEnded) -> None:
    pieces = _split(text, cuts)
    live = _told(_events(pieces, end, [Queued(3), Prefill(1, 2, 0)]))
    assert live == _told(_events(pieces, end, []))
    assert [event["sequence_number"] for event in live] == list(range(len(live)))


@given(answers, st.lists(st.integers(0, 1000), max_size=12), ends)
def test_however_an_answer_is_split_it_ends_as_the_same_response(text: str, cuts: list[int], end: TurnEnded) -> None:
    pieces = _split(text, cuts)
    events = _events(pieces, end, [])
    live, whole = _told(events), _told(_events([text] if text else [], end, []))
    assert live[-1]["response"] == whole[-1]["response"] == whole_response(HEAD, events)
    output = live[-1]["response"]["output"]
    for index, item in enumerate(output):
        mine = [event for event in live if event.get("output_index") == index]
        said = "".join(event.get("delta", "") for event in mine)
        assert said == (item["content"][0]["text"] if item["type"] == "message" else item["arguments"])
        assert (mine[0]["type"], mine[-1]["type"]) == ("response.output_item.added", "response.output_item.done")
        assert mine[-1]["item"] == item
    if end.state is TurnState.COMPLETED:
        stored = {item.id.replace("-", ""): item.item for item in Answer(events).new_items(HEAD.turn_id)}
        ids = {item["id"].partition("_")[2]: item for item in output}
        cut = {name for name, item in ids.items() if (item["type"], item["status"]) == ("function_call", "incomplete")}
        assert not cut & stored.keys(), "a call that is not whole is not kept as one"
        assert [name for name in stored if name in ids] == [name for name in ids if name not in cut]
        assert all(isinstance(item, Message) for name, item in stored.items() if name not in ids), "but its text is"
