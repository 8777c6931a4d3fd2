"""`Idempotency-Key`: a repeat gets the turns of the first request, whether they run or have ended."""

from __future__ import annotations

import asyncio
import uuid
from typing import Any

import httpx2
import pytest

from quern.engine.base import GenerateRequest
from quern.engine.fake import FakeEngine

from .conftest import Quern, Start, being_admitted
from .engines import saying
from .openai_clients import over, until
from .test_keys import bearer, make
from .test_metrics import value

ANSWER = "def f():\n    return 'ü'  # 排序\n"
HI: dict[str, Any] = {"messages": [{"role": "user", "content": "hi"}]}
REQUESTS: list[tuple[str, dict[str, Any]]] = [
    ("/v1/chat/completions", HI),
    ("/v1/completions", {"prompt": "hi"}),
    ("/v1/completions", {"prompt": ["hi", "ho"]}),
    ("/v1/engines/any/completions", {"prompt": "hi"}),
    ("/v1/fim/completions", {"prompt": "a", "suffix": "b"}),
    ("/v1/responses", {"input": "hi"}),
    ("/v1/messages", {**HI, "max_tokens": 50}),
    ("/api/chat", {"model": "fake", **HI}),
    ("/api/generate", {"model": "fake", "prompt": "hi"}),
    ("/completion", {"prompt": "hi"}),
    ("/infill", {"input_prefix": "a", "input_suffix": "b"}),
]


def key(name: str = "") -> dict[str, str]:
    return {"idempotency-key": name or str(uuid.uuid4())}


def said(answer: httpx2.Response) -> str:
    """An answer without what a clock says."""
    assert answer.status_code == 200, answer.text
    if not answer.url.path.startswith(("/api", "/completion", "/infill")):
        return "\n\n".join(sorted(answer.text.split("\n\n")))  # choices come in any order
    moments = ("created_at", "duration", "timings", "_ms", "per_second", "generation_settings")
    return "".join(part for part in answer.text.split(",") if not any(moment in part for moment in moments))


async def ask(quern: Quern, path: str, body: dict[str, Any], **headers: str) -> httpx2.Response:
    return await quern.client.post(path, json=body, headers=headers)


def generations(quern: Quern) -> int:
    """How many answers were begun: those of one turn that went on count as one."""
    return len([one for one in quern.engine.requests if not one.generated])


@pytest.mark.parametrize(("path", "body"), REQUESTS)
@pytest.mark.parametrize("stream", [False, True])
async def test_a_repeat_gets_the_answer_of_a_turn_that_has_ended(
    start: Start, path: str, body: dict[str, Any], stream: bool
) -> None:
    same = key()
    async with start(saying(ANSWER)) as quern:
        first = await ask(quern, path, {**body, "stream": stream}, **same)
        asked = generations(quern)
        again = await ask(quern, path, {**body, "stream": stream}, **same)
        assert generations(quern) == asked
    async with start(saying("another one")) as restarted:
        later = await ask(restarted, path, {**body, "stream": stream}, **same)
        assert not restarted.engine.requests
    for repeat in (again, later):
        assert said(repeat) == said(first)
        assert repeat.headers["content-type"] == first.headers["content-type"]
        assert repeat.headers["x-quern-turn-id"] == first.headers["x-quern-turn-id"]
        assert repeat.headers["x-quern-adopted"] == first.headers["x-quern-turn-id"]
    assert "x-quern-adopted" not in first.headers


@pytest.mark.parametrize(("path", "body"), REQUESTS)
@pytest.mark.parametrize("stream", [False, True])
async def test_a_repeat_gets_the_answer_of_a_turn_that_runs_from_its_first_event(
    start: Start, path: str, body: dict[str, Any], stream: bool
) -> None:
    same = key()
    async with start(saying(ANSWER, token_delay=0.01)) as quern:
        first = asyncio.ensure_future(ask(quern, path, {**body, "stream": stream}, **same))
        await until(lambda: any(len(turn.generated) > 3 for turn in quern.application.turns.all_active()))
        again = await ask(quern, path, {**body, "stream": stream}, **same)
        assert said(again) == said(await first)
        assert again.headers["x-quern-adopted"] == (await first).headers["x-quern-turn-id"]
        count = len(body["prompt"]) if isinstance(body.get("prompt"), list) else 1
        assert len(quern.engine.requests) == count


