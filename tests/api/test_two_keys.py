"""Two keys at every route that takes an id: what is another's looks exactly like what never was.

A route that is new has to be put into `CASES`, or among those that take no id.
"""

from __future__ import annotations

import asyncio
import json
import random
import re
import uuid
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, fields
from typing import Any, cast

import httpx2
import pytest
from starlette.routing import Route

from quern.engine.base import GenerateRequest
from quern.engine.fake import FakeEngine

from .conftest import Quern, Start
from .test_keys import bearer, control, make

USER = [{"role": "user", "content": "hi"}]
LONG = "wait"
FOR_EVER = 3600.0
WITHOUT_IDS = {
    "/",
    "/health",
    "/ready",
    "/docs",
    "/docs/favicon-32x32.png",
    "/docs/{name}",
    "/openapi.json",
    "/models",
    "/v1/models",
    "/v1/models/{model:path}",
    "/v1/usage",
    "/props",
    "/slots",
    "/api/version",
    "/api/tags",
    "/api/ps",
    "/api/show",
    "/api/pull",
    "/api/create",
    "/api/copy",
    "/api/delete",
    "/api/push",
    "/api/blobs/{digest}",
    "/v1/conversations/export",
    "/v1/conversations/import",
    "/v1/admin/keys",
    "/v1/admin/keys/{key}",
    "/v1/admin/keys/{key}/rotate",
    "/v1/admin/keys/{key}/adopt",
    "/v1/admin/audit",
    "/v1/admin/activity",
    "/v1/admin/reload",
    "/metrics",
}
"""Routes that nobody's conversation, response, item or turn can be named at. Keys are an administrator's only."""


@dataclass(frozen=True)
class Ids:
    """Things of somebody's: a conversation with an item, a response in it and one outside, and what runs."""

    conversation: str
    item: str
    response: str
    input_item: str
    running_conversation: str
    running_response: str

    def invented(self) -> Ids:
        """Ids of the same form that nothing has."""
        chance = random.Random(7)

        def other(text: str) -> str:
            head, rest = re.fullmatch(r"([a-z]*_)?(.*)", text).groups()  # type: ignore[union-attr]
            return (head or "") + re.sub("[0-9a-f]", lambda _: chance.choice("0123456789abcdef"), rest)

        return Ids(*(other(getattr(self, field.name)) for field in fields(self)))


@dataclass(frozen=True)
class Case:
    """A request that names something. `route`: as the application knows it."""

    method: str
    route: str
    path: str
    body: Any = None
    form: dict[str, str] | None = None
    headers: tuple[tuple[str, str], ...] = ()


def cases(ids: Ids) -> Iterator[Case]:
    """All ways to name something of somebody's."""
    for conversation in (ids.conversation, ids.running_conversation):
        yield from below_a_conversation(conversation, ids.item)
        yield from beside_a_conversation(conversation)
    search = "/v1/conversations/search"
    yield Case("GET", search, f"{search}?q=secret")
    yield Case("GET", search, f"{search}?q=secret&after={ids.item}")
    for response in (ids.response, ids.running_response):
        yield from of_a_response(response, ids.input_item)
    for item in (ids.item, ids.input_item):
        reference = {"type": "item_reference", "id": item}
        for path in ("/v1/responses", "/v1/responses/input_tokens", "/v1/responses/compact"):
            yield Case("POST", path, path, {"model": "fake", "input": [reference, {"role": "user", "content": "x"}]})
        yield Case("POST", "/v1/conversations", "/v1/conversations", {"items": [reference]})


