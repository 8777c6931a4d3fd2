"""Every route there is, asked by somebody without a key: nothing is answered, read, computed or stored."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from typing import Any

import pytest
from sqlalchemy import func, select
from starlette.routing import Route

from quern.store.schema import api_keys, conversations, items, turns, usage

from .conftest import Connect, Quern, Start
from .raw_sockets import request
from .test_keys import bearer, control, make

OPEN = {"/", "/health", "/ready", "/docs", "/docs/favicon-32x32.png", "/docs/{name}", "/openapi.json"}
"""All that needs no key. What is added here shows nobody's data and computes nothing."""

METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "PROPFIND", "get", "QUERY")
UNKNOWN = (
    "/v2/models",
    "/admin",
    "/metrics",
    "/v1",
    "/static/x.js",
    "/.env",
    "/debug",
    "/api",
    "/v1/turns/x",
    "/favicon.ico",
)
WELL_FORMED = "quern_0123456789_" + "a" * 43


def routes_of(quern: Quern) -> Iterator[tuple[str, str]]:
    """Each route's own path, and one that leads there."""
    for route in quern.application.asgi.routes:
        assert isinstance(route, Route), (
            f"{route} is nothing that this walk knows: what is mounted there needs a key too"
        )
        yield route.path, re.sub(r"\{[^}]*\}", "x", route.path)


async def wrong_keys(quern: Quern) -> list[dict[str, str]]:
    """Headers with all kinds of keys that open nothing."""
    valid, revoked = await make(quern, "anna"), await make(quern, "gone")
    expired = await make(quern, "old", expires_at="2020-01-01T00:00:00Z")
    async with control(quern) as local:
        await local.delete("/v1/admin/keys/gone")
    other = valid[:-1] + ("a" if valid[-1] != "a" else "b")
    keys = (WELL_FORMED, other, revoked, expired, "sk-none", "quern", valid.upper(), valid[:-1])
    return [
        {},
        *(bearer(key) for key in keys),
        *({"x-api-key": key} for key in keys),
        {"authorization": f"Basic {valid}"},
        {"authorization": valid},
        {"api-key": valid},
        {"x-goog-api-key": valid},
        {"cookie": f"authorization=Bearer {valid}; x-api-key={valid}; key={valid}"},
        {"proxy-authorization": f"Bearer {valid}"},
    ]


async def ask(quern: Quern, method: str, path: str, headers: dict[str, str], query: str = "") -> tuple[int, int]:
    """The status, and how often the body was asked for."""
    asked, status = 0, 0

    async def receive() -> Any:
        nonlocal asked
        asked += 1
        if asked > 1:
            return {"type": "http.disconnect"}
        return {"type": "http.request", "body": b"{}", "more_body": False}

    async def send(message: Any) -> None:
        nonlocal status
        status = message.get("status", status)

    names = {"host": "localhost", "content-type": "application/json", "content-length": "2", **headers}
    await quern.application.asgi(
        {
            "type": "http",
            "method": method,
            "path": path,
            "raw_path": path.encode(),
            "query_string": query.encode(),
            "headers": [(name.encode(), value.encode()) for name, value in names.items()],
            "client": ("127.0.0.1", 1),
            "server": ("127.0.0.1", 80),
            "scheme": "http",
            "http_version": "1.1",
        },
        receive,
        send,
    )
    return status, asked


async def stored(quern: Quern) -> list[int]:
    """How many rows there are of everything."""
    async with quern.application.database.transaction() as connection:
        tables = (conversations, items, turns, usage, api_keys)
        return [(await connection.execute(select(func.count()).select_from(table))).scalar_one() for table in tables]


def computed(quern: Quern) -> int:
    return len(quern.engine.requests) + len(quern.engine.embedded) + len(quern.engine.grammars)


@pytest.mark.parametrize("embedding_length", [0, 64])
async def test_without_a_key_that_is_valid_nothing_is_answered_but_what_is_open(
    start: Start, embedding_length: int
) -> None:
    async with start(embedding_length=embedding_length) as quern:
        wrong, before = itertools.cycle((await wrong_keys(quern))[1:]), await stored(quern)
        for route, path in [*routes_of(quern), *((path, path) for path in UNKNOWN)]:
            for method in METHODS:
                for headers in ({}, next(wrong)):
                    status, asked = await ask(quern, method, path, headers)
                    if route in OPEN:
                        assert status in {200, 204, 404, 405}, (method, path, headers)
                    else:
                        assert status == 401, (method, path, headers, status)
                        assert asked == 0, (method, path, headers, "its body was read")
        assert computed(quern) == 0
        assert await stored(quern) == before


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/messages", "/api/chat", "/v1/code/generate", "/infill"])
async def test_no_kind_of_wrong_key_computes_anything(quern: Quern, path: str) -> None:
    for headers in await wrong_keys(quern):
        for method in ("GET", "POST"):
            assert await ask(quern, method, path, headers) == (401, 0), headers
    assert computed(quern) == 0


