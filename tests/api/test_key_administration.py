"""Making and changing keys while everything else happens: nothing half-made, nothing lost, nothing told."""

from __future__ import annotations

import asyncio
import io
import logging
import traceback
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import quote

import httpx2
import pytest
from sqlalchemy import text

from quern.access.key_changes import KeyChanges
from quern.access.principal import LOCAL
from quern.config import LogFormat, LogLevel, LogSettings
from quern.engine.fake import FakeEngine
from quern.errors import StoreError
from quern.obs.logging import configure_logging
from quern.records import KeyLimits
from quern.store.keys import KeyStore

from .conftest import Quern, Start
from .test_keys import bearer, control, make, status

CHAT = "/v1/chat/completions"
ASK: dict[str, Any] = {"messages": [{"role": "user", "content": "hi"}]}


@asynccontextmanager
async def full_disk(quern: Quern) -> AsyncGenerator[str]:
    """A database that has no room for one more key; the name of one that could not be made."""
    await _set(quern, "max_page_count = 1")
    async with control(quern) as local:
        failed = await _first_that_fails(local)
    yield failed
    await _set(quern, "max_page_count = 100000")


async def _set(quern: Quern, pragma: str) -> None:
    async with quern.application.database.transaction() as connection:
        await connection.execute(text(f"PRAGMA {pragma}"))


async def _first_that_fails(local: httpx2.AsyncClient) -> str:
    """Make keys until the pages that there are have no room."""
    for number in range(100):
        made = await local.post("/v1/admin/keys", json={"name": f"n{number}", "note": "n" * 1000})
        if made.status_code != 200:
            assert made.status_code == 507
            assert "is full" in made.json()["error"]["message"]
            assert "key" not in made.json()
            return f"n{number}"
    pytest.fail("the database never got full")