def below_a_conversation(conversation: str, item: str) -> Iterator[Case]:
    """Routes that name it in their path."""
    one = "/v1/conversations/{conversation_id}"
    for method, route, path, body in (
        ("GET", one, "", None),
        ("GET", one, f"?after={item}", None),
        ("HEAD", one, "", None),
        ("POST", one, "", {"metadata": {"stolen": "yes"}}),
        ("GET", f"{one}/stream", "/stream", None),
        ("GET", f"{one}/items", "/items", None),
        ("GET", f"{one}/items", f"/items?after={item}&order=asc", None),
        ("POST", f"{one}/items", "/items", {"items": USER}),
        ("GET", f"{one}/items/{{item_id}}", f"/items/{item}", None),
        ("DELETE", f"{one}/items/{{item_id}}", f"/items/{item}", None),
        ("POST", f"{one}/items/{{item_id}}/edit", f"/items/{item}/edit", {"content": "x"}),
        ("POST", f"{one}/items/{{item_id}}/edit", f"/items/{item}/edit", {"content": "x", "stream": True}),
        ("POST", f"{one}/regenerate", "/regenerate", None),
        ("POST", f"{one}/regenerate", "/regenerate", {"stream": True}),
        ("GET", f"{one}/branches", "/branches", None),
        ("POST", f"{one}/head", "/head", {"item_id": item}),
        ("POST", f"{one}/head", "/head", {"turn_id": item}),
        ("GET", f"{one}/export", "/export", None),
        ("GET", f"{one}/export", "/export?format=markdown", None),
        ("PATCH", one, "", {"title": "stolen", "pinned": True, "archived": True}),
        ("DELETE", one, "", None),
    ):
        yield Case(method, route, f"/v1/conversations/{conversation}{path}", body)


PROMPTS: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {"messages": USER},
    "/v1/messages": {"messages": USER, "max_tokens": 9},
    "/v1/messages/count_tokens": {"messages": USER},
    "/v1/completions": {"prompt": "x"},
    "/v1/fim/completions": {"prompt": "x"},
    "/v1/embeddings": {"input": "x"},
    "/infill": {"input_prefix": "x", "input_suffix": "y"},
    "/completion": {"prompt": "x"},
    "/completions": {"prompt": "x"},
    "/tokenize": {"content": "x"},
    "/detokenize": {"tokens": [65]},
    "/apply-template": {"messages": USER},
    "/api/chat": {"messages": USER},
    "/api/generate": {"prompt": "x"},
    "/api/embed": {"input": "x"},
    "/api/embeddings": {"prompt": "x"},
    "/v1/responses": {"input": "x"},
}


def beside_a_conversation(conversation: str) -> Iterator[Case]:
    """Routes that name it in a header, a field or a cursor, or might be thought to."""
    header = (("x-quern-conversation", conversation),)
    yield Case("GET", "/v1/conversations", f"/v1/conversations?after={conversation}")
    chat, generate = "/v1/code/chat_stream", "/v1/code/generate"
    yield Case("POST", chat, chat, form={"prompt": "x", "conversation_id": conversation})
    yield Case("POST", generate, generate, form={"prompt": "x"}, headers=header)
    engines = "/v1/engines/{engine}/completions"
    yield Case("POST", engines, "/v1/engines/fake/completions", {"prompt": "x"}, headers=header)
    for path, body in PROMPTS.items():
        yield Case("POST", path, path, body, headers=header)
        yield Case("POST", path, path, {**body, "stream": True}, headers=header)
        yield Case("POST", path, path, {**body, "conversation": conversation, "conversation_id": conversation})
    for path in ("/v1/responses", "/v1/responses/input_tokens"):
        for named in (conversation, {"id": conversation}):
            for extra in ({}, {"stream": True}, {"background": True}):
                yield Case("POST", path, path, {"input": "x", "conversation": named, **extra})


def of_a_response(response: str, item: str) -> Iterator[Case]:
    """All that names a response."""
    one = "/v1/responses/{response_id}"
    for query in ("", "?stream=true", "?stream=true&starting_after=1"):
        yield Case("GET", one, f"/v1/responses/{response}{query}")
    yield Case("HEAD", one, f"/v1/responses/{response}")
    yield Case("GET", f"{one}/input_items", f"/v1/responses/{response}/input_items")
    yield Case("GET", f"{one}/input_items", f"/v1/responses/{response}/input_items?after={item}")
    yield Case("POST", f"{one}/cancel", f"/v1/responses/{response}/cancel")
    turn = "/v1/turns/{turn_id}"
    yield Case("GET", turn, f"/v1/turns/{response}")
    yield Case("GET", f"{turn}/events", f"/v1/turns/{response}/events")
    for verb in ("cancel", "continue"):
        yield Case("POST", f"{turn}/{verb}", f"/v1/turns/{response}/{verb}")
    yield Case("GET", "/v1/turns", f"/v1/turns?after={response}")
    yield Case("DELETE", one, f"/v1/responses/{response}")
    for path in ("/v1/responses", "/v1/responses/input_tokens"):
        for extra in ({}, {"background": True, "store": True}, {"stream": True}):
            yield Case("POST", path, path, {"input": "x", "previous_response_id": response, **extra})
    compact = "/v1/responses/compact"
    yield Case("POST", compact, compact, {"model": "fake", "previous_response_id": response})


