"""Several models on one server: requests choose by name, in every dialect."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest

from quern.app import Application
from quern.config import Settings
from quern.engine.fake import FakeEngine
from quern.engine.residency import OnDemandEngine, Residency
from quern.prompt.codec import TextCodec
from quern.turns.models import ServedModel

EMBEDDING_LENGTH = 8
MESSAGES = [{"role": "user", "content": "hello"}]


def engine(name: str, **options: Any) -> FakeEngine:
    """Answers with its name."""
    return FakeEngine(
        model_id=name,
        reply=lambda _: (name * (20 if options.get("token_delay") else 1)).encode(),
        vocabulary_size=TextCodec.builtin().vocabulary_size,
        **options,
    )


def writing(name: str, *aliases: str, **options: Any) -> ServedModel:
    return ServedModel(name, engine(name, **options), TextCodec.builtin(), frozenset(aliases))


def embedding(name: str) -> ServedModel:
    return ServedModel(
        name,
        engine(name, embedding_length=EMBEDDING_LENGTH),
        TextCodec.builtin(embedding_length=EMBEDDING_LENGTH),
    )


def on_demand(name: str, residency: Residency, size: int, **options: Any) -> ServedModel:
    demanded = OnDemandEngine(name, lambda: engine(name, **options), residency, size=size)
    return ServedModel(name, demanded, TextCodec.builtin())


@asynccontextmanager
async def serving(folder: Path, *models: ServedModel, **overrides: object) -> AsyncGenerator[httpx2.AsyncClient]:
    application = Application(Settings.model_validate({"data_dir": folder, **overrides}), models)
    async with application.running() as loading:
        await loading
        transport = httpx2.ASGITransport(app=application.asgi, raise_app_exceptions=False)
        async with httpx2.AsyncClient(transport=transport, base_url="http://localhost", timeout=20) as client:
            yield client


@pytest.fixture
async def client(tmp_path: Path) -> AsyncIterator[httpx2.AsyncClient]:
    models = writing("chat", "gpt-4o"), writing("gaps"), embedding("vectors")
    async with serving(tmp_path, *models) as client:
        yield client


REQUESTS: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {"messages": MESSAGES},
    "/v1/completions": {"prompt": "hello"},
    "/v1/responses": {"input": "hello"},
    "/v1/messages": {"messages": MESSAGES, "max_tokens": 20},
    "/v1/fim/completions": {"prompt": "a", "suffix": "b"},
    "/api/chat": {"messages": MESSAGES, "stream": False},
    "/api/generate": {"prompt": "hello", "stream": False},
    "/infill": {"input_prefix": "a", "input_suffix": "b"},
    "/completion": {"prompt": "hello"},
}


@pytest.mark.parametrize("path", REQUESTS)
@pytest.mark.parametrize(
    ("asked", "answering"), [("chat", "chat"), ("gpt-4o", "chat"), ("gaps", "gaps"), ("", "chat"), (None, "chat")]
)
async def test_the_model_that_is_named_answers_and_without_a_name_the_default_does(
    client: httpx2.AsyncClient, path: str, asked: str | None, answering: str
) -> None:
    body = REQUESTS[path] if asked is None else {**REQUESTS[path], "model": asked}
    response = await client.post(path, json=body)
    assert response.status_code == 200, response.text
    other = {"chat": "gaps", "gaps": "chat"}[answering]
    said = response.text.replace(asked or answering, "", 1) if asked == answering else response.text
    assert answering in said
    assert other not in said.replace("chat.completion", "").replace("chatcmpl", "")


@pytest.mark.parametrize("path", REQUESTS)
async def test_a_name_that_no_model_has_is_a_404_that_lists_them(client: httpx2.AsyncClient, path: str) -> None:
    response = await client.post(path, json={**REQUESTS[path], "model": "llama"})
    assert response.status_code == 404
    assert "'llama' is not served here; 'chat' and 'gaps' and 'vectors' are" in response.text


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/embeddings", {"model": "vectors", "input": "x"}),
        ("/api/embed", {"model": "vectors", "input": "x"}),
        ("/api/embed", {"model": "vectors:latest", "input": "x"}),
    ],
)
async def test_vectors_come_from_the_model_that_makes_them(
    client: httpx2.AsyncClient, path: str, body: dict[str, Any]
) -> None:
    response = await client.post(path, json=body)
    assert response.status_code == 200, response.text
    assert str(body["model"]).removesuffix(":latest") in response.json()["model"]
    refused = await client.post(path, json={**body, "model": "chat"})
    assert refused.status_code == 400
    assert "'chat' writes text and makes no embeddings" in refused.text


async def test_text_of_a_model_that_makes_vectors_is_a_400(client: httpx2.AsyncClient) -> None:
    response = await client.post("/v1/chat/completions", json={"messages": MESSAGES, "model": "vectors"})
    assert response.status_code == 400
    assert "makes embeddings and writes no text" in response.text


async def test_the_lists_have_all_models_and_what_each_can_do(client: httpx2.AsyncClient) -> None:
    listed = (await client.get("/v1/models")).json()["data"]
    assert [(one["id"], one["root"]) for one in listed] == [
        ("chat", "chat"),
        ("gaps", "gaps"),
        ("vectors", "vectors"),
        ("gpt-4o", "chat"),
    ]
    assert [one["embedding_length"] for one in listed] == [None, None, EMBEDDING_LENGTH, None]
    assert [one["name"] for one in (await client.get("/api/tags")).json()["models"]] == [
        "chat:latest",
        "gaps:latest",
        "vectors:latest",
        "gpt-4o:latest",
    ]
    assert [one["name"] for one in (await client.get("/api/ps")).json()["models"]] == [
        "chat:latest",
        "gaps:latest",
        "vectors:latest",
    ]
    assert (await client.get("/v1/models/gpt-4o")).json()["root"] == "chat"


async def test_metrics_and_activity_tell_the_models_apart(client: httpx2.AsyncClient) -> None:
    text = (await client.get("/metrics")).text
    for name in ("chat", "gaps", "vectors"):
        assert f'quern_engine_state{{model_name="{name}",state="ready"}} 1.0' in text
        assert f'quern_num_requests_running{{model_name="{name}"}} 0.0' in text
        assert f'model_name="{name}"' in next(
            line for line in text.splitlines() if line.startswith("quern_model_info") and f'"{name}"' in line
        )


async def test_another_answer_comes_from_the_model_that_gave_the_first(client: httpx2.AsyncClient) -> None:
    conversation = (await client.post("/v1/conversations", json={})).json()["id"]
    named = {"X-Quern-Conversation": conversation}
    first = await client.post("/v1/chat/completions", json={"messages": MESSAGES, "model": "gaps"}, headers=named)
    assert first.json()["choices"][0]["message"]["content"] == "gaps"
    again = await client.post(f"/v1/conversations/{conversation}/regenerate", json={"stream": False})
    assert again.status_code == 200, again.text
    turns = (await client.get("/v1/turns")).json()["data"]
    assert [turn["model"] for turn in turns] == ["gaps", "gaps"]


async def test_a_turn_of_a_model_that_is_not_served_any_more_is_told_as_text_and_cannot_go_on(tmp_path: Path) -> None:
    async with serving(tmp_path, writing("old")) as client:
        stopped = await client.post("/v1/chat/completions", json={"messages": MESSAGES, "max_tokens": 2})
        turn = stopped.headers["x-quern-turn-id"]
    async with serving(tmp_path, writing("new")) as client:
        refused = await client.post(f"/v1/turns/{turn}/continue", json={})
        assert refused.status_code == 409
        assert "written by the model old, and new is served now" in refused.text
        assert (await client.get(f"/v1/turns/{turn}")).json()["model"] == "old"


async def test_places_are_each_models_own(tmp_path: Path) -> None:
    slow = {"parallel": 1, "token_delay": 0.1}
    async with serving(tmp_path, writing("a", **slow), writing("b"), turns={"max_queued": 0}) as client:
        first = asyncio.ensure_future(client.post("/v1/chat/completions", json={"messages": MESSAGES, "model": "a"}))
        async with asyncio.timeout(10):
            while not (await client.get("/v1/turns")).json()["data"]:
                await asyncio.sleep(0.01)
        refused = await client.post("/v1/chat/completions", json={"messages": MESSAGES, "model": "a"})
        served = await client.post("/v1/chat/completions", json={"messages": MESSAGES, "model": "b"})
        await first
    assert (refused.status_code, served.status_code) == (503, 200)


async def test_a_model_that_waits_for_memory_is_listed_served_when_asked_and_takes_the_others_place(
    tmp_path: Path,
) -> None:
    residency = Residency(100)
    models = on_demand("a", residency, 60), on_demand("b", residency, 60)
    async with serving(tmp_path, *models) as client:
        listed = {one["id"]: one for one in (await client.get("/v1/models")).json()["data"]}
        assert [listed[name]["state"] for name in "ab"] == ["ready", "unloaded"]
        assert listed["b"]["context_length"] is None
        for name in ("b", "a", "b"):
            response = await client.post("/v1/chat/completions", json={"messages": MESSAGES, "model": name})
            assert response.json()["choices"][0]["message"]["content"] == name
        listed = {one["id"]: one for one in (await client.get("/v1/models")).json()["data"]}
        assert [listed[name]["state"] for name in "ab"] == ["unloaded", "ready"]
        assert listed["a"]["context_length"] == listed["b"]["context_length"]
        assert [one["name"] for one in (await client.get("/api/ps")).json()["models"]] == ["b:latest"]
        assert (await client.get("/ready")).status_code == 200, "the default can be asked although it is not loaded"


async def test_who_waits_for_a_model_that_was_there_before_is_told_how_far_it_is(tmp_path: Path) -> None:
    residency = Residency(100)
    models = on_demand("a", residency, 60, load_delay=0.2), on_demand("b", residency, 60)
    async with serving(tmp_path, *models) as client:
        await client.post("/v1/chat/completions", json={"messages": MESSAGES, "model": "b"})
        started = await client.post(
            "/v1/responses", json={"input": "x", "model": "a", "background": True, "store": True}
        )
        turn = started.headers["x-quern-turn-id"]
        events = await client.get(f"/v1/turns/{turn}/events")
    assert "event: loading" in events.text
    assert '"state":"completed"' in events.text.replace(" ", "")