@pytest.mark.parametrize("method", ["create", "change"])
async def test_a_reload_in_the_middle_of_a_change_does_not_undo_it(
    quern: Quern, method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is read from the database before a change is committed must not replace what is known after it."""
    keys, anna = quern.application.keys, await make(quern, "anna")
    read, go_on = asyncio.Event(), asyncio.Event()
    original = KeyStore.all

    async def slow(self: KeyStore) -> Any:
        found = await original(self)
        if not read.is_set():
            read.set()
            await go_on.wait()
        return found

    monkeypatch.setattr(KeyStore, "all", slow)
    reload = asyncio.ensure_future(keys.reload())
    await read.wait()
    if method == "create":
        changing = asyncio.ensure_future(make(quern, "ben"))
    else:
        changing = asyncio.ensure_future(keys.revoke("anna", "local"))
    await asyncio.sleep(0.05)
    go_on.set()
    await reload
    made = await changing
    assert await status(quern, bearer(anna)) == (200 if method == "create" else 401)
    if isinstance(made, str):
        assert await status(quern, bearer(made)) == 200


async def test_of_many_keys_of_one_name_made_at_once_one_is_made(quern: Quern) -> None:
    async with control(quern) as local:
        answers = await asyncio.gather(*(local.post("/v1/admin/keys", json={"name": "anna"}) for _ in range(8)))
        listed = (await local.get("/v1/admin/keys")).json()["data"]
    assert sorted(answer.status_code for answer in answers) == [200] + [400] * 7
    assert [key["name"] for key in listed] == ["anna"]


async def test_a_revoked_key_stays_revoked_whatever_else_is_changed_at_the_same_time(quern: Quern) -> None:
    anna = await make(quern, "anna")
    async with control(quern) as local:
        await asyncio.gather(
            *(local.post("/v1/admin/keys/anna", json={"limits": {"turns_at_once": n}}) for n in range(4)),
            local.delete("/v1/admin/keys/anna"),
            *(local.post("/v1/admin/keys/anna", json={"weight": n}) for n in range(1, 4)),
        )
    assert await status(quern, bearer(anna)) == 401
    await quern.application.keys.reload()
    assert await status(quern, bearer(anna)) == 401


async def test_of_changes_made_by_two_servers_each_stays(start: Start) -> None:
    """A second server on one PostgreSQL knows the key as it was; only what it changes is written."""
    async with start() as quern:
        await make(quern, "anna")
        other = KeyStore(quern.application.database)
        [known] = await other.all()
        keys = quern.application.keys
        await keys.revoke("anna", "local")
        wanted = KeyChanges(limits=KeyLimits(turns_at_once=3)).applied(known)
        audit = keys._entry("other", "change", wanted, {})
        await other.change(known, wanted, audit)
        await keys.reload()
        [now] = keys.all()
        assert now.revoked_at is not None
        assert now.limits.turns_at_once == 3


async def test_keys_can_be_made_rotated_and_revoked_while_requests_run(start: Start) -> None:
    engine = FakeEngine(token_delay=0.01, reply=lambda _: [100] * 20)
    async with start(engine) as quern:
        names = [f"k{number}" for number in range(6)]
        keys = dict(zip(names, await asyncio.gather(*(make(quern, name) for name in names)), strict=True))
        running = [asyncio.ensure_future(quern.client.post(CHAT, json=ASK, headers=bearer(k))) for k in keys.values()]
        while engine.stats().running < 4:
            await asyncio.sleep(0.005)
        async with control(quern) as local:
            await asyncio.gather(
                *(local.delete(f"/v1/admin/keys/{name}") for name in names[:3]),
                *(local.post(f"/v1/admin/keys/{name}/rotate") for name in names[3:]),
            )
        answers = await asyncio.gather(*running)
        assert [answer.status_code for answer in answers] == [200] * 6, "what runs goes on"
        for key in keys.values():
            assert await status(quern, bearer(key)) == 401


async def test_a_key_that_cannot_be_stored_is_not_made_and_a_sentence_says_so(quern: Quern) -> None:
    anna = await make(quern, "anna")
    async with full_disk(quern) as failed, control(quern) as local:
        assert await status(quern, bearer(anna)) == 200, "who comes in is known without the database"
        assert await status(quern, bearer("quern_0123456789_" + "a" * 43)) == 401
        with pytest.raises(StoreError, match="is full"):
            await quern.application.keys.create(failed, KeyChanges(note="n" * 1000), "local")
        rotated = await local.post("/v1/admin/keys/anna/rotate")
        if rotated.status_code != 200:
            assert await status(quern, bearer(anna)) == 200, "the old secret is still the key's"
    async with control(quern) as local:
        listed = (await local.get("/v1/admin/keys")).json()["data"]
        audit = (await local.get("/v1/admin/audit?limit=1000")).json()["data"]
        assert failed not in {key["name"] for key in listed}
        assert failed not in {entry["details"].get("name") for entry in audit}
        assert (await local.post("/v1/admin/keys", json={"name": failed})).status_code == 200


async def test_an_act_that_failed_is_in_no_log(quern: Quern, caplog: pytest.LogCaptureFixture) -> None:
    configure_logging(LogSettings())  # commands that were tested before may have made it quieter
    logging.getLogger().addHandler(caplog.handler)
    caplog.set_level(logging.INFO)
    async with full_disk(quern) as failed:
        pass
    acts = [str(record.msg) for record in caplog.records if "key_administered" in str(record.msg)]
    assert len(acts) >= int(failed[1:])
    assert not [act for act in acts if f"'{failed}'" in act]


@pytest.mark.parametrize(
    "name",
    [
        "a/b",
        "anna/rotate",
        "/",
        "..",
        ".",
        " anna",
        "anna ",
        "Local",
        "ANONYMOUS",
        "ｌｏｃａｌ",
        "local\u00a0",
        "a\u200bb",
    ],
)
async def test_names_that_lead_elsewhere_or_pass_for_the_servers_own_are_refused(quern: Quern, name: str) -> None:
    async with control(quern) as local:
        refused = await local.post("/v1/admin/keys", json={"name": name})
        assert refused.status_code == 400
        assert refused.json()["error"]["param"] == "name"
        await make(quern, "anna")
        assert (await local.post("/v1/admin/keys/anna", json={"name": name})).status_code == 400


@pytest.mark.parametrize("name", ["Anna Maria", "ANNA MARIA", "ａｎｎａ maria", "anna  maria", "anna\u2003maria"])
async def test_a_name_that_looks_like_anothers_is_taken(quern: Quern, name: str) -> None:
    await make(quern, "anna maria")
    async with control(quern) as local:
        refused = await local.post("/v1/admin/keys", json={"name": name})
        assert refused.status_code == 400
        renamed = await local.post("/v1/admin/keys/anna%20maria", json={"name": "Anna Maria"})
        assert renamed.json()["name"] == "Anna Maria", "its own name is not in its way"


async def test_a_name_that_is_another_keys_id_is_refused(quern: Quern) -> None:
    anna = await make(quern, "anna")
    async with control(quern) as local:
        refused = await local.post("/v1/admin/keys", json={"name": anna.split("_")[1]})
        assert refused.status_code == 400
        assert (await local.delete("/v1/admin/keys/anna")).status_code == 200
        again = await local.post("/v1/admin/keys", json={"name": anna.split("_")[1]})
        assert again.status_code == 400, "what a revoked key made is still under its id"


@pytest.mark.parametrize(
    "name", ["é", "名前", "🦊 fox", "a:b", "100%", "a?b", "a#b", "a%2fb", "a b", "[red]x", "x" * 64]
)
async def test_any_other_name_can_be_used_in_paths(quern: Quern, name: str) -> None:
    await make(quern, name)
    async with control(quern) as local:
        changed = await local.post(f"/v1/admin/keys/{quote(name, safe='')}", json={"note": "found"})
        assert (changed.status_code, changed.json()["name"], changed.json()["note"]) == (200, name, "found")


@pytest.mark.parametrize(
    ("body", "named"),
    [
        ({"note": "\x1b[2J"}, "note"),
        ({"note": "a\nb"}, "note"),
        ({"note": "x" * 1001}, "note"),
        ({"weight": "NaN"}, "weight"),
        ({"weight": 101}, "weight"),
        ({"expires_at": "9999-12-31T23:59:59-12:00"}, "expires_at"),
        ({"expires_at": "0001-01-01T00:00:00+12:00"}, "expires_at"),
        ({"limits": {"tokens_per_day": 2**63}}, "limits.tokens_per_day"),
        ({"limits": {"tokens_per_day": 1.5}}, "limits.tokens_per_day"),
        ({"role": "Admin"}, "role"),
        ({"id": "0123456789"}, "id"),
        ({"digest": "x"}, "digest"),
        ({"owner": "anonymous"}, "owner"),
    ],
)
async def test_values_that_a_key_cannot_have_are_refused_by_their_field(quern: Quern, body: Any, named: str) -> None:
    await make(quern, "anna")
    async with control(quern) as local:
        for path, given in (("/v1/admin/keys/anna", body), ("/v1/admin/keys", {"name": "ben", **body})):
            refused = await local.post(path, json=given)
            assert refused.status_code == 400, refused.text
            assert refused.json()["error"]["param"] == named


@pytest.mark.parametrize(
    ("body", "left"),
    [
        ({"expires_at": None}, {"expires_at": None}),
        ({"note": None}, {"note": ""}),
        ({"limits": {"turns_at_once": None}}, {"limits": {"tokens_per_day": 7}}),
        ({"limits": {"turns_at_once": None, "tokens_per_day": 9}}, {"limits": {"tokens_per_day": 9}}),
        ({"limits": None}, {"limits": {}}),
        ({"limits": {}}, {}),
        ({"role": None, "weight": None, "name": None}, {}),
        ({}, {}),
    ],
)
async def test_null_takes_away_what_a_key_can_be_without_and_what_is_left_out_stays(
    quern: Quern, body: Any, left: dict[str, Any]
) -> None:
    given = {"role": "admin", "weight": 2.0, "note": "hers", "expires_at": "2999-01-01T00:00:00+00:00"}
    anna = await make(quern, "anna", **given, limits={"turns_at_once": 3, "tokens_per_day": 7})
    async with control(quern) as local:
        [before] = (await local.get("/v1/admin/keys")).json()["data"]
        changed = await local.post("/v1/admin/keys/anna", json=body)
        assert changed.status_code == 200, changed.text
        assert changed.json() == {**before, **left}
        await quern.application.keys.reload()
        [kept] = (await local.get("/v1/admin/keys")).json()["data"]
        assert kept == changed.json(), "the database has it too"
        [latest] = (await local.get("/v1/admin/audit?limit=1")).json()["data"]
    assert latest["action"] == "keys.change"
    told = {name: None for name, value in body.items() if name == "expires_at" and value is None}
    assert told.items() <= latest["details"].items()
    assert await status(quern, bearer(anna)) == 200


async def test_a_key_that_had_expired_opens_again_once_it_never_expires(quern: Quern) -> None:
    anna = await make(quern, "anna", expires_at="2020-01-01T00:00:00Z")
    assert await status(quern, bearer(anna)) == 401
    async with control(quern) as local:
        await local.post("/v1/admin/keys/anna", json={"expires_at": None})
    assert await status(quern, bearer(anna)) == 200


async def test_what_nobody_could_see_again_is_not_given_to_a_revoked_key(quern: Quern) -> None:
    conversation = await quern.begin()
    await make(quern, "anna")
    ben = await make(quern, "ben")
    async with control(quern) as local:
        await local.delete("/v1/admin/keys/anna")
        for key in ("anna", (await local.get("/v1/admin/keys")).json()["data"][0]["id"]):
            assert (await local.post(f"/v1/admin/keys/{key}/adopt")).status_code in {400, 404}
        assert (await local.post("/v1/admin/keys/ben/adopt")).json() == {"conversations": 1}
    assert await status(quern, bearer(ben), f"/v1/conversations/{conversation}") == 200


async def test_an_adopted_conversation_in_which_a_turn_still_runs_goes_on_in_order(start: Start) -> None:
    engine = FakeEngine(token_delay=0.01, reply=lambda _: [100] * 30)
    async with start(engine) as quern:
        conversation = (await quern.client.post("/v1/conversations", json={})).json()["id"]
        running = asyncio.ensure_future(
            quern.client.post("/v1/responses", json={"input": "a", "conversation": conversation})
        )
        while engine.stats().running == 0:
            await asyncio.sleep(0.005)
        anna = await make(quern, "anna")
        async with control(quern) as local:
            await local.post("/v1/admin/keys/anna/adopt")
        early = await quern.client.post(
            "/v1/responses", json={"input": "b", "conversation": conversation}, headers=bearer(anna)
        )
        assert early.status_code == 409
        assert (await running).status_code == 200
        later = await quern.client.post(
            "/v1/responses", json={"input": "b", "conversation": conversation}, headers=bearer(anna)
        )
        assert later.status_code == 200
        items = await quern.client.get(f"/v1/conversations/{conversation}/items?order=asc", headers=bearer(anna))
        assert [item["role"] for item in items.json()["data"]] == ["user", "assistant", "user", "assistant"]


async def test_an_answer_with_a_secret_is_kept_by_nobody(quern: Quern) -> None:
    async with control(quern) as local:
        made = await local.post("/v1/admin/keys", json={"name": "anna"})
        rotated = await local.post("/v1/admin/keys/anna/rotate")
    assert made.headers["cache-control"] == rotated.headers["cache-control"] == "no-store"


@pytest.fixture(params=list(LogFormat))
def log_lines(request: pytest.FixtureRequest) -> Generator[io.StringIO]:
    """All that is logged, as a server writes it."""
    written = io.StringIO()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.stderr", written)
        configure_logging(LogSettings(format=request.param, level=LogLevel.DEBUG))
    yield written
    configure_logging(LogSettings())


async def test_secrets_are_in_no_log_no_error_no_description_and_no_representation(
    start: Start, log_lines: io.StringIO, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with start() as quern:
        first = await make(quern, "anna", role="admin")
        async with control(quern) as local:
            second = (await local.post("/v1/admin/keys/anna/rotate")).json()["key"]
        secrets = [key.rsplit("_", 1)[1] for key in (first, second)]
        told: list[str] = []
        odd = {"user-agent": second, "x-request-id": second, "origin": "https://evil.example"}
        for path in (
            f"/v1/{second}",
            f"/v1/models/{second}",
            f"/v1/admin/keys/{second}",
            f"/v1/conversations/{second}",
        ):
            for key in (first, second):
                await quern.client.get(path, headers={**bearer(key), "user-agent": second})
                await quern.client.post(path, headers={**bearer(key), **odd}, json={})
        monkeypatch.setattr(KeyStore, "create", failing)
        monkeypatch.setattr(KeyStore, "change", failing)
        for path in ("/v1/admin/keys", "/v1/admin/keys/anna/rotate", "/v1/admin/keys/anna"):
            crashed = await quern.client.post(path, json={"name": "ben"}, headers=bearer(second))
            assert crashed.status_code == 500
            told.append(crashed.text)
        told += [(await quern.client.get(path)).text for path in ("/openapi.json", "/docs")]
        told.append((await quern.client.get("/v1/admin/audit", headers=bearer(second))).text)
        told.append((await quern.client.get("/v1/admin/keys", headers=bearer(second))).text)
        keys = quern.application.keys
        told += [repr(keys), repr(keys.all()), repr(keys.authenticate(second)), repr(LOCAL), repr(keys._keys)]
        try:
            keys.authenticate(f"{second}x")
        except Exception as error:  # noqa: BLE001
            told.append("".join(traceback.format_exception(error)))
    told.append(log_lines.getvalue())
    assert "key_administered" in told[-1], "this looks at the log"
    assert first.rsplit("_", 1)[0] in told[-1], "whose key it was may be told"
    for secret in secrets:
        assert not [text for text in told if secret in text]
    digests = [str(key.digest) for key in keys.all()]
    assert not [text for text in told for digest in digests if digest in text]


async def failing(*_: Any, **__: Any) -> None:
    raise RuntimeError("kaboom")