@pytest.mark.parametrize(("path", "body"), REQUESTS)
async def test_equal_requests_at_the_same_moment_start_one_turn(start: Start, path: str, body: dict[str, Any]) -> None:
    same = key()
    async with start(saying(ANSWER, token_delay=0.002)) as quern:
        answers = await asyncio.gather(*(ask(quern, path, body, **same) for _ in range(5)))
        assert len({said(answer) for answer in answers}) == 1
        assert len([answer for answer in answers if "x-quern-adopted" in answer.headers]) == 4
        count = len(body["prompt"]) if isinstance(body.get("prompt"), list) else 1
        assert len(quern.engine.requests) == count


@pytest.mark.parametrize("path", ["/v1/code/generate", "/v1/code/chat_stream"])
async def test_the_plain_endpoints_know_keys_too(start: Start, path: str) -> None:
    same = key()
    async with start(saying(ANSWER)) as quern:
        first = await quern.client.post(path, data={"prompt": "hi"}, headers=same)
        again = await quern.client.post(path, data={"prompt": "hi"}, headers=same)
        assert again.text == first.text
        assert ANSWER in (first.text if path.endswith("stream") else first.json()["result"])
        assert len(quern.engine.requests) == 1
        other = await quern.client.post(path, data={"prompt": "ho"}, headers=same)
        assert other.status_code == 422
        assert "Idempotency-Key" in other.json()["detail"]


async def test_a_repeat_is_streamed_or_whole_as_it_asks(start: Start) -> None:
    same = key()
    async with start(saying(ANSWER)) as quern:
        whole = await quern.client.post("/v1/code/generate", data={"prompt": "hi"}, headers=same)
        plain = {**same, "accept": "text/plain"}
        streamed = await quern.client.post("/v1/code/generate", data={"prompt": "hi"}, headers=plain)
        assert streamed.text == whole.json()["result"]
        assert len(quern.engine.requests) == 1


async def test_a_form_with_other_boundaries_is_the_same_form(start: Start) -> None:
    same = key()
    async with start(saying(ANSWER)) as quern:
        answers: list[httpx2.Response] = []
        for boundary in ("one", "a-longer-one"):
            part = 'Content-Disposition: form-data; name="prompt"\r\n\r\nhi'
            body = f"--{boundary}\r\n{part}\r\n--{boundary}--\r\n"
            headers = {**same, "content-type": f"multipart/form-data; boundary={boundary}"}
            answers.append(await quern.client.post("/v1/code/generate", content=body, headers=headers))
        assert answers[0].status_code == 200, answers[0].text
        assert answers[1].text == answers[0].text
        assert len(quern.engine.requests) == 1


@pytest.mark.parametrize("stream", [False, True])
async def test_all_choices_are_the_same(start: Start, stream: bool) -> None:
    same = key()
    async with start(saying("one", "two", "three", "four")) as quern:
        first = await ask(quern, "/v1/chat/completions", {**HI, "n": 3, "stream": stream}, **same)
        again = await ask(quern, "/v1/chat/completions", {**HI, "n": 3, "stream": stream}, **same)
        assert len(quern.engine.requests) == 3
        assert again.headers["x-quern-turn-id"] == first.headers["x-quern-turn-id"]
        if not stream:
            assert again.json() == first.json()


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions"])
async def test_probabilities_are_told_again(start: Start, path: str) -> None:
    same = key()
    asked = {"logprobs": True, "top_logprobs": 2} if "chat" in path else {"logprobs": 2}
    body = {**(HI if "chat" in path else {"prompt": "hi"}), **asked}
    async with start(saying(ANSWER)) as quern:
        first = await ask(quern, path, body, **same)
        assert first.json()["choices"][0]["logprobs"]
        assert (await ask(quern, path, body, **same)).json() == first.json()