async def things(quern: Quern, headers: dict[str, str]) -> Ids:
    """Make one of everything; two of them run as long as the engine lets them."""

    async def post(path: str, body: Any) -> Any:
        answer = await quern.client.post(path, json=body, headers=headers)
        assert answer.status_code == 200, answer.text
        return answer.json()

    conversation = (await post("/v1/conversations", {"items": [{"role": "user", "content": "secret"}]}))["id"]
    items = await quern.client.get(f"/v1/conversations/{conversation}/items", headers=headers)
    response = (await post("/v1/responses", {"input": "secret", "store": True}))["id"]
    inputs = await quern.client.get(f"/v1/responses/{response}/input_items", headers=headers)
    busy = (await post("/v1/conversations", {}))["id"]
    running = await post("/v1/responses", {"input": LONG, "conversation": busy, "background": True})
    return Ids(
        conversation, items.json()["data"][0]["id"], response, inputs.json()["data"][0]["id"], busy, running["id"]
    )


def holding_the_long_one() -> tuple[FakeEngine, asyncio.Event]:
    """An engine that answers at once, but what is to run on stops after some tokens, for ever; and whether it has."""
    held = asyncio.Event()

    def reply(request: GenerateRequest) -> Iterator[int]:
        yield from [100] * 2
        if LONG.encode() in bytes(token for token in request.prompt if token < 256):
            engine.token_delay = FOR_EVER
            asyncio.get_running_loop().call_soon(go_on)
            yield 100

    def go_on() -> None:
        engine.token_delay = 0.0
        held.set()

    engine = FakeEngine(reply=lambda request: cast("Sequence[int]", reply(request)), parallel=4)
    return engine, held


async def answer_to(quern: Quern, case: Case, headers: dict[str, str]) -> httpx2.Response:
    together = {**headers, **dict(case.headers)}
    return await quern.client.request(case.method, case.path, headers=together, json=case.body, data=case.form)


VOLATILE = (
    r"[a-z]*_?[0-9a-f]{32}|[0-9a-f]{8}-[0-9a-f-]{27}|"
    r'"[a-z_]*(at|created|duration|ms|second)":\s*("[^"]*"|[0-9.e-]+)'
)
"""What is new in every answer: ids, times, durations."""
DIFFERS = {"x-request-id", "request-id", "x-quern-turn-id", "date", "content-length"}


def comparable(answer: httpx2.Response, ids: Ids) -> tuple[int, list[tuple[str, str]], str]:
    """All of an answer but the ids that were sent, what is new with every request, and how a stream was cut."""
    streams = answer.is_success and "json" not in answer.headers.get("content-type", "").replace("ndjson", "")
    text = "" if streams else answer.text
    for field in fields(ids):
        text = text.replace(getattr(ids, field.name), f"<{field.name}>")
    text = re.sub(VOLATILE, "<new>", text)
    headers = sorted((name, value) for name, value in answer.headers.items() if name not in DIFFERS)
    return answer.status_code, headers, text


@dataclass
class Scene:
    """A closed server (or one that lets everybody in) with things of Anna's, and somebody else who asks for them."""

    quern: Quern
    ids: Ids
    owner: dict[str, str]
    other: dict[str, str]


