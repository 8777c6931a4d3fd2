"""Branches of conversations: answers regenerated, messages edited, the tree seen, a head chosen; in every dialect."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from quern.engine.base import GenerateRequest
from quern.engine.fake import FakeEngine

from .conftest import Quern, Start
from .test_turn_events import frames, text_of

TOOL = {"type": "function", "name": "look", "parameters": {"type": "object", "properties": {"at": {"type": "string"}}}}


def numbering(first: int = 1) -> FakeEngine:
    """Answers `answer 1`, `answer 2` and so on, so that no two answers are alike."""
    count = iter(range(first, 100_000))
    return FakeEngine(reply=lambda _: tuple(f"answer {next(count)}".encode()), parallel=4)


@pytest.fixture
async def numbered(start: Start) -> AsyncIterator[Quern]:
    async with start(numbering()) as quern:
        yield quern


async def post(quern: Quern, path: str, body: Any = None, status: int = 200) -> Any:
    answer = await quern.client.post(path, json=body if body is not None else {})
    assert answer.status_code == status, answer.text
    return answer.json()


async def get(quern: Quern, path: str) -> Any:
    answer = await quern.client.get(path)
    assert answer.status_code == 200, answer.text
    return answer.json()


async def shown(quern: Quern, conversation: str) -> list[str]:
    """What is said on the path to the head, from both lists of it."""
    view = await get(quern, f"/v1/conversations/{conversation}?limit=100")
    items = await get(quern, f"/v1/conversations/{conversation}/items?order=asc&limit=100")
    texts = [message["content"] for message in view["messages"]]
    assert [item["content"][0]["text"] for item in items["data"]] == texts
    return texts


async def messages(quern: Quern, conversation: str) -> list[Any]:
    return (await get(quern, f"/v1/conversations/{conversation}?limit=100"))["messages"]


def prompt_of(request: GenerateRequest) -> str:
    return bytes(token for token in request.prompt if token < 256).decode(errors="replace")


async def test_a_regenerated_answer_stands_beside_the_old_one_and_is_continued(numbered: Quern) -> None:
    conversation = await numbered.begin("first")
    await numbered.chat("second", conversation)
    again = await post(numbered, f"/v1/conversations/{conversation}/regenerate")
    assert (again["object"], again["state"], again["text"]) == ("turn", "completed", "answer 3")
    assert await shown(numbered, conversation) == ["first", "answer 1", "second", "answer 3"]
    before, anew = numbered.engine.requests[1:3]
    assert before.prompt == anew.prompt
    assert (before.sampling, before.stop_token_ids) == (anew.sampling, anew.stop_token_ids)
    await numbered.chat("third", conversation)
    assert "answer 2" not in prompt_of(numbered.engine.requests[-1])
    assert "answer 3" in prompt_of(numbered.engine.requests[-1])
    tree = await get(numbered, f"/v1/conversations/{conversation}/branches")
    (fork,) = tree["forks"]
    assert [(one["said"], one["answer"], one["shown"]) for one in fork["siblings"]] == [
        ("second", "answer 2", False),
        ("second", "answer 3", True),
    ]
    assert fork["after"] == (await messages(numbered, conversation))[1]["id"]


async def test_the_first_answer_can_be_regenerated_too_and_again(numbered: Quern) -> None:
    conversation = await numbered.begin("first")
    for number in (2, 3, 4):
        await post(numbered, f"/v1/conversations/{conversation}/regenerate")
        assert await shown(numbered, conversation) == ["first", f"answer {number}"]
    (fork,) = (await get(numbered, f"/v1/conversations/{conversation}/branches"))["forks"]
    assert fork["after"] is None
    assert [one["answer"] for one in fork["siblings"]] == [f"answer {number}" for number in (1, 2, 3, 4)]
    assert [one["shown"] for one in fork["siblings"]] == [False, False, False, True]


@pytest.mark.parametrize("stream", [False, True])
async def test_a_regenerated_answer_is_told_as_its_turn_or_as_its_events(numbered: Quern, stream: bool) -> None:
    conversation = await numbered.begin("first")
    answer = await numbered.client.post(f"/v1/conversations/{conversation}/regenerate", json={"stream": stream})
    assert answer.status_code == 200
    turn_id = answer.headers["x-quern-turn-id"]
    if stream:
        told = frames(answer.text)
        assert (told[0][2]["id"], text_of(told), told[-1][1]) == (turn_id, "answer 2", "ended")
    else:
        assert (answer.json()["id"], answer.json()["text"]) == (turn_id, "answer 2")
    assert (await get(numbered, f"/v1/turns/{turn_id}"))["conversation_id"] == conversation


async def test_what_is_sent_is_drawn_otherwise_and_nothing_else(numbered: Quern) -> None:
    conversation = await numbered.begin("first")
    await numbered.chat("second", conversation, temperature="0.3", seed="7", max_tokens="50")
    path = f"/v1/conversations/{conversation}/regenerate"
    await post(numbered, path)
    await post(numbered, path, {"temperature": 1.5, "seed": 8, "max_tokens": 9, "top_k": 5})
    first, same, other = (request.sampling for request in numbered.engine.requests[1:])
    assert same == first
    assert (other.temperature, other.seed, other.max_tokens, other.top_k) == (1.5, 8, 9, 5)
    assert other.top_p == first.top_p


@pytest.mark.parametrize(
    "body", [{"temperature": 3}, {"max_tokens": 0}, {"seed": "x"}, {"stream": "perhaps"}, {"temperature": True}]
)
async def test_what_can_not_be_drawn_is_refused_and_nothing_changes(numbered: Quern, body: dict[str, Any]) -> None:
    conversation = await numbered.begin("first")
    error = (await post(numbered, f"/v1/conversations/{conversation}/regenerate", body, 400))["error"]
    assert error["param"] == next(iter(body))
    assert await shown(numbered, conversation) == ["first", "answer 1"]


async def test_instructions_tools_and_stops_are_those_of_the_first_time(start: Start) -> None:
    async with start(numbering()) as quern:
        conversation = (await post(quern, "/v1/conversations"))["id"]
        body = {"input": "look", "conversation": conversation, "instructions": "Be brief.", "tools": [TOOL]}
        await post(quern, "/v1/responses", body)
        await post(quern, f"/v1/conversations/{conversation}/regenerate")
        headers = {"x-quern-conversation": conversation}
        said = {
            "messages": [{"role": "user", "content": "on"}],
            "stop": ["7"],
            "response_format": {"type": "json_object"},
        }
        await quern.client.post("/v1/chat/completions", json=said, headers=headers)
        await post(quern, f"/v1/conversations/{conversation}/regenerate")
        first, again, chat, chat_again = quern.engine.requests
        assert "Be brief." in prompt_of(first)
        assert first.prompt == again.prompt
        assert chat.prompt == chat_again.prompt
        assert chat.grammar == chat_again.grammar is not None


@pytest.mark.parametrize("restarted", [False, True])
async def test_every_dialect_goes_on_with_the_head(start: Start, restarted: bool) -> None:
    engine = numbering()
    async with start(engine) as quern:
        conversation = await quern.begin("first")
        await quern.chat("second", conversation)
        await post(quern, f"/v1/conversations/{conversation}/regenerate")
        if not restarted:
            await _continue_in_every_dialect(quern, conversation)
    if restarted:
        async with start(numbering(100)) as quern:
            await _continue_in_every_dialect(quern, conversation)


async def _continue_in_every_dialect(quern: Quern, conversation: str) -> None:
    named = {"x-quern-conversation": conversation}
    said = [{"role": "user", "content": "on"}]
    for path, body, headers in (
        ("/v1/chat/completions", {"messages": said}, named),
        ("/v1/messages", {"messages": said, "max_tokens": 20}, named),
        ("/v1/responses", {"input": "on", "conversation": conversation}, {}),
    ):
        answer = await quern.client.post(path, json=body, headers=headers)
        assert answer.status_code == 200, answer.text
        prompt = prompt_of(quern.engine.requests[-1])
        assert "answer 3" in prompt
        assert "answer 2" not in prompt


async def test_a_response_of_a_branch_that_is_left_is_continued_from_its_own_path(numbered: Quern) -> None:
    conversation = (await post(numbered, "/v1/conversations"))["id"]
    first = await post(numbered, "/v1/responses", {"input": "one", "conversation": conversation, "store": True})
    await post(numbered, f"/v1/conversations/{conversation}/regenerate")
    await post(numbered, "/v1/responses", {"input": "two", "conversation": conversation})
    await post(numbered, "/v1/responses", {"input": "three", "previous_response_id": first["id"]})
    prompt = prompt_of(numbered.engine.requests[-1])
    assert "answer 1" in prompt
    assert "answer 2" not in prompt
    assert "two" not in prompt


async def test_an_edited_message_begins_a_branch_and_the_old_one_can_be_chosen(numbered: Quern) -> None:
    conversation = await numbered.begin("first")
    await numbered.chat("second", conversation)
    await numbered.chat("third", conversation)
    old = await shown(numbered, conversation)
    second = (await messages(numbered, conversation))[2]
    path = f"/v1/conversations/{conversation}/items/{second['id']}/edit"
    edited = await post(numbered, path, {"content": "second, said better"})
    assert edited["text"] == "answer 4"
    new = ["first", "answer 1", "second, said better", "answer 4"]
    assert await shown(numbered, conversation) == new
    prompt = prompt_of(numbered.engine.requests[-1])
    assert "third" not in prompt
    assert "answer 2" not in prompt
    head = f"/v1/conversations/{conversation}/head"
    tree = await post(numbered, head, {"item_id": second["id"]})
    assert await shown(numbered, conversation) == old
    assert tree["head"]["branch"] == 0
    assert [one["shown"] for one in tree["forks"][0]["siblings"]] == [True, False]
    tree = await post(numbered, head, {"turn_id": edited["id"]})
    assert await shown(numbered, conversation) == new
    assert tree["head"]["turn_id"] == edited["id"]
    await post(numbered, head, {"item_id": second["id"]})
    await numbered.chat("fourth", conversation)
    assert await shown(numbered, conversation) == [*old, "fourth", "answer 5"]


async def test_a_message_of_a_branch_that_is_not_shown_can_be_edited(numbered: Quern) -> None:
    conversation = await numbered.begin("first")
    await numbered.chat("second", conversation)
    old = (await messages(numbered, conversation))[2]
    await post(numbered, f"/v1/conversations/{conversation}/items/{old['id']}/edit", {"content": "other"})
    await post(numbered, f"/v1/conversations/{conversation}/items/{old['id']}/edit", {"content": "third way"})
    assert await shown(numbered, conversation) == ["first", "answer 1", "third way", "answer 4"]
    (fork,) = (await get(numbered, f"/v1/conversations/{conversation}/branches"))["forks"]
    assert [one["said"] for one in fork["siblings"]] == ["second", "other", "third way"]


async def test_openais_ids_of_items_name_them_too(numbered: Quern) -> None:
    conversation = await numbered.begin("first")
    items = await get(numbered, f"/v1/conversations/{conversation}/items?order=asc")
    first = items["data"][0]["id"]
    assert first.startswith("msg_")
    await post(numbered, f"/v1/conversations/{conversation}/items/{first}/edit", {"content": "第一"})
    assert await shown(numbered, conversation) == ["第一", "answer 2"]
    await post(numbered, f"/v1/conversations/{conversation}/head", {"item_id": first})
    assert await shown(numbered, conversation) == ["first", "answer 1"]


async def test_what_else_was_said_in_the_edited_turn_is_said_again(numbered: Quern) -> None:
    conversation = (await post(numbered, "/v1/conversations"))["id"]
    said = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "draft"},
        {"role": "user", "content": "and thanks"},
    ]
    headers = {"x-quern-conversation": conversation}
    await numbered.client.post("/v1/chat/completions", json={"messages": said}, headers=headers)
    draft = (await messages(numbered, conversation))[1]
    await post(numbered, f"/v1/conversations/{conversation}/items/{draft['id']}/edit", {"content": "final"})
    assert await shown(numbered, conversation) == ["Be brief.", "final", "and thanks", "answer 2"]


@pytest.mark.parametrize("which", ["answer", "unknown", "malformed"])
async def test_an_answer_or_an_unknown_item_is_not_edited(numbered: Quern, which: str) -> None:
    conversation = await numbered.begin("first")
    answer = (await messages(numbered, conversation))[1]["id"]
    item = {"answer": answer, "unknown": f"msg_{'0' * 32}", "malformed": "x"}[which]
    status = 400 if which == "answer" else 404
    await post(numbered, f"/v1/conversations/{conversation}/items/{item}/edit", {"content": "no"}, status)
    assert await shown(numbered, conversation) == ["first", "answer 1"]


async def test_an_answer_that_failed_can_be_regenerated_and_is_not_shown_to_the_model(start: Start) -> None:
    engine = FakeEngine(reply=lambda _: tuple(b"fine"))
    async with start(engine) as quern:
        conversation = await quern.begin("first")
        engine.fail_after = 2
        await asyncio.gather(quern.chat("second", conversation), return_exceptions=True)
        engine.fail_after = None
        again = await post(quern, f"/v1/conversations/{conversation}/regenerate")
        assert again["state"] == "completed"
        assert await shown(quern, conversation) == ["first", "fine", "second", "fine"]
        await quern.chat("third", conversation)
        assert prompt_of(quern.engine.requests[-1]).count("second") == 1


async def test_what_was_put_there_without_a_turn_is_answered_and_answered_anew(numbered: Quern) -> None:
    items = [{"role": "user", "content": "asked"}, {"role": "assistant", "content": "put there"}]
    conversation = (await post(numbered, "/v1/conversations", {"items": items}))["id"]
    await post(numbered, f"/v1/conversations/{conversation}/regenerate")
    assert await shown(numbered, conversation) == ["asked", "answer 1"]
    await post(numbered, f"/v1/conversations/{conversation}/regenerate")
    assert await shown(numbered, conversation) == ["asked", "answer 2"]
    (fork,) = (await get(numbered, f"/v1/conversations/{conversation}/branches"))["forks"]
    assert [one["said"] or one["answer"] for one in fork["siblings"]] == ["put there", "answer 1", "answer 2"]
    waiting = (await post(numbered, "/v1/conversations", {"items": items[:1]}))["id"]
    await post(numbered, f"/v1/conversations/{waiting}/regenerate")
    assert await shown(numbered, waiting) == ["asked", "answer 3"]
    assert (await get(numbered, f"/v1/conversations/{waiting}/branches"))["forks"] == []


async def test_where_nothing_was_asked_nothing_is_regenerated(numbered: Quern) -> None:
    empty = (await post(numbered, "/v1/conversations"))["id"]
    only = [{"role": "assistant", "content": "hello"}]
    answered = (await post(numbered, "/v1/conversations", {"items": only}))["id"]
    for conversation in (empty, answered):
        error = (await post(numbered, f"/v1/conversations/{conversation}/regenerate", status=400))["error"]
        assert "no answer to regenerate" in error["message"]
    assert numbered.engine.requests == []


@asynccontextmanager
async def busy(start: Start) -> AsyncGenerator[tuple[Quern, str, str]]:
    """A conversation with a turn that runs, and the id of its first item."""
    engine = numbering()
    async with start(engine) as quern:
        conversation = await quern.begin("first")
        first = (await messages(quern, conversation))[0]["id"]
        engine.token_delay = 60.0
        running = await post(quern, "/v1/responses", {"input": "on", "conversation": conversation, "background": True})
        yield quern, conversation, first
        await post(quern, f"/v1/responses/{running['id']}/cancel")


async def test_while_a_turn_runs_nothing_is_regenerated_edited_or_chosen(start: Start) -> None:
    async with busy(start) as (quern, conversation, first):
        one = f"/v1/conversations/{conversation}"
        before = await get(quern, f"{one}/branches")
        await post(quern, f"{one}/regenerate", status=409)
        await post(quern, f"{one}/items/{first}/edit", {"content": "x"}, 409)
        await post(quern, f"{one}/head", {"item_id": first}, 409)
        assert await get(quern, f"{one}/branches") == before


@pytest.mark.parametrize(
    "body", [{}, {"turn_id": "x", "item_id": "y"}, {"turn_id": 3}, {"branch": 1}, [], {"turn_id": None}]
)
async def test_a_head_is_one_turn_or_one_item(numbered: Quern, body: Any) -> None:
    conversation = await numbered.begin("first")
    await post(numbered, f"/v1/conversations/{conversation}/head", body, 400)


@pytest.mark.parametrize("body", [{"turn_id": "x"}, {"item_id": f"msg_{'1' * 32}"}])
async def test_a_head_that_is_nowhere_in_the_conversation_is_a_404(numbered: Quern, body: Any) -> None:
    conversation = await numbered.begin("first")
    await post(numbered, f"/v1/conversations/{conversation}/head", body, 404)
    other = await numbered.begin("elsewhere")
    theirs = (await messages(numbered, other))[0]
    for named in ({"item_id": theirs["id"]}, {"turn_id": theirs["turn_id"]}):
        await post(numbered, f"/v1/conversations/{conversation}/head", named, 404)


async def test_a_stopped_turn_of_a_branch_goes_on_in_its_branch(numbered: Quern) -> None:
    conversation = await numbered.begin("first")
    short = await post(numbered, f"/v1/conversations/{conversation}/regenerate", {"max_tokens": 3})
    assert short["finish_reason"] == "length"
    first = (await get(numbered, f"/v1/conversations/{conversation}/branches"))["forks"][0]["siblings"][0]
    await post(numbered, f"/v1/conversations/{conversation}/head", {"turn_id": first["turn_id"]})
    await post(numbered, f"/v1/turns/{short['id']}/continue", {"max_tokens": 1})
    while (await get(numbered, f"/v1/turns/{short['id']}"))["state"] != "completed":
        await asyncio.sleep(0.01)
    assert await shown(numbered, conversation) == ["first", "answer 1"]
    await post(numbered, f"/v1/conversations/{conversation}/head", {"turn_id": short["id"]})
    assert await shown(numbered, conversation) == ["first", "answ"]


async def test_a_taken_out_item_is_gone_from_every_path(numbered: Quern) -> None:
    conversation = await numbered.begin("first")
    await numbered.chat("second", conversation)
    await post(numbered, f"/v1/conversations/{conversation}/regenerate")
    items = await get(numbered, f"/v1/conversations/{conversation}/items?order=asc")
    await numbered.client.delete(f"/v1/conversations/{conversation}/items/{items['data'][1]['id']}")
    assert await shown(numbered, conversation) == ["first", "second", "answer 3"]
    (fork,) = (await get(numbered, f"/v1/conversations/{conversation}/branches"))["forks"]
    await post(numbered, f"/v1/conversations/{conversation}/head", {"turn_id": fork["siblings"][0]["turn_id"]})
    assert await shown(numbered, conversation) == ["first", "second", "answer 2"]


@pytest.mark.parametrize("seed", range(4))
async def test_any_walk_through_a_conversation_shows_what_a_tree_of_texts_would(start: Start, seed: int) -> None:
    """Against a model that knows no branches: each item's text and the item before it."""
    chance = random.Random(seed)
    async with start(numbering()) as quern:
        conversation = await quern.begin("0")
        paths = {"answer 1": ["0", "answer 1"]}
        head = "answer 1"
        for step in range(1, 15):
            path, kind = paths[head], chance.choice(["say", "again", "edit", "choose"])
            now = [message["id"] for message in await messages(quern, conversation)]
            if kind == "say":
                await quern.chat(str(step), conversation)
                before = [*path, str(step)]
            elif kind == "again":
                await post(quern, f"/v1/conversations/{conversation}/regenerate")
                before = path[:-1]
            elif kind == "edit":
                place = chance.randrange(0, len(path), 2)
                edit = f"/v1/conversations/{conversation}/items/{now[place]}/edit"
                await post(quern, edit, {"content": f"{step} edited"})
                before = [*path[:place], f"{step} edited"]
            else:
                tree = await get(quern, f"/v1/conversations/{conversation}/branches")
                ways = [one for fork in tree["forks"] for one in fork["siblings"]]
                if not ways:
                    continue
                way = chance.choice(ways)
                await post(quern, f"/v1/conversations/{conversation}/head", {"turn_id": way["turn_id"]})
                texts = await shown(quern, conversation)
                assert way["answer"] in texts
                head = texts[-1]
                assert paths[head] == texts
                continue
            head = (await shown(quern, conversation))[-1]
            paths[head] = [*before, head]
            assert await shown(quern, conversation) == paths[head]
            last = quern.engine.requests[-1]
            assert all(text in prompt_of(last) for text in before)
        tree = await get(quern, f"/v1/conversations/{conversation}/branches")
        answers = {one["answer"] for fork in tree["forks"] for one in fork["siblings"] if one["answer"]}
        assert answers <= paths.keys()


