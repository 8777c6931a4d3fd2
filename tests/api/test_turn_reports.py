"""`GET /v1/turns/{id}`: where a turn's time went, and why."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import httpx2
import pytest

from quern.engine.fake import FakeEngine
from quern.prompt.codec import TextCodec

from .conftest import Quern, Start
from .engines import saying
from .test_keys import bearer, make

SYSTEM = {"role": "system", "content": "You write code and nothing else, in the style of this house. " * 3}


def tool(name: str) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, "parameters": {"type": "object", "properties": {}}}}


LOOK, FIND = tool("look"), tool("find")


@pytest.fixture
async def quern(start: Start) -> AsyncIterator[Quern]:
    """With one sequence at a time, so that each prompt finds the one before it in the cache."""
    async with start(FakeEngine(parallel=1, vocabulary_size=TextCodec.builtin().vocabulary_size)) as running:
        yield running


def user(text: str) -> dict[str, Any]:
    return {"role": "user", "content": text}


async def chat(quern: Quern, *messages: dict[str, Any], headers: dict[str, str] | None = None, **fields: Any) -> str:
    """The id of the answer."""
    body = {"messages": list(messages), "max_tokens": 11, **fields}
    answer = await quern.client.post("/v1/chat/completions", json=body, headers=headers or {})
    assert answer.status_code == 200, answer.text
    return str(answer.json()["id"])


async def report(quern: Quern, turn_id: str, headers: dict[str, str] | None = None) -> dict[str, Any]:
    answer = await quern.client.get(f"/v1/turns/{turn_id}", headers=headers or {})
    assert answer.status_code == 200, answer.text
    return answer.json()


async def first_unknown(quern: Quern, turn_id: str) -> dict[str, Any]:
    found: dict[str, Any] = (await report(quern, turn_id))["why"]["prefill"]["first_unknown"]
    return found


async def test_a_turn_tells_its_state_usage_and_timings(quern: Quern) -> None:
    turn = await report(quern, await chat(quern, user("hello")))
    assert (turn["object"], turn["state"], turn["finish_reason"]) == ("turn", "completed", "length")
    assert turn["usage"]["completion_tokens"] == 11
    assert turn["why"]["prefill"]["computed_tokens"] == turn["usage"]["prompt_tokens"]
    assert turn["why"]["decode"]["tokens"] == 11
    assert turn["why"]["queued"]["behind"] is None
    assert turn["why"]["neighbours"]["mean_running"] == pytest.approx(1)
    assert turn["priority"] == "normal"


@pytest.mark.parametrize(
    ("path", "body", "field"),
    [
        ("/v1/chat/completions", {"messages": [user("hi")]}, "id"),
        ("/v1/completions", {"prompt": "hi"}, "id"),
        ("/v1/fim/completions", {"prompt": "hi", "suffix": "x"}, "id"),
        ("/v1/messages", {"messages": [user("hi")], "max_tokens": 5}, "id"),
        ("/v1/responses", {"input": "hi"}, "id"),
    ],
)
async def test_the_id_of_an_answer_names_its_turn_in_every_dialect(
    quern: Quern, path: str, body: dict[str, Any], field: str
) -> None:
    answer = await quern.client.post(path, json=body)
    assert answer.status_code == 200, answer.text
    assert (await report(quern, answer.json()[field]))["state"] == "completed"


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/api/chat", {"messages": [user("hi")], "stream": False}),
        ("/infill", {"input_prefix": "a", "input_suffix": "b"}),
        ("/v1/chat/completions", {"messages": [user("hi")], "stream": True}),
    ],
)
async def test_the_request_id_of_an_answer_names_its_turn_too(quern: Quern, path: str, body: dict[str, Any]) -> None:
    for given in ({}, {"x-request-id": "my-own-id"}):
        answer = await quern.client.post(path, json=body, headers=given)
        turn = await report(quern, answer.headers["x-request-id"])
        assert turn["request_id"] == answer.headers["x-request-id"]


async def test_the_first_prompt_of_all_is_new_from_its_beginning(quern: Quern) -> None:
    found = await first_unknown(quern, await chat(quern, user("hello there")))
    assert (found["token"], found["reason"], found["most_alike"]) == (0, "new", None)


async def test_a_changed_word_in_a_message_is_found_by_message_field_and_text(quern: Quern) -> None:
    earlier = await chat(quern, SYSTEM, user("Sort a list, please. It is Monday."), user("Go."))
    later = await chat(quern, SYSTEM, user("Sort a list, please. It is Tuesday."), user("Go."))
    found = await first_unknown(quern, later)
    assert (found["reason"], found["from"], found["field"]) == ("changed", "request", "content")
    assert (found["message"], found["index"], found["role"]) == (1, 1, "user")
    assert found["excerpt"].startswith("Tuesday.")
    assert found["most_alike"]["turn"] == earlier.removeprefix("chatcmpl-")
    assert found["most_alike"]["tokens"] == found["token"]


@pytest.mark.parametrize("changed", range(6))
async def test_whichever_message_changes_is_the_one_that_is_named(quern: Quern, changed: int) -> None:
    roles = ["system", "user", "assistant", "user", "assistant", "user"]
    messages = [{"role": role, "content": f"message {number} of a chat"} for number, role in enumerate(roles)]
    await chat(quern, *messages)
    messages[changed] = {"role": roles[changed], "content": f"message {changed} is another one"}
    found = await first_unknown(quern, await chat(quern, *messages))
    assert (found["message"], found["role"], found["reason"]) == (changed, roles[changed], "changed")


async def test_a_date_in_the_system_message_is_found(quern: Quern) -> None:
    for day in ("2027-01-01", "2027-01-02"):
        last = await chat(quern, {"role": "system", "content": f"Today is {day}. Be brief."}, user("hello"))
    found = await first_unknown(quern, last)
    assert (found["message"], found["role"], found["excerpt"][:4]) == (0, "system", "2. B")


async def test_a_conversation_that_goes_on_has_only_its_new_message_to_compute(start: Start) -> None:
    async with start(saying("The answer.", parallel=1)) as quern:
        await chat(quern, SYSTEM, user("A question?"))
        answered = {"role": "assistant", "content": "The answer."}
        found = await first_unknown(quern, await chat(quern, SYSTEM, user("A question?"), answered, user("Another?")))
    assert (found["reason"], found["message"], found["role"]) == ("added", 3, "user")


async def test_what_the_cache_gave_away_is_told_and_where_the_prompts_part(start: Start) -> None:
    async with start() as quern:  # its sequences rather keep what they have than share a beginning
        await chat(quern, SYSTEM, user("one " * 200))
        found = await first_unknown(quern, await chat(quern, SYSTEM, user("two " * 200)))
    assert (found["token"], found["reason"], found["message"]) == (0, "no_longer_cached", 0)
    parts = found["most_alike"]["parts"]
    assert (parts["message"], parts["role"], parts["field"]) == (1, "user", "content")


async def test_an_answer_that_is_sent_back_otherwise_is_found(start: Start) -> None:
    async with start(saying("The answer.", parallel=1)) as quern:
        await chat(quern, SYSTEM, user("A question?"))
        mended = {"role": "assistant", "content": "The Answer."}
        found = await first_unknown(quern, await chat(quern, SYSTEM, user("A question?"), mended, user("Another?")))
    assert (found["reason"], found["message"], found["role"]) == ("answer_changed", 2, "assistant")
    assert found["excerpt"].startswith("Answer.")


async def test_tools_in_another_order_are_found_as_tools(quern: Quern) -> None:
    await chat(quern, user("hello"), tools=[LOOK, FIND])
    found = await first_unknown(quern, await chat(quern, user("hello"), tools=[FIND, LOOK]))
    assert (found["from"], found["field"], found["index"]) == ("tools", "tools.0", 0)
    await chat(quern, user("hello"), tools=[LOOK, FIND])
    found = await first_unknown(quern, await chat(quern, user("hello"), tools=[LOOK, tool("fond")]))
    assert (found["from"], found["field"], found["index"]) == ("tools", "tools.1", 1)


async def test_a_changed_call_is_found_among_the_calls_of_its_message(quern: Quern) -> None:
    def history(path: str) -> list[dict[str, Any]]:
        calls = [
            {"id": name, "type": "function", "function": {"name": "look", "arguments": f'{{"path": "{where}"}}'}}
            for name, where in (("a", "first.py"), ("b", path))
        ]
        results = [{"role": "tool", "tool_call_id": name, "content": "nothing"} for name in ("a", "b")]
        return [user("look around"), {"role": "assistant", "content": "Yes.", "tool_calls": calls}, *results]

    await chat(quern, *history("one.py"), tools=[LOOK])
    found = await first_unknown(quern, await chat(quern, *history("two.py"), tools=[LOOK]))
    assert (found["message"], found["role"]) == (1, "assistant")
    assert found["field"] == "tool_calls.1.function.arguments"


async def test_history_and_instructions_are_told_from_what_a_request_brings(quern: Quern) -> None:
    first = (await quern.client.post("/v1/responses", json={"input": "hello", "instructions": "Be kind."})).json()
    again = {"input": "more", "previous_response_id": first["id"], "instructions": "Be cruel."}
    second = (await quern.client.post("/v1/responses", json=again)).json()
    found = await first_unknown(quern, second["id"])
    assert (found["from"], found["message"], found["index"]) == ("instructions", 0, 0)
    conversation = await quern.begin("hello")
    await quern.client.post("/v1/code/chat_stream", data={"prompt": "one more", "conversation_id": conversation})
    turns = (await quern.client.get(f"/v1/conversations/{conversation}")).json()["turns"]
    found = await first_unknown(quern, turns[-1]["id"])
    assert found["from"] == "request"
    assert found["index"] == 0
    assert found["message"] >= 2


async def test_a_prompt_without_messages_is_told_by_its_token_alone(quern: Quern) -> None:
    for end in ("one", "two"):
        answer = await quern.client.post("/v1/completions", json={"prompt": f"def f():\n    return {end}"})
    found = await first_unknown(quern, answer.json()["id"])
    assert (found["from"], found["field"], found["message"]) == ("prompt", "prompt", None)
    assert found["excerpt"] == "two"


async def test_a_turn_that_runs_can_be_looked_at(start: Start) -> None:
    engine = FakeEngine(token_delay=0.02, vocabulary_size=TextCodec.builtin().vocabulary_size)
    async with start(engine) as quern:
        body = {"messages": [user("x" * 400)]}
        running = asyncio.ensure_future(
            quern.client.post("/v1/chat/completions", json=body, headers={"x-request-id": "slow-one"})
        )
        while not engine.stats().running:
            await asyncio.sleep(0.005)
        await asyncio.sleep(0.1)
        turn = await report(quern, "slow-one")
        assert (turn["state"], turn["finished_at"]) == ("running", None)
        assert turn["usage"]["completion_tokens"] > 0
        assert turn["why"]["decode"]["ms"] > 0
        running.cancel()


async def test_who_waits_is_told_behind_how_many_and_an_administrator_behind_whom(start: Start) -> None:
    engine = FakeEngine(parallel=1, token_delay=0.01, vocabulary_size=TextCodec.builtin().vocabulary_size)
    async with start(engine) as quern:
        anna, ben = bearer(await make(quern, "anna")), bearer(await make(quern, "ben"))
        ops = bearer(await make(quern, "ops", role="admin"))
        tasks: list[asyncio.Future[httpx2.Response]] = []
        for number, who in enumerate((anna, anna, ben, ops)):
            body = {"messages": [user("x" * 300)]}
            headers = {**who, "x-request-id": f"turn-{number}"}
            tasks.append(asyncio.ensure_future(quern.client.post("/v1/chat/completions", json=body, headers=headers)))
            while engine.stats().waiting + engine.stats().running < number + 1:
                await asyncio.sleep(0.005)
        second, third, fourth = [
            (await report(quern, f"turn-{number}", who))["why"]["queued"]["behind"]
            for number, who in ((1, anna), (2, ben), (3, ops))
        ]
        for task in tasks:
            task.cancel()
    nobody = {"running": 0, "waiting": 0}
    assert second == {"own": {"running": 1, "waiting": 0}, "others": nobody}
    assert third == {"own": nobody, "others": {"running": 1, "waiting": 1}}
    assert fourth == {"own": nobody, "others": {"running": 1, "waiting": 2}, "keys": {"anna": 2, "ben": 1}}


async def test_a_turn_that_its_keys_limit_holds_back_waits_behind_its_own(start: Start) -> None:
    engine = FakeEngine(token_delay=0.01, vocabulary_size=TextCodec.builtin().vocabulary_size)
    async with start(engine, limits={"turns_at_once": 1}) as quern:
        tasks = [asyncio.ensure_future(chat(quern, user("x" * 300))) for _ in range(1)]
        while not engine.stats().running:
            await asyncio.sleep(0.005)
        held = asyncio.ensure_future(chat(quern, user("y" * 300), headers={"x-request-id": "held"}))
        while quern.application.turns.active < 2:
            await asyncio.sleep(0.005)
        turn = await report(quern, "held")
        assert turn["state"] == "queued"
        assert turn["why"]["queued"]["behind"]["own"] == {"running": 1, "waiting": 0}
        for task in (*tasks, held):
            task.cancel()


async def test_neighbours_are_counted_over_the_time_that_a_turn_ran(start: Start) -> None:
    engine = FakeEngine(token_delay=0.01, vocabulary_size=TextCodec.builtin().vocabulary_size)
    async with start(engine) as quern:
        turns = await asyncio.gather(*(chat(quern, user("x" * 50), max_tokens=20) for _ in range(4)))
        means = [(await report(quern, turn))["why"]["neighbours"]["mean_running"] for turn in turns]
    assert all(2 < mean <= 4 for mean in means)


async def test_anothers_turn_is_the_same_404_as_one_that_never_was(quern: Quern) -> None:
    anna, ben = bearer(await make(quern, "anna")), bearer(await make(quern, "ben"))
    ops = bearer(await make(quern, "ops", role="admin"))
    turn = await chat(quern, user("mine"), headers={**anna, "x-request-id": "annas"})
    assert (await report(quern, turn, anna))["state"] == "completed"
    unknown = await quern.client.get("/v1/turns/00000000-0000-4000-8000-000000000000", headers=ben)
    for named in (turn, turn.removeprefix("chatcmpl-"), "annas", "no-such", "%00", "x" * 300):
        for who in (ben, ops):
            answer = await quern.client.get(f"/v1/turns/{named}", headers=who)
            assert answer.status_code == 404
            assert answer.json()["error"]["message"] == unknown.json()["error"]["message"]


async def test_anothers_prompts_are_never_what_a_prompt_is_compared_with(start: Start) -> None:
    async with start(access={"share_cache": True}) as quern:
        anna, ben = bearer(await make(quern, "anna")), bearer(await make(quern, "ben"))
        await chat(quern, SYSTEM, user("the plan is secret"), headers=anna)
        turn = await report(quern, await chat(quern, SYSTEM, user("the plan is open"), headers=ben), ben)
    assert turn["usage"]["cached_tokens"] > 0
    found = turn["why"]["prefill"]["first_unknown"]
    assert (found["most_alike"], found["message"]) == (None, 1)


async def test_after_a_restart_what_is_stored_is_still_told(start: Start) -> None:
    async with start() as quern:
        turn = await chat(quern, user("hello"))
    async with start() as quern:
        found = await report(quern, turn)
    assert (found["state"], found["why"]["remembered"]) == ("completed", False)
    assert found["usage"]["completion_tokens"] == 11
    assert found["why"]["prefill"]["first_unknown"] is None