@asynccontextmanager
async def scene(start: Start, other: str) -> AsyncGenerator[Scene]:
    engine, held = holding_the_long_one()
    settings = {"host": "0.0.0.0", "allow_anonymous": True} if "anonymous" in other else {}
    async with start(engine, server=settings) as quern:
        anna = bearer(await make(quern, "anna"))
        others = {
            "user": bearer(await make(quern, "ben")),
            "admin": bearer(await make(quern, "boss", role="admin")),
            "anonymous": {},
            "a key, of the anonymous": bearer(await make(quern, "cleo")),
        }
        owner = {} if other.endswith("of the anonymous") else anna
        ids = await things(quern, owner)
        await held.wait()
        try:
            yield Scene(quern, ids, owner, others[other])
        finally:
            await quern.client.post(f"/v1/responses/{ids.running_response}/cancel", headers=owner)


WHO = ["user", "admin", "anonymous", "a key, of the anonymous"]


def test_the_walk_knows_every_route(quern_routes: set[str]) -> None:
    walked = {case.route for case in cases(Ids(*["x"] * 6))}
    assert quern_routes - walked == WITHOUT_IDS
    assert not walked & WITHOUT_IDS


@pytest.fixture
def quern_routes(quern: Quern) -> set[str]:
    return {route.path for route in quern.application.asgi.routes if isinstance(route, Route)}


@pytest.mark.parametrize("other", WHO)
async def test_what_is_anothers_looks_like_what_never_was(start: Start, other: str) -> None:
    async with scene(start, other) as on:
        invented = on.ids.invented()
        for real, never in zip(cases(on.ids), cases(invented), strict=True):
            first = await answer_to(on.quern, never, on.other)
            seen = comparable(await answer_to(on.quern, real, on.other), on.ids)
            # What is answered is asked for again, since the prompt is cached by now, as it was for the real one.
            again = await answer_to(on.quern, never, on.other) if first.is_success else first
            assert seen == comparable(again, invented), real
            assert "secret" not in seen[2], real
        assert b"secret" not in b"".join(bytes(t for t in r.prompt if t < 256) for r in on.quern.engine.requests[2:])
        await assert_untouched(on)


async def assert_untouched(on: Scene) -> None:
    """Everything of the owner's is as it was."""
    client, ids = on.quern.client, on.ids
    conversation = (await client.get(f"/v1/conversations/{ids.conversation}", headers=on.owner)).json()
    assert [message["content"] for message in conversation["messages"]] == ["secret"]
    assert not conversation.get("metadata")
    assert (conversation["title"], conversation["pinned"], conversation["archived"]) == ("secret", False, False)
    running = (await client.get(f"/v1/responses/{ids.running_response}", headers=on.owner)).json()
    assert running["status"] == "in_progress"
    assert (await client.get(f"/v1/responses/{ids.response}", headers=on.owner)).json()["status"] == "completed"
    listed = (await client.get("/v1/conversations", headers=on.owner)).json()["data"]
    assert {item["id"] for item in listed} >= {ids.conversation, ids.running_conversation}


@pytest.mark.parametrize("other", WHO)
async def test_the_owner_finds_at_all_of_these_what_is_its_own(start: Start, other: str) -> None:
    """Else the walk would find nothing because of its own mistakes."""
    async with scene(start, other) as on:
        found = 0
        for case in cases(on.ids):
            if case.method == "GET" and "after=" not in case.path and "/items/" not in case.path:
                answer = await asyncio.wait_for(_head_of(on, case), 10)
                found += answer == 200
        assert found >= 8


async def _head_of(on: Scene, case: Case) -> int:
    if "stream" in case.path or case.path.endswith("/events"):
        return 0
    return (await answer_to(on.quern, case, on.owner)).status_code