async def test_calls_have_the_same_ids_again(start: Start) -> None:
    same = key()
    call = '<tool_call>\n{"name": "look", "arguments": {"at": "here"}}\n</tool_call>'
    tools = [{"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}]
    async with start(saying("I look. " + call)) as quern:
        first = await ask(quern, "/v1/chat/completions", {**HI, "tools": tools}, **same)
        again = await ask(quern, "/v1/chat/completions", {**HI, "tools": tools}, **same)
        assert first.json()["choices"][0]["message"]["tool_calls"]
        assert again.json() == first.json()


@pytest.mark.parametrize(("path", "body"), REQUESTS)
async def test_another_body_under_a_key_is_a_422_with_a_sentence(start: Start, path: str, body: dict[str, Any]) -> None:
    same = key()
    async with start(saying(ANSWER)) as quern:
        await ask(quern, path, body, **same)
        asked = len(quern.engine.requests)
        other = await ask(quern, path, {**body, "temperature": 0.5}, **same)
        assert other.status_code == 422, other.text
        assert "another key" in other.text
        assert len(quern.engine.requests) == asked
        assert (await ask(quern, path, body, **same)).status_code == 200


async def test_another_path_or_conversation_under_a_key_is_another_request(start: Start) -> None:
    same = key()
    async with start(saying(ANSWER)) as quern:
        body = {**HI, "max_tokens": 50}
        assert (await ask(quern, "/v1/chat/completions", body, **same)).status_code == 200
        assert (await ask(quern, "/v1/messages", body, **same)).status_code == 422
        elsewhere = {"x-quern-conversation": await quern.begin()}
        assert (await ask(quern, "/v1/chat/completions", body, **same, **elsewhere)).status_code == 422


async def test_keys_are_each_owners_own(start: Start) -> None:
    async with start(saying(ANSWER)) as quern:
        ann, bob = bearer(await make(quern, "ann", role="admin")), bearer(await make(quern, "bob"))
        same = key()
        first = await ask(quern, "/v1/chat/completions", HI, **same, **ann)
        other = await ask(quern, "/v1/chat/completions", {**HI, "seed": 1}, **same, **bob)
        assert first.status_code == other.status_code == 200
        assert "x-quern-adopted" not in other.headers


@pytest.mark.parametrize("name", ["", " ", "a" * 256, "tab\there", "a\x7f"])
async def test_what_is_no_key_is_refused_with_a_sentence(quern: Quern, name: str) -> None:
    for path, status in (("/v1/chat/completions", 400), ("/v1/messages", 400), ("/api/chat", 400)):
        body = {"model": "fake", **HI, "max_tokens": 5}
        answer = await quern.client.post(path, json=body, headers=[("idempotency-key", name)])
        assert answer.status_code == status
        assert "Idempotency-Key takes one key of 1 to 255 printable characters" in answer.text
    plain = await quern.client.post("/v1/code/generate", data={"prompt": "x"}, headers=[("idempotency-key", name)])
    assert plain.status_code == 422
    assert not quern.engine.requests


async def test_two_keys_are_no_key(quern: Quern) -> None:
    headers = [("idempotency-key", "one"), ("idempotency-key", "two")]
    answer = await quern.client.post("/v1/chat/completions", json=HI, headers=headers)
    assert answer.status_code == 400


@pytest.mark.parametrize("name", ["a", "a" * 255, '"8e03978e-40d5-43dd-bc93-6894a57f9324"', "cl\xe9 1"])
async def test_keys_are_any_printable_characters(quern: Quern, name: str) -> None:
    headers = [(b"idempotency-key", name.encode("latin-1"))]
    first = await quern.client.post("/v1/chat/completions", json=HI, headers=headers)
    again = await quern.client.post("/v1/chat/completions", json=HI, headers=headers)
    assert again.headers["x-quern-adopted"] == first.headers["x-quern-turn-id"]


async def test_what_was_refused_leaves_no_key(start: Start) -> None:
    same = key()
    engine = saying(ANSWER, parallel=1, token_delay=0.01)
    async with start(engine, turns={"max_queued": 0}) as quern:
        unusable = await ask(quern, "/v1/chat/completions", {**HI, "temperature": 99}, **same)
        assert unusable.status_code == 400
        runs = asyncio.ensure_future(ask(quern, "/v1/chat/completions", HI))
        await until(lambda: quern.application.turns.active)
        full = await ask(quern, "/v1/chat/completions", {**HI, "seed": 1}, **same)
        assert full.status_code == 503
        await runs
        retried = await ask(quern, "/v1/chat/completions", {**HI, "seed": 2}, **same)
        assert retried.status_code == 200
        assert "x-quern-adopted" not in retried.headers


async def test_what_was_refused_in_part_leaves_no_key(start: Start) -> None:
    same = key()
    async with start(saying(ANSWER, parallel=1, token_delay=0.005), turns={"max_queued": 1}) as quern:
        refused = await ask(quern, "/v1/chat/completions", {**HI, "n": 4}, **same)
        assert refused.status_code == 503
        await over(quern)
        fewer = await ask(quern, "/v1/chat/completions", {**HI, "n": 2}, **same)
        assert fewer.status_code == 200, fewer.text
        assert "x-quern-adopted" not in fewer.headers


async def test_a_turn_that_failed_goes_on_for_a_repeat_where_it_stopped(start: Start) -> None:
    same = key()
    async with start(saying(ANSWER, fail_after=9)) as quern:
        failed = await ask(quern, "/v1/chat/completions", HI, **same)
        assert failed.status_code == 500
        again = await ask(quern, "/v1/chat/completions", HI, **same)
        assert again.status_code == 500, "the engine fails again"
    async with start(saying(ANSWER)) as quern:
        answer = await ask(quern, "/v1/chat/completions", HI, **same)
        assert answer.json()["choices"][0]["message"]["content"] == ANSWER
        assert answer.headers["x-quern-turn-id"] == failed.headers["x-quern-turn-id"]
        assert quern.engine.requests[-1].generated
        assert (await ask(quern, "/v1/chat/completions", HI, **same)).json() == answer.json()
        assert len(quern.engine.requests) == 1


async def test_a_turn_that_a_stop_interrupted_goes_on_for_a_repeat(start: Start) -> None:
    same = key()
    async with start(saying(ANSWER, token_delay=0.01)) as quern:
        asked = asyncio.ensure_future(ask(quern, "/v1/messages", {**HI, "max_tokens": 50}, **same))
        await until(lambda: any(len(turn.generated) > 3 for turn in quern.application.turns.all_active()))
        quern.application.interrupt()
        first = await asked
        assert first.status_code == 500
    async with start(saying(ANSWER)) as quern:
        answer = await ask(quern, "/v1/messages", {**HI, "max_tokens": 50}, **same)
        assert answer.json()["content"][0]["text"] == ANSWER
        assert answer.headers["x-quern-turn-id"] == first.headers["x-quern-turn-id"]


async def test_a_turn_that_was_cancelled_on_purpose_stays_cancelled(start: Start) -> None:
    same = key()
    async with start(saying(ANSWER, token_delay=0.01)) as quern:
        asked = asyncio.ensure_future(ask(quern, "/v1/chat/completions", HI, **same))
        await until(lambda: quern.application.turns.active)
        (turn,) = quern.application.turns.all_active()
        await quern.client.post(f"/v1/turns/{turn.id}/cancel")
        first = await asked
        again = await ask(quern, "/v1/chat/completions", HI, **same)
        assert again.status_code == first.status_code == 500
        assert again.json()["error"]["message"] == first.json()["error"]["message"]
        assert len(quern.engine.requests) == 1


@pytest.mark.parametrize("stream", [False, True])
async def test_ended_turns_are_told_where_nothing_else_is_kept(start: Start, stream: bool) -> None:
    same, body = key(), {**HI, "stream": stream}
    async with start(saying(ANSWER), turns={"resume_hours": 0}) as quern:
        first = await ask(quern, "/v1/chat/completions", body, **same)
        assert (await ask(quern, "/v1/chat/completions", body, **same)).text == first.text
    async with start(saying("another"), turns={"resume_hours": 0}) as quern:
        assert (await ask(quern, "/v1/chat/completions", body, **same)).text == first.text
        unkeyed = await ask(quern, "/v1/chat/completions", body)
        told = await quern.client.get(f"/v1/turns/{unkeyed.headers['x-quern-turn-id']}/events")
        assert told.status_code == 404


async def test_a_failed_turn_of_which_nothing_is_kept_is_begun_anew(start: Start) -> None:
    same = key()
    async with start(saying(ANSWER, fail_after=9), turns={"resume_hours": 0}) as quern:
        assert (await ask(quern, "/v1/chat/completions", HI, **same)).status_code == 500
    async with start(saying(ANSWER), turns={"resume_hours": 0}) as quern:
        answer = await ask(quern, "/v1/chat/completions", HI, **same)
        assert answer.json()["choices"][0]["message"]["content"] == ANSWER
        assert (await ask(quern, "/v1/chat/completions", HI, **same)).json() == answer.json()
        assert len(quern.engine.requests) == 1


async def test_keys_are_forgotten_after_their_time_and_not_looked_at_without_any(start: Start) -> None:
    same = key()
    async with start(saying(ANSWER), turns={"idempotency_hours": 1e-6}) as quern:
        await ask(quern, "/v1/chat/completions", HI, **same)
        await asyncio.sleep(0.01)
        later = await ask(quern, "/v1/chat/completions", {**HI, "seed": 3}, **same)
        assert later.status_code == 200
        assert "x-quern-adopted" not in later.headers
    async with start(saying(ANSWER), turns={"idempotency_hours": 0}) as quern:
        for _ in range(2):
            await ask(quern, "/v1/chat/completions", HI, **same)
        assert len(quern.engine.requests) == 2


async def test_a_turn_is_kept_as_long_as_its_key(start: Start) -> None:
    same = key()
    async with start(saying(ANSWER), turns={"resume_hours": 1e-6}) as quern:
        first = await ask(quern, "/v1/chat/completions", HI, **same)
    async with start(saying("another"), turns={"resume_hours": 1e-6}) as quern:  # forgets what is old
        await asyncio.sleep(0.05)
        assert (await ask(quern, "/v1/chat/completions", HI, **same)).json() == first.json()


async def test_a_repeat_in_a_conversation_says_nothing_twice(start: Start) -> None:
    async with start(saying("one", "two"), live=True) as quern:
        conversation = await quern.begin()
        headers, form = key(), {"prompt": "go on", "conversation_id": conversation}
        answers = [await quern.client.post("/v1/code/chat_stream", data=form, headers=headers) for _ in range(3)]
        assert [answer.text for answer in answers] == ["two"] * 3
        kept = (await quern.client.get(f"/v1/conversations/{conversation}")).json()
        assert len(kept["messages"]) == 4


async def test_a_repeat_while_a_conversations_turn_is_being_admitted_is_not_refused_as_busy(start: Start) -> None:
    async with start(saying("one", "two")) as quern:
        conversation = await quern.begin()
        headers, form = key(), {"prompt": "go on", "conversation_id": conversation}
        async with being_admitted(quern, "go on", conversation) as unkeyed:
            busy = asyncio.ensure_future(quern.client.post("/v1/code/chat_stream", data=form, headers=headers))
            assert (await busy).status_code == 409
        assert (await unkeyed).text == "two"
        retried = await quern.client.post("/v1/code/chat_stream", data=form, headers=headers)
        assert retried.status_code == 200


async def test_a_repeat_after_its_conversation_was_deleted_is_a_request_of_its_own(start: Start) -> None:
    headers = key()
    async with start(saying("one", "two")) as quern:
        first = await quern.client.post("/v1/code/chat_stream", data={"prompt": "hi"}, headers=headers)
        conversation = first.text.partition("\n---\n")[0].removeprefix("conversation_id:")
        await quern.client.delete(f"/v1/conversations/{conversation}")
        again = await quern.client.post("/v1/code/chat_stream", data={"prompt": "hi"}, headers=headers)
        assert again.status_code == 200
        assert again.text.endswith("two")


async def test_a_background_response_is_started_once(start: Start) -> None:
    same, body = key(), {"input": "hi", "background": True}
    async with start(saying(ANSWER)) as quern:
        ids = {(await ask(quern, "/v1/responses", body, **same)).json()["id"] for _ in range(3)}
        await over(quern)
        assert len(ids) == len(quern.engine.requests) == 1


async def test_a_repeat_costs_no_tokens_and_is_counted(start: Start) -> None:
    same = key()
    async with start(saying(ANSWER)) as quern:
        for _ in range(3):
            await ask(quern, "/v1/chat/completions", HI, **same)
        assert await value(quern, "quern_attached_retries_total", by="key") == 2
        assert await value(quern, "quern_attached_retries_total", by="connection") == 0
        assert await value(quern, "quern_generation_tokens_total", key="anonymous") == len(ANSWER.encode())
        usage = (await quern.client.get("/v1/usage")).json()
        assert "'requests': 1," in str(usage)


async def test_a_repeat_is_a_request_for_the_limit_of_requests(start: Start) -> None:
    same = key()
    async with start(saying(ANSWER), limits={"requests_per_minute": 2}) as quern:
        answers = [await ask(quern, "/v1/chat/completions", HI, **same) for _ in range(3)]
        assert [answer.status_code for answer in answers] == [200, 200, 429]


async def test_an_answer_that_a_stop_text_ended_says_so_again(start: Start) -> None:
    same, body = key(), {**HI, "max_tokens": 50, "stop_sequences": ["return"]}
    async with start(saying(ANSWER)) as quern:
        first = await ask(quern, "/v1/messages", body, **same)
        assert first.json()["stop_reason"] == "stop_sequence"
        assert (await ask(quern, "/v1/messages", body, **same)).json() == first.json()


async def test_a_turn_that_its_length_ended_is_told_again_as_it_was(start: Start) -> None:
    same, body = key(), {**HI, "max_tokens": 5}
    async with start(saying(ANSWER)) as quern:
        first = await ask(quern, "/v1/chat/completions", body, **same)
        assert first.json()["choices"][0]["finish_reason"] == "length"
        assert (await ask(quern, "/v1/chat/completions", body, **same)).json() == first.json()
        assert len(quern.engine.requests) == 1


async def test_different_keys_are_different_requests(start: Start) -> None:
    def reply(_request: GenerateRequest) -> bytes:
        return b"an answer"

    async with start(FakeEngine(reply=reply)) as quern:
        for _ in range(2):
            await ask(quern, "/v1/chat/completions", HI, **key())
        assert len(quern.engine.requests) == 2