async def test_a_deep_chain_of_edits_stays_readable(numbered: Quern) -> None:
    conversation = await numbered.begin("0")
    for step in range(1, 40):
        last = (await messages(numbered, conversation))[-2]["id"]
        await post(numbered, f"/v1/conversations/{conversation}/items/{last}/edit", {"content": f"edited {step}"})
        await numbered.chat(f"said {step}", conversation)
    texts = await shown(numbered, conversation)
    assert texts[::2] == [f"edited {step}" for step in range(1, 40)] + ["said 39"]


async def test_the_tree_shows_only_how_long_texts_begin(numbered: Quern) -> None:
    conversation = await numbered.begin("x" * 5000)
    await post(numbered, f"/v1/conversations/{conversation}/regenerate")
    (fork,) = (await get(numbered, f"/v1/conversations/{conversation}/branches"))["forks"]
    assert [len(one["said"]) for one in fork["siblings"]] == [200, 200]


async def test_a_lost_connection_leaves_the_regenerated_answer_to_be_found(start: Start) -> None:
    engine = numbering()
    async with start(engine, live=True) as quern:
        conversation = await quern.begin("first")
        engine.token_delay = 0.02
        again = f"/v1/conversations/{conversation}/regenerate"
        async with quern.client.stream("POST", again, json={"stream": True}) as response:
            await anext(response.aiter_text())
        engine.token_delay = 0.0
        while quern.application.turns.active:
            await asyncio.sleep(0.01)
        assert await shown(quern, conversation) == ["first", "answer 2"]
