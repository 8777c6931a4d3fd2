"""Health, readiness, models, request ids, limits, the API page."""

import asyncio
from collections.abc import AsyncGenerator

import pytest
from blockbuster import BlockBuster

from quern.engine.fake import FakeEngine

from .conftest import Quern, Start


async def test_a_loaded_server_is_alive_and_ready(quern: Quern) -> None:
    assert (await quern.client.get("/health")).json() == {"status": "ok"}
    response = await quern.client.get("/ready")
    assert response.status_code == 200
    assert response.json() == {"status": "ready", "load_progress": 1.0, "running": 0, "waiting": 0}


async def test_the_served_model_is_listed_with_what_a_client_needs_to_budget(quern: Quern) -> None:
    body = (await quern.client.get("/v1/models")).json()
    assert body["object"] == "list"
    (model,) = body["data"]
    assert model["object"] == "model"
    assert model["context_length"] == quern.engine.info.context_length
    assert model["id"] == quern.engine.info.model_id


async def test_a_well_formed_request_id_is_kept_and_returned(quern: Quern) -> None:
    response = await quern.client.get("/health", headers={"x-request-id": "abc-123.def:4_5"})
    assert response.headers["x-request-id"] == "abc-123.def:4_5"


@pytest.mark.parametrize("given", ["", "has space", "x" * 129, "semi;colon", "ütf"])
async def test_a_malformed_request_id_is_replaced(quern: Quern, given: str) -> None:
    response = await quern.client.get("/health", headers=[(b"x-request-id", given.encode())])
    assert response.headers["x-request-id"] != given
    assert len(response.headers["x-request-id"]) == 32


@pytest.mark.parametrize("path", ["/health", "/nowhere", "/v1/conversations/unknown"])
async def test_every_answer_has_a_request_id_errors_too(quern: Quern, path: str) -> None:
    assert (await quern.client.get(path)).headers["x-request-id"]


async def test_a_bug_is_a_500_in_the_agreed_shape_with_a_request_id(
    start: Start, no_blocking_calls: BlockBuster
) -> None:
    no_blocking_calls.deactivate()  # the traceback in the log reads the source files

    def bug(_request: object) -> tuple[int, ...]:
        msg = "the reply function is broken"
        raise ZeroDivisionError(msg)

    async with start(FakeEngine(reply=bug)) as quern:
        response = await quern.client.post("/v1/code/generate", data={"prompt": "x"})
    assert response.status_code == 500
    assert response.json() == {"detail": "服务器内部错误: ZeroDivisionError: the reply function is broken"}
    assert response.headers["x-request-id"]


@pytest.mark.parametrize("announced", [True, False])
async def test_a_body_over_the_limit_is_a_413_whether_announced_or_not(start: Start, announced: bool) -> None:
    async def body() -> AsyncGenerator[bytes]:
        yield b"prompt="
        for _ in range(100):
            yield b"x" * 1000

    headers = {"content-type": "application/x-www-form-urlencoded"}
    async with start(server={"max_request_bytes": 5000}) as quern:
        content = b"prompt=" + b"x" * 100_000 if announced else body()
        response = await quern.client.post("/v1/code/generate", content=content, headers=headers)
        assert response.status_code == 413
        assert response.json() == {
            "detail": "The request body is larger than 5000 bytes, the limit set by server.max_request_bytes. Send a "
            "shorter prompt."
        }
        assert response.headers["x-request-id"]
        assert not quern.engine.requests


async def test_the_api_page_and_its_description_list_every_route_and_form_field(quern: Quern) -> None:
    assert (await quern.client.get("/docs")).status_code == 200
    paths = (await quern.client.get("/openapi.json")).json()["paths"]
    assert set(paths) == {
        "/metrics",
        "/v1/turns",
        "/v1/turns/{turn_id}",
        "/v1/turns/{turn_id}/events",
        "/v1/turns/{turn_id}/cancel",
        "/v1/turns/{turn_id}/continue",
        "/v1/admin/reload",
        "/v1/usage",
        "/v1/admin/activity",
        "/v1/admin/audit",
        "/v1/admin/keys",
        "/v1/admin/keys/{key}",
        "/v1/admin/keys/{key}/adopt",
        "/v1/admin/keys/{key}/rotate",
        "/",
        "/api/chat",
        "/api/embed",
        "/api/embeddings",
        "/api/generate",
        "/api/ps",
        "/api/pull",
        "/api/show",
        "/api/tags",
        "/api/version",
        "/apply-template",
        "/completion",
        "/completions",
        "/detokenize",
        "/health",
        "/infill",
        "/models",
        "/props",
        "/ready",
        "/slots",
        "/tokenize",
        "/v1/chat/completions",
        "/v1/code/chat_stream",
        "/v1/code/generate",
        "/v1/completions",
        "/v1/conversations",
        "/v1/conversations/export",
        "/v1/conversations/import",
        "/v1/conversations/search",
        "/v1/conversations/{conversation_id}",
        "/v1/conversations/{conversation_id}/branches",
        "/v1/conversations/{conversation_id}/export",
        "/v1/conversations/{conversation_id}/head",
        "/v1/conversations/{conversation_id}/regenerate",
        "/v1/conversations/{conversation_id}/items",
        "/v1/conversations/{conversation_id}/items/{item_id}",
        "/v1/conversations/{conversation_id}/items/{item_id}/edit",
        "/v1/conversations/{conversation_id}/stream",
        "/v1/embeddings",
        "/v1/engines/{engine}/completions",
        "/v1/fim/completions",
        "/v1/messages",
        "/v1/messages/count_tokens",
        "/v1/models",
        "/v1/models/{model}",
        "/v1/responses",
        "/v1/responses/compact",
        "/v1/responses/input_tokens",
        "/v1/responses/{response_id}",
        "/v1/responses/{response_id}/cancel",
        "/v1/responses/{response_id}/input_items",
    }
    body = paths["/v1/code/chat_stream"]["post"]["requestBody"]["content"]["application/x-www-form-urlencoded"]
    assert {"prompt", "conversation_id", "seed", "stop"} <= set(body["schema"]["properties"])


