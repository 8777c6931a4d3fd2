"""Every path as any server has it: HEAD, OPTIONS, Allow, slashes, and help where there is nothing."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from quern.engine.fake import FakeEngine

from .conftest import Quern, Start

USER: list[Any] = [{"role": "user", "content": "hi"}]


@pytest.mark.parametrize("path", ["/health", "/ready", "/v1/models", "/v1/models/fake", "/v1/conversations", "/docs"])
async def test_head_is_get_without_a_body(quern: Quern, path: str) -> None:
    path = path.replace("fake", quern.engine.info.model_id)
    got, head = await quern.client.get(path), await quern.client.head(path)
    assert head.status_code == got.status_code == 200
    assert not head.content
    assert head.headers["content-type"] == got.headers["content-type"]
    assert head.headers["content-length"] == got.headers["content-length"]


async def test_head_of_what_is_not_there_is_a_404_and_of_what_takes_posts_a_405(quern: Quern) -> None:
    assert (await quern.client.head("/v1/conversations/unknown")).status_code == 404
    assert (await quern.client.head("/nowhere")).status_code == 404
    assert (await quern.client.head("/v1/chat/completions")).status_code == 405


@pytest.mark.parametrize("live", [False, True])
async def test_head_of_a_stream_ends_at_once_and_leaves_the_turn_alone(start: Start, live: bool) -> None:
    engine = FakeEngine(token_delay=0.01, reply=lambda _request: tuple(b"x" * 500))
    async with start(engine, live=live) as quern:
        running = asyncio.ensure_future(quern.chat("hello"))
        while not quern.engine.stats().running:
            await asyncio.sleep(0.005)
        conversation_id = (await quern.client.get("/v1/conversations")).json()["data"][0]["id"]
        head = await quern.client.head(f"/v1/conversations/{conversation_id}/stream")
        assert (head.status_code, head.content) == (200, b"")
        assert not running.done()
        engine.token_delay = 0
        assert (await running).text.endswith("x" * 500)


async def test_a_method_that_a_path_does_not_take_names_all_that_it_does(quern: Quern) -> None:
    for path, methods in {
        "/v1/chat/completions": "OPTIONS, POST",
        "/v1/conversations": "DELETE, GET, HEAD, OPTIONS, POST",
        "/v1/conversations/x/head": "OPTIONS, POST",
        "/v1/conversations/x/items/y": "DELETE, GET, HEAD, OPTIONS",
        "/v1/models": "GET, HEAD, OPTIONS",
        "/v1/messages": "OPTIONS, POST",
        "/v1/code/generate": "OPTIONS, POST",
    }.items():
        response = await quern.client.patch(path)
        assert response.status_code == 405
        assert response.headers["allow"] == methods
        body = response.json()
        assert methods in (body["detail"] if path.startswith("/v1/code") else body["error"]["message"])
        options = await quern.client.options(path)
        assert (options.status_code, options.headers["allow"], options.content) == (204, methods, b"")


async def test_options_of_an_unknown_path_is_a_404(quern: Quern) -> None:
    assert (await quern.client.options("/nowhere")).status_code == 404


@pytest.mark.parametrize("path", ["/v1/models/", "//v1/models", "/v1//models//"])
async def test_slashes_too_many_change_nothing_for_a_get(quern: Quern, path: str) -> None:
    response = await quern.client.get(f"http://localhost{path}")
    assert response.json()["object"] == "list"


@pytest.mark.parametrize("path", ["/v1/chat/completions/", "//v1/chat/completions", "/v1//chat/completions"])
async def test_a_post_with_slashes_too_many_is_answered_where_it_came_in(quern: Quern, path: str) -> None:
    response = await quern.client.post(f"http://localhost{path}", json={"messages": USER}, follow_redirects=False)
    assert response.status_code == 200, response.text
    assert response.json()["object"] == "chat.completion"


async def test_slashes_too_many_never_delete_more_than_was_meant(quern: Quern) -> None:
    await quern.begin()
    response = await quern.client.delete("http://localhost/v1/conversations//")
    assert response.status_code == 400
    assert (await quern.client.get("/v1/conversations")).json()["data"]


@pytest.mark.parametrize(
    ("path", "meant"),
    [
        ("/v1/v1/chat/completions", "POST /v1/chat/completions"),
        ("/chat/completions", "POST /v1/chat/completions"),
        ("/api/v1/chat/completions", "POST /v1/chat/completions"),
        ("/openai/v1/responses", "POST /v1/responses"),
        ("/v1/chat/completion", "POST /v1/chat/completions"),
        ("/v1/v1/models", "GET /v1/models"),
        ("/v1/infill", "POST /infill"),
        ("/v1/tokenize", "POST /tokenize"),
        ("/v1/completion", "POST /v1/completions"),
        ("/chat/completion", "POST /v1/chat/completions"),
        ("/V1/Chat/Completions", "POST /v1/chat/completions"),
        ("/openai/deployments/gpt/chat/completions", "POST /v1/chat/completions"),
        ("/v1/response", "POST /v1/responses"),
        ("/v1/embedding", "POST /v1/embeddings"),
        ("/v1/engines/x/completion", "POST /v1/engines/{engine}/completions"),
        ("/engines/x/completions", "POST /v1/engines/{engine}/completions"),
        ("/v1/model", "GET /v1/models"),
        ("/v1/modelss/x", "GET /v1/models/{model}"),
        ("/conversation", "POST /v1/conversations"),
        ("/conversations/x", "POST /v1/conversations/{conversation_id}"),
        ("/tokenise", "POST /tokenize"),
    ],
)
async def test_an_unknown_path_is_told_the_nearest_route_and_the_base_urls(quern: Quern, path: str, meant: str) -> None:
    response = await quern.client.post(path, json={}, headers={"host": "127.0.0.1:8001"})
    assert response.status_code == 404
    error = response.json()["error"]
    assert meant in error["message"]
    assert "http://127.0.0.1:8001/v1 for OpenAI's" in error["message"]
    assert "http://127.0.0.1:8001 for Anthropic's" in error["message"]
    assert (error["type"], error["code"]) == ("invalid_request_error", "not_found")


@pytest.mark.parametrize(
    "path", ["/v1/v1/messages", "/messages", "/anthropic/v1/messages", "/v1/messages/batches", "/v1/messages/count"]
)
async def test_where_anthropics_clients_go_wrong_they_are_told_in_their_style(quern: Quern, path: str) -> None:
    response = await quern.client.post(path, json={})
    assert response.status_code == 404
    assert response.json()["error"]["type"] == "not_found_error"
    assert "/v1/messages" in response.json()["error"]["message"]


@pytest.mark.parametrize(
    "path",
    [
        *("/favicon.ico", "/robots.txt", "/index.html", "/sitemap.xml", "/.well-known/x", "/.env"),
        *("/nowhere", "/x", "/v1", "/api", "/v1/chat", "/v1/nothing", "/v1/moderations", "/v1/files", "/stats"),
        *("/v1/images/generations", "/v1/audio/transcriptions", "/v1/edits", "/v1/batches", "/v1/messages/batches"),
        *("/v1/threads", "/v1/rerank", "/livez", "/status", "/test", "/generate", "/invocations", "/version"),
        *("/v1/chat-completions", "/v1/chatcompletions", "/openapi.yaml", "/metrics/x", "/a/b/c/d/e/f/g/h"),
    ],
)
async def test_a_path_like_nothing_here_is_told_the_base_urls_only(quern: Quern, path: str) -> None:
    for response in (await quern.client.get(path), await quern.client.post(path, json={})):
        assert response.status_code == 404
        assert "probably" not in response.text
        assert "http://localhost/v1" in response.text


@pytest.mark.parametrize(
    ("path", "meant"),
    [("/api/chats", "POST /api/chat"), ("/api/tag", "GET /api/tags"), ("/ollama/api/generate", "POST /api/generate")],
)
async def test_where_ollamas_clients_go_wrong_they_are_told_in_their_style(quern: Quern, path: str, meant: str) -> None:
    response = await quern.client.post(path, json={})
    assert response.status_code == 404
    assert meant in response.json()["error"]


async def test_where_healths_callers_go_wrong_they_are_told_in_its_style(quern: Quern) -> None:
    for path, meant in {"/healthz": "GET /health", "/readyz": "GET /ready", "/doc": "GET /docs"}.items():
        assert f"You probably mean {meant}. " in (await quern.client.get(path)).json()["detail"]


async def test_a_slip_with_any_method_is_told_what_the_path_takes(quern: Quern) -> None:
    for method, told in {"DELETE": "DELETE", "GET": "GET", "PUT": "DELETE or GET or POST"}.items():
        message = (await quern.client.request(method, "/v1/conversation")).json()["error"]["message"]
        assert f"You probably mean {told} /v1/conversations. " in message


async def test_paths_of_any_length_are_answered(quern: Quern) -> None:
    for path in ("/" + "a" * 5000, "/a" * 2500, "/v1/" + "chat/" * 900 + "completions", "/%00%ff/..;/x"):
        assert (await quern.client.get(path)).status_code == 404