@pytest.mark.parametrize("other", WHO)
async def test_lists_show_ones_own_only(start: Start, other: str) -> None:
    async with scene(start, other) as on:
        client = on.quern.client
        told = [
            (await client.get(path, headers=on.other)).text
            for path in (
                "/v1/conversations",
                "/v1/conversations?limit=100",
                "/slots",
                "/v1/models",
                "/props",
                "/api/ps",
                "/v1/conversations?archived=any",
                "/v1/conversations/export",
            )
        ]
        for field in fields(on.ids):
            assert not [text for text in told if getattr(on.ids, field.name) in text]
        assert json.loads(told[0])["data"] == []
        assert not any(slot["is_processing"] for slot in json.loads(told[2]))
        mine = (await client.get("/slots", headers=on.owner)).json()
        assert any(slot["is_processing"] for slot in mine), "the owner sees its own"
        if other != "admin":
            rows = (await client.get("/v1/usage", headers=on.other)).json()["data"]
            assert rows == []
        assert (await client.delete("/v1/conversations?all=true", headers=on.other)).json()["deleted"] == 0
        await assert_untouched(on)


@pytest.mark.parametrize("role", ["user", "admin"])
async def test_keys_are_administered_by_administrators_whatever_id_is_named(start: Start, role: str) -> None:
    async with start() as quern:
        anna, asking = await make(quern, "anna"), bearer(await make(quern, "ben", role=role))
        for name in (anna.split("_")[1], "anna", "nobody", "0123456789"):
            answer = await quern.client.post(f"/v1/admin/keys/{name}", json={}, headers=asking)
            known = name in {"anna", anna.split("_")[1]}
            assert answer.status_code == (403 if role == "user" else 200 if known else 404)


ENDPOINTS: list[tuple[str, dict[str, Any], Callable[[Any], int]]] = [
    ("/v1/chat/completions", {"messages": USER}, lambda body: body["usage"]["prompt_tokens_details"]["cached_tokens"]),
    ("/v1/messages", {"messages": USER, "max_tokens": 5}, lambda body: body["usage"]["cache_read_input_tokens"]),
    ("/v1/responses", {"input": "hi"}, lambda body: body["usage"]["input_tokens_details"]["cached_tokens"]),
    (
        "/completion",
        {"prompt": "hello there"},
        lambda body: body["tokens_cached"] and body["timings"].get("cache_n", 0),
    ),
]


@pytest.mark.parametrize("share", [False, True])
@pytest.mark.parametrize(("path", "body", "cached"), ENDPOINTS, ids=[path for path, *_ in ENDPOINTS])
async def test_a_prompt_of_another_key_is_not_told_as_cached_unless_keys_share(
    start: Start, path: str, body: Any, cached: Callable[[Any], int], share: bool
) -> None:
    async with start(FakeEngine(reply=lambda _: [100] * 2), access={"share_cache": share}) as quern:
        anna, ben = bearer(await make(quern, "anna")), bearer(await make(quern, "ben"))
        counts: list[int] = []
        for key in (anna, anna, ben, ben):
            answer = await quern.client.post(path, json=body, headers=key)
            assert answer.status_code == 200, answer.text
            counts.append(cached(answer.json()))
        assert counts[0] == 0
        assert counts[1] > 0
        assert (counts[2] > 0) is share
        assert counts[3] > 0


async def test_anonymous_callers_and_keys_share_no_cache(start: Start) -> None:
    async with start(server={"host": "0.0.0.0", "allow_anonymous": True}) as quern:
        anna = bearer(await make(quern, "anna"))
        path, body, cached = ENDPOINTS[0]
        counts = [
            cached((await quern.client.post(path, json=body, headers=key)).json()) for key in ({}, anna, {}, anna)
        ]
        assert counts[:2] == [0, 0]
        assert min(counts[2:]) > 0


async def test_a_conversation_that_a_revoked_key_made_is_nobodys(quern: Quern) -> None:
    anna, ben = bearer(await make(quern, "anna")), bearer(await make(quern, "ben"))
    conversation = (await quern.client.post("/v1/conversations", json={}, headers=anna)).json()["id"]
    async with control(quern) as local:
        await local.delete("/v1/admin/keys/anna")
        again = bearer((await local.post("/v1/admin/keys", json={"name": "anna"})).json()["key"])
    for key, status in ((anna, 401), (ben, 404), (again, 404)):
        assert (await quern.client.get(f"/v1/conversations/{conversation}", headers=key)).status_code == status
    assert (await quern.client.get(f"/v1/conversations/{uuid.uuid4()}", headers=again)).status_code == 404
