"""Web pages and keys: a page needs both its origin's permission and a key, and neither stands for the other."""

from __future__ import annotations

from typing import Any

import pytest

from .conftest import Quern, Start
from .test_cross_origin import EVIL, POSTS
from .test_keys import bearer, make, status

PAGE = "https://chat.example"
WITH_PAGE: dict[str, Any] = {"server": {"cors_origins": [PAGE]}}


@pytest.mark.parametrize("path", POSTS)
async def test_a_foreign_page_computes_nothing_with_or_without_a_key(quern: Quern, path: str) -> None:
    key = await make(quern, "anna")
    for headers in ({}, bearer(key), {"x-api-key": key}, bearer("wrong")):
        answer = await quern.client.post(path, headers={"origin": EVIL, **headers}, **POSTS[path])
        assert answer.status_code == 403
        assert "access-control-allow-origin" not in answer.headers
    assert not quern.engine.requests
    assert not (await quern.client.get("/v1/conversations", headers=bearer(key))).json()["data"]


@pytest.mark.parametrize("host", ["evil.example", "evil.example:8001", "192.168.1.5", "quern.internal"])
@pytest.mark.parametrize("path", POSTS)
async def test_a_rebound_name_is_served_only_with_a_key(quern: Quern, path: str, host: str) -> None:
    key = await make(quern, "anna")
    for headers in ({"host": host}, {"host": host, "origin": f"http://{host}"}, {"host": host, "cookie": f"key={key}"}):
        refused = await quern.client.post(path, headers=headers, **POSTS[path])
        assert refused.status_code == 401
    assert not quern.engine.requests
    assert await status(quern, {"host": host, **bearer(key)}) == 200


async def test_names_that_the_settings_leave_out_are_refused_with_a_key_too(start: Start) -> None:
    async with start(server={"hosts": ["quern.internal"]}) as quern:
        key = await make(quern, "anna")
        assert await status(quern, {"host": "evil.example", **bearer(key)}) == 403
        assert await status(quern, {"host": "quern.internal", **bearer(key)}) == 200
        assert await status(quern, {"host": "quern.internal"}) == 401


async def test_a_server_that_serves_anonymous_callers_beside_keys_keeps_rebound_names_out(start: Start) -> None:
    async with start(server={"allow_anonymous": True}) as quern:
        key = await make(quern, "anna")
        assert await status(quern, {"host": "evil.example"}) == 403
        assert await status(quern, {"host": "evil.example", **bearer(key)}) == 403


@pytest.mark.parametrize("path", [*POSTS, "/v1/models", "/v1/conversations/x", "/v1/admin/keys"])
@pytest.mark.parametrize("asked", ["authorization, content-type", "x-api-key", "Authorization,X-Quern-Conversation"])
async def test_a_preflight_needs_no_key_and_allows_the_headers_of_one(start: Start, path: str, asked: str) -> None:
    async with start(**WITH_PAGE) as quern:
        await make(quern, "anna")
        method = "GET" if path == "/v1/models" else "POST"
        preflight = {"origin": PAGE, "access-control-request-method": method, "access-control-request-headers": asked}
        answer = await quern.client.options(path, headers=preflight)
        assert answer.status_code in {200, 204}
        assert answer.headers["access-control-allow-origin"] == PAGE
        allowed = {name.strip().lower() for name in answer.headers["access-control-allow-headers"].split(",")}
        assert allowed >= {name.strip().lower() for name in asked.split(",")}
        assert "access-control-allow-credentials" not in answer.headers, "cookies are nobody's key"
        foreign = await quern.client.options(path, headers={**preflight, "origin": EVIL})
        assert foreign.status_code in {401, 403}
        assert not quern.engine.requests


async def test_a_page_that_is_allowed_reads_why_it_was_refused(start: Start) -> None:
    async with start(**WITH_PAGE) as quern:
        key = await make(quern, "anna", limits={"requests_per_minute": 1})
        body = {"messages": [{"role": "user", "content": "hi"}]}
        for headers, expected in (({}, 401), (bearer("wrong"), 401), (bearer(key), 200), (bearer(key), 429)):
            answer = await quern.client.post("/v1/chat/completions", json=body, headers={"origin": PAGE, **headers})
            assert answer.status_code == expected
            assert answer.headers["access-control-allow-origin"] == PAGE
            exposed = answer.headers["access-control-expose-headers"].lower()
            for name in ("www-authenticate", "retry-after", "x-ratelimit-remaining-requests"):
                if name in answer.headers:
                    assert name in exposed


@pytest.mark.parametrize(
    "cookie", ["{key}", "authorization=Bearer {key}", "x-api-key={key}", "session={key}; key={key}", "quern={key}"]
)
async def test_cookies_and_queries_are_no_keys(quern: Quern, cookie: str) -> None:
    key = await make(quern, "anna")
    assert await status(quern, {"cookie": cookie.format(key=key)}) == 401
    for name in ("key", "api_key", "token", "access_token", "x-api-key", "authorization"):
        assert await status(quern, path=f"/v1/models?{name}={key}") == 401


async def test_a_browser_is_not_made_to_ask_for_a_password(quern: Quern) -> None:
    """After a `Basic` challenge it would send what somebody types to every page that sends requests here."""
    await make(quern, "anna")
    answer = await quern.client.get("/v1/models")
    assert answer.headers["www-authenticate"].startswith("Bearer")
    assert "basic" not in answer.headers["www-authenticate"].lower()


@pytest.mark.parametrize("site", ["cross-site", "same-site"])
async def test_a_link_on_another_page_leads_to_nothing_that_needs_a_key(quern: Quern, site: str) -> None:
    key = await make(quern, "anna")
    follows = {"sec-fetch-site": site, "sec-fetch-mode": "navigate", "sec-fetch-dest": "document"}
    assert await status(quern, follows, "/docs") == 200
    assert await status(quern, {**follows, **bearer(key)}, "/v1/models") == 403
