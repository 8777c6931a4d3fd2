"""Keys: who comes in, as what, and that nobody sees what is another's."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx2
import pytest

from .conftest import Quern, Start

OTHER_ADDRESS = {"host": "0.0.0.0", "allow_anonymous": False}


async def make(quern: Quern, name: str, **wanted: Any) -> str:
    """A key of that name, as the control socket would make it."""
    changes: dict[str, Any] = {"role": "user", **wanted}
    async with control(quern) as local:
        made = await local.post("/v1/admin/keys", json={"name": name, **changes})
    assert made.status_code == 200, made.text
    return str(made.json()["key"])


def control(quern: Quern) -> httpx2.AsyncClient:
    """A client whose connection came through the control socket."""

    async def marked(scope: Any, receive: Any, send: Any) -> None:
        scope.setdefault("state", {})["local"] = True
        await quern.application.asgi(scope, receive, send)

    return httpx2.AsyncClient(transport=httpx2.ASGITransport(app=marked), base_url="http://localhost")


def bearer(key: str) -> dict[str, str]:
    return {"authorization": f"Bearer {key}"}


async def status(quern: Quern, headers: dict[str, str] | None = None, path: str = "/v1/models") -> int:
    return (await quern.client.get(path, headers=headers or {})).status_code


async def test_without_any_key_a_loopback_server_is_open_and_takes_any_text_for_a_key(quern: Quern) -> None:
    assert await status(quern) == 200
    for key in ("sk-anything", "quern_0123456789_x", "ollama"):
        assert await status(quern, bearer(key)) == 200
        assert await status(quern, {"x-api-key": key}) == 200


async def test_the_first_key_closes_the_server(quern: Quern) -> None:
    key = await make(quern, "anna")
    assert await status(quern) == 401
    assert await status(quern, bearer("sk-anything")) == 401
    assert await status(quern, bearer(key)) == 200
    assert await status(quern, {"x-api-key": key}) == 200
    assert await status(quern, {"authorization": f"bearer   {key} "}) == 200
    assert await status(quern, {"authorization": f"Basic {key}"}) == 401


async def test_a_server_stays_closed_when_its_last_key_is_revoked(quern: Quern) -> None:
    key = await make(quern, "anna")
    async with control(quern) as local:
        assert (await local.delete("/v1/admin/keys/anna")).json()["revoked_at"] is not None
    assert await status(quern, bearer(key)) == 401
    assert await status(quern) == 401


async def test_an_address_that_others_reach_is_closed_from_the_start(start: Start) -> None:
    async with start(server=OTHER_ADDRESS) as quern:
        assert await status(quern) == 401
        assert await status(quern, bearer(await make(quern, "anna"))) == 200


async def test_with_allow_anonymous_callers_without_a_key_are_served_beside_keys(start: Start) -> None:
    async with start(server={**OTHER_ADDRESS, "allow_anonymous": True}) as quern:
        key = await make(quern, "anna")
        assert await status(quern) == 200
        assert await status(quern, bearer("sk-anything")) == 200
        assert await status(quern, bearer(key)) == 200
        wrong = await quern.client.get("/v1/models", headers=bearer(f"{key[:-1]}{'a' if key[-1] != 'a' else 'b'}"))
        assert wrong.status_code == 401, "a mistyped key must not find an empty history in silence"


async def test_a_refusal_says_how_to_send_a_key_in_each_dialects_shape(quern: Quern) -> None:
    await make(quern, "anna")
    openai = await quern.client.post("/v1/chat/completions", json={"messages": []})
    assert openai.status_code == 401
    assert openai.headers["www-authenticate"].startswith("Bearer")
    assert openai.json()["error"]["code"] == "invalid_api_key"
    assert "x-api-key" in openai.json()["error"]["message"]
    anthropic = await quern.client.post("/v1/messages", json={}, headers={"x-api-key": "wrong"})
    assert (anthropic.status_code, anthropic.json()["error"]["type"]) == (401, "authentication_error")
    ollama = await quern.client.post("/api/chat", json={})
    assert ollama.status_code == 401
    assert isinstance(ollama.json()["error"], str)
    seed = await quern.client.post("/v1/code/generate", data={"prompt": "hi"})
    assert seed.status_code == 401
    assert "needs a key" in seed.json()["detail"]


async def test_health_and_the_api_page_need_no_key(quern: Quern) -> None:
    await make(quern, "anna")
    for path in ("/health", "/ready", "/docs", "/docs/swagger-ui.css", "/openapi.json"):
        assert await status(quern, path=path) == 200, path
        assert await status(quern, bearer("wrong"), path=path) == 200, path


async def test_a_key_is_shown_once_and_never_again(quern: Quern) -> None:
    key = await make(quern, "anna", note="her editor")
    secret = key.rsplit("_", 1)[1]
    async with control(quern) as local:
        listed = await local.get("/v1/admin/keys")
        audit = await local.get("/v1/admin/audit")
    assert secret not in listed.text
    assert secret not in audit.text
    assert "digest" not in listed.text
    [shown] = listed.json()["data"]
    assert (shown["name"], shown["note"], shown["id"]) == ("anna", "her editor", key.split("_")[1])


async def test_secrets_are_kept_as_hashes_only(quern: Quern) -> None:
    key = await make(quern, "anna")
    folder = quern.settings.data_dir
    kept = await asyncio.to_thread(lambda: b"".join(path.read_bytes() for path in folder.glob("quern.db*")))
    assert key.split("_")[1].encode() in kept, "the id is kept"
    assert key.rsplit("_", 1)[1].encode() not in kept


async def test_a_rotated_key_has_another_secret_and_all_that_it_had(quern: Quern) -> None:
    old = await make(quern, "anna")
    begun = await quern.client.post("/v1/conversations", json={}, headers=bearer(old))
    async with control(quern) as local:
        new = (await local.post("/v1/admin/keys/anna/rotate")).json()["key"]
    assert new.split("_")[1] == old.split("_")[1]
    assert await status(quern, bearer(old)) == 401
    assert await status(quern, bearer(new), f"/v1/conversations/{begun.json()['id']}") == 200


async def test_an_expired_key_opens_nothing(quern: Quern) -> None:
    assert await status(quern, bearer(await make(quern, "old", expires_at="2020-01-01T00:00:00Z"))) == 401
    assert await status(quern, bearer(await make(quern, "new", expires_at="2999-01-01T00:00:00+02:00"))) == 200


async def test_keys_and_their_last_use_are_still_known_after_a_restart(start: Start) -> None:
    async with start() as quern:
        key = await make(quern, "anna")
        assert await status(quern, bearer(key)) == 200
    async with start() as quern:
        assert await status(quern) == 401
        async with control(quern) as local:
            [shown] = (await local.get("/v1/admin/keys")).json()["data"]
        assert shown["last_used_at"] is not None
        assert await status(quern, bearer(key)) == 200


async def test_conversations_from_before_the_first_key_can_be_given_to_one(quern: Quern) -> None:
    conversation = await quern.begin()
    key = await make(quern, "anna")
    path = f"/v1/conversations/{conversation}"
    assert await status(quern, bearer(key), path) == 404
    async with control(quern) as local:
        assert (await local.post("/v1/admin/keys/anna/adopt")).json() == {"conversations": 1}
    assert await status(quern, bearer(key), path) == 200


@pytest.mark.parametrize(
    "presented",
    [
        "",
        " ",
        "quern",
        "quern_",
        "quern__",
        "quern_0123456789_",
        "quern_0123456789_" + "a" * 43,
        "quern_0123456789_" + "a" * 100_00,
        "QUERN_0123456789_" + "a" * 43,
        "quern_" + "a" * 43 + "_0123456789",
        "'; DROP TABLE api_keys; --",
        "quern_%31123456789_" + "a" * 43,
        "ключ",
        "\x7f",
        "a" * 30_000,
    ],
)
async def test_whatever_is_sent_for_a_key_is_refused_and_breaks_nothing(quern: Quern, presented: str) -> None:
    key = await make(quern, "anna")
    for value in (presented, *([f"{presented}{key}", f"{key}{presented}"] if presented.strip() else [])):
        for name, text in (("authorization", f"Bearer {value}"), ("x-api-key", value)):
            raw = text.encode("utf-8", "surrogateescape")
            answer = await quern.client.get("/v1/models", headers=[(name.encode(), raw)])
            assert answer.status_code == 401, (name, value)
            assert key not in answer.text
    assert await status(quern, bearer(key)) == 200


async def test_of_two_keys_the_valid_one_counts(quern: Quern) -> None:
    key = await make(quern, "anna")
    assert await status(quern, {**bearer("wrong"), "x-api-key": key}) == 200
    assert await status(quern, {**bearer(key), "x-api-key": "sk-left-over"}) == 200


async def test_only_administrators_run_the_server(quern: Quern) -> None:
    open_to_all = await quern.client.post("/v1/admin/keys", json={"name": "mine"})
    assert open_to_all.status_code == 403, "whoever reaches an open server must not close it to others"
    user, admin = await make(quern, "anna"), await make(quern, "boss", role="admin")
    for method, path in (
        ("GET", "/v1/admin/keys"),
        ("POST", "/v1/admin/keys"),
        ("GET", "/v1/admin/audit"),
        ("POST", "/v1/admin/keys/anna"),
        ("DELETE", "/v1/admin/keys/anna"),
        ("POST", "/v1/admin/keys/anna/rotate"),
        ("POST", "/v1/admin/keys/anna/adopt"),
    ):
        refused = await quern.client.request(method, path, json={"name": "x"}, headers=bearer(user))
        assert refused.status_code == 403, (method, path)
    made = await quern.client.post("/v1/admin/keys", json={"name": "third"}, headers=bearer(admin))
    assert made.status_code == 200
    audit = await quern.client.get("/v1/admin/audit", headers=bearer(admin))
    newest = audit.json()["data"][0]
    assert (newest["actor"], newest["action"], newest["details"]) == ("boss", "keys.create", {"name": "third"})


@pytest.mark.parametrize(
    ("body", "named"),
    [
        ({"name": ""}, "name"),
        ({"name": "  "}, "name"),
        ({"name": "x" * 65}, "name"),
        ({"name": "a\nb"}, "name"),
        ({"name": "anna"}, "name"),
        ({"name": "anonymous"}, "name"),
        ({"name": "local"}, "name"),
        ({"name": "b", "weight": 0}, "weight"),
        ({"name": "b", "role": "root"}, "role"),
        ({"name": "b", "expires_at": "2030-01-01T00:00:00"}, "expires_at"),
        ({"name": "b", "limits": {"tokens_per_day": -1}}, "limits.tokens_per_day"),
        ({"name": "b", "limits": {"tokens_per_hour": 1}}, "limits.tokens_per_hour"),
        ({}, "name"),
    ],
)
async def test_a_key_that_cannot_be_made_is_refused_by_its_field(quern: Quern, body: Any, named: str) -> None:
    await make(quern, "anna")
    async with control(quern) as local:
        refused = await local.post("/v1/admin/keys", json=body)
    assert refused.status_code == 400, refused.text
    assert refused.json()["error"]["param"] == named


async def test_values_of_a_key_can_be_changed_one_by_one(quern: Quern) -> None:
    await make(quern, "anna", limits={"turns_at_once": 2, "tokens_per_day": 1000})
    async with control(quern) as local:
        changed = await local.post("/v1/admin/keys/anna", json={"limits": {"tokens_per_day": 5}, "weight": 2})
        assert changed.json()["limits"] == {"turns_at_once": 2, "tokens_per_day": 5}
        assert changed.json()["weight"] == 2
        assert (await local.post("/v1/admin/keys/nobody", json={})).status_code == 404
        assert (await local.post("/v1/admin/keys/anna", json={"name": "anne"})).json()["name"] == "anne"
        assert (await local.post("/v1/admin/keys/anne/rotate")).status_code == 200


async def test_a_client_cannot_mark_its_own_request_as_local(start: Start) -> None:
    async with start(live=True) as quern:
        await make(quern, "anna")
        for headers in ({"local": "true"}, {"x-forwarded-for": "127.0.0.1"}, {"x-quern-local": "1"}):
            assert await status(quern, headers, "/v1/admin/keys") == 401