async def test_what_is_open_takes_no_method_that_could_do_something(quern: Quern) -> None:
    await make(quern, "anna")
    for path in OPEN:
        for method in ("POST", "PUT", "PATCH", "DELETE"):
            assert (await ask(quern, method, path, {}))[0] in {404, 405}


async def test_the_walk_looks_at_all_that_there_is(quern: Quern) -> None:
    known = {route for route, _ in routes_of(quern)}
    assert known >= OPEN
    assert len(known) > 50
    anna = await make(quern, "anna")
    for path in ("/v1/models", "/props", "/api/tags", "/v1/usage"):
        assert (await ask(quern, "GET", path, bearer(anna)))[0] == 200, "with a key it would be answered"


@pytest.mark.parametrize(
    "target",
    [
        "//v1/models",
        "/v1//models",
        "/v1/models/",
        "/V1/MODELS",
        "/v1/%6dodels",
        "/v1%2fmodels",
        "/%2fv1/models",
        "/docs/../v1/models",
        "/docs/%2e%2e/v1/models",
        "/docs/..%2fv1%2fmodels",
        "/health/../v1/models",
        "/health/%2e%2e/v1/models",
        "/health/v1/models",
        "/health;/v1/models",
        "/health%00/v1/models",
        "/health%0a/v1/models",
        "/./v1/models",
        "/openapi.json/../v1/models",
        "/v1/models?path=/health",
        "/v1/models?/health",
        "/v1/models#/health",
        "/v1/models%3f/health",
        "/v1/models/%2fdocs",
        "/v1/models/../../health",
        "http://127.0.0.1/v1/models",
        "http://127.0.0.1//v1/models",
        "http://127.0.0.1/health/../v1/models",
        "HTTP://127.0.0.1/v1/models",
        "/ready/../v1/usage",
        "/v1/usage?to=2026-01-01",
        "/slots?x=/health",
        "/docs/\\..\\v1/models",
        "/HEALTH",
        "/Health/",
        "/health.json",
        "/healthx",
        "/health%20",
    ],
)
@pytest.mark.parametrize("version", ["1.1", "1.0"])
async def test_no_spelling_of_a_path_leads_past_the_key(
    start: Start, connect: Connect, target: str, version: str
) -> None:
    async with start(live=True) as quern:
        await make(quern, "anna")
        client = await connect(quern)
        await client.send(request("GET", target, "Connection: close", version=version))
        answer = await client.answer("GET")
        assert answer.status in {400, 401, 404}, answer
        assert b'"data"' not in answer.body
        assert b"n_ctx" not in answer.body


@pytest.mark.parametrize(
    "target", ["//health", "/health/", "///health//", "/%68ealth", "http://127.0.0.1/health", "/health?x=1"]
)
async def test_other_spellings_of_what_is_open_are_open(start: Start, connect: Connect, target: str) -> None:
    async with start(live=True) as quern:
        await make(quern, "anna")
        client = await connect(quern)
        await client.send(request("GET", target, "Connection: close"))
        assert (await client.answer("GET")).status == 200


async def test_a_websocket_is_not_opened_and_nothing_told(start: Start, connect: Connect) -> None:
    async with start(live=True) as quern:
        await make(quern, "anna")
        for path in ("/v1/responses", "/v1/models", "/health"):
            client = await connect(quern)
            upgrade = ("Upgrade: websocket", "Connection: Upgrade", "Sec-WebSocket-Key: x", "Sec-WebSocket-Version: 13")
            await client.send(request("GET", path, *upgrade))
            answer = await client.answer("GET")
            assert answer.status in {401, 426}
            assert b'"data"' not in answer.body


async def test_a_body_that_never_comes_to_its_end_is_refused_at_once(start: Start, connect: Connect) -> None:
    async with start(live=True) as quern:
        await make(quern, "anna")
        client = await connect(quern)
        for path in ("/v1/chat/completions", "/v1/code/generate", "/v1/embeddings", "/api/chat"):
            client = await connect(quern)
            await client.send(request("POST", path, "Content-Type: application/json", length=10_000_000))
            assert (await client.answer()).status == 401