async def test_draining_lets_running_turns_finish_and_refuses_new_ones(start: Start) -> None:
    async with start(FakeEngine(token_delay=0.01, reply=lambda _request: tuple(b"x" * 20))) as quern:
        running = asyncio.ensure_future(quern.client.post("/v1/code/generate", data={"prompt": "x"}))
        while not quern.engine.stats().running:
            await asyncio.sleep(0.005)
        draining = asyncio.ensure_future(quern.application.turns.drain(20))
        await asyncio.sleep(0)
        refused = await quern.client.post("/v1/code/generate", data={"prompt": "x"})
        assert refused.status_code == 503
        assert int(refused.headers["retry-after"]) >= 1
        assert refused.json()["detail"].startswith("The server is about to stop")
        assert (await quern.client.get("/ready")).status_code == 503
        assert (await running).json() == {"status": "success", "result": "x" * 20}
        await draining


async def test_turns_that_outlast_the_grace_end_as_interrupted_with_their_text(start: Start) -> None:
    engine = FakeEngine(token_delay=0.01, reply=lambda _request: tuple(b"x" * 3000))
    async with start(engine) as quern:
        running = asyncio.ensure_future(quern.chat("hello"))
        while not quern.engine.stats().running:
            await asyncio.sleep(0.005)
        await quern.application.turns.drain(0.2)
        await asyncio.gather(running, return_exceptions=True)
        conversation_id = (await quern.client.get("/v1/conversations")).json()["data"][0]["id"]
        turn = (await quern.client.get(f"/v1/conversations/{conversation_id}")).json()["turns"][0]
    assert turn["state"] == "interrupted"
    assert turn["text"].startswith("xxx")


async def test_sixteen_streams_at_once_all_make_progress_while_health_answers(start: Start) -> None:
    engine = FakeEngine(parallel=16, token_delay=0.2, reply=lambda _request: tuple(b"x" * 100))
    async with start(engine, live=True) as quern, asyncio.TaskGroup() as group:
        streams = [group.create_task(quern.chat(f"stream {n}")) for n in range(16)]
        while quern.engine.stats().running < 16:
            await asyncio.sleep(0.005)
        engine.token_delay = 0
        assert (await quern.client.get("/health")).status_code == 200
    assert {stream.result().text.partition("\n---\n")[2] for stream in streams} == {"x" * 100}


async def test_the_api_description_lists_the_error_statuses_of_each_route_in_its_dialect(quern: Quern) -> None:
    paths = (await quern.client.get("/openapi.json")).json()["paths"]
    assert {"400", "403", "404", "409", "413", "500", "503"} <= set(paths["/v1/chat/completions"]["post"]["responses"])
    assert {"400", "403", "404", "413", "500", "529"} <= set(paths["/v1/messages"]["post"]["responses"])
    assert {"422", "403", "404", "409", "413", "500", "503"} <= set(paths["/v1/code/chat_stream"]["post"]["responses"])
    assert {"400", "403", "404", "409"} <= set(paths["/v1/conversations/{conversation_id}"]["delete"]["responses"])
    for path, operations in paths.items():
        for operation in operations.values():
            keyed = "Idempotency-Key" in {parameter["name"] for parameter in operation.get("parameters", ())}
            assert ("422" in operation["responses"]) == (keyed or path.startswith("/v1/code/")), path
            assert {"403", "500"} <= set(operation["responses"])
            assert ("415" in operation["responses"]) == ("requestBody" in operation)


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("post", "/v1/chat/completions"),
        ("post", "/v1/completions"),
        ("post", "/v1/fim/completions"),
        ("post", "/v1/responses"),
        ("post", "/v1/messages"),
        ("post", "/api/chat"),
        ("post", "/api/generate"),
        ("post", "/completion"),
        ("post", "/infill"),
        ("post", "/v1/code/generate"),
        ("post", "/v1/code/chat_stream"),
        ("post", "/v1/turns/{turn_id}/continue"),
        ("post", "/v1/conversations/{conversation_id}/regenerate"),
        ("post", "/v1/conversations/{conversation_id}/items/{item_id}/edit"),
    ],
)
async def test_the_api_description_has_the_key_of_what_starts_turns_and_the_status_of_one_that_was_reused(
    quern: Quern, method: str, path: str
) -> None:
    operation = (await quern.client.get("/openapi.json")).json()["paths"][path][method]
    assert "Idempotency-Key" in {parameter["name"] for parameter in operation["parameters"]}
    assert "another request" in operation["responses"]["422"]["description"]


async def test_what_starts_no_turn_takes_no_key_in_the_api_description(quern: Quern) -> None:
    paths = (await quern.client.get("/openapi.json")).json()["paths"]
    for path in ("/v1/models", "/v1/conversations", "/tokenize", "/v1/turns/{turn_id}/cancel", "/v1/usage"):
        for operation in paths[path].values():
            assert "Idempotency-Key" not in {parameter["name"] for parameter in operation.get("parameters", ())}


async def test_the_api_description_says_how_a_stream_of_events_ends_for_who_saw_them_all(quern: Quern) -> None:
    events = (await quern.client.get("/openapi.json")).json()["paths"]["/v1/turns/{turn_id}/events"]["get"]
    assert {"200", "204"} <= set(events["responses"])
