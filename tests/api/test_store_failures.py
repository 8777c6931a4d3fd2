"""A database that can't be written in the middle of things: nothing hangs, nothing is claimed that isn't stored."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Generator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
import structlog

from quern.engine.fake import FakeEngine
from quern.errors import StoreError
from quern.store.turns import TurnStore

from .conftest import Start

FULL = "The disk is full."
HELLO = [{"role": "user", "content": "hello"}]


@pytest.fixture
def broken_methods(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """Names of TurnStore methods that fail as long as they are in this set."""
    broken: set[str] = set()

    def breakable(name: str) -> None:
        original = getattr(TurnStore, name)

        async def method(self: TurnStore, *arguments: object) -> object:
            if name in broken:
                raise StoreError(FULL)
            return await original(self, *arguments)

        monkeypatch.setattr(TurnStore, name, method)

    for name in ("create", "append", "finish"):
        breakable(name)
    return broken


async def test_a_turn_that_cannot_be_stored_is_a_500_and_never_reaches_the_engine(
    start: Start, broken_methods: set[str]
) -> None:
    async with start() as quern:
        broken_methods.add("create")
        response = await quern.chat("hello")
        assert response.status_code == 500
        assert response.json() == {"detail": f"服务器内部错误: {FULL}"}
        assert not quern.engine.requests
        broken_methods.clear()
        assert (await quern.chat("hello")).status_code == 200


async def test_a_turn_whose_end_cannot_be_stored_is_failed_and_the_conversation_goes_on_once_it_can(
    start: Start, broken_methods: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("quern.turns.runner.STORE_RETRY_SECONDS", 0.02)
    async with start(FakeEngine(reply=lambda _request: tuple(b"answer"))) as quern:
        conversation_id = await quern.begin("first")
        broken_methods.add("finish")
        await asyncio.gather(quern.chat("second", conversation_id), return_exceptions=True)
        assert (await quern.chat("too early", conversation_id)).status_code == 409
        broken_methods.clear()
        async with asyncio.timeout(5):
            while quern.application.turns.active:
                await asyncio.sleep(0.01)
        assert (await quern.chat("third", conversation_id)).text == "answer"
        body = (await quern.client.get(f"/v1/conversations/{conversation_id}")).json()
    assert [turn["state"] for turn in body["turns"]] == ["completed", "failed", "completed"]
    assert FULL in body["turns"][1]["error"]
    assert body["turns"][1]["text"] == "answer", "the text is kept all the same"


async def test_a_journal_that_cannot_be_written_for_a_while_costs_no_turn(
    start: Start, broken_methods: set[str]
) -> None:
    engine = FakeEngine(token_delay=0.005, reply=lambda _request: tuple(b"x" * 60))
    async with start(engine, turns={"commit_interval_ms": 10}) as quern:
        broken_methods.add("append")
        with structlog.testing.capture_logs() as lines:
            response = await quern.chat("hello")
        assert response.text.endswith("x" * 60)
        assert [line["event"] for line in lines].count("journal_not_saved") == 1, "a full disk has no room for more"


async def test_stopping_does_not_wait_for_a_store_that_never_works_again(
    start: Start, broken_methods: set[str]
) -> None:
    async with asyncio.timeout(10):
        async with start() as quern:
            broken_methods.add("finish")
            await asyncio.gather(quern.chat("hello"), return_exceptions=True)
    broken_methods.clear()
    async with start() as quern:
        conversation_id = (await quern.client.get("/v1/conversations")).json()["data"][0]["id"]
        body = (await quern.client.get(f"/v1/conversations/{conversation_id}")).json()
        assert body["turns"][0]["state"] == "interrupted"
        assert (await quern.chat("again", conversation_id)).status_code == 200


@contextmanager
def uncountable(database: Path) -> Generator[None]:
    """A database whose table of usage takes nothing more, as long as the block lasts; another program sees to that."""

    def run(statement: str) -> None:
        with closing(sqlite3.connect(database)) as connection, connection:
            connection.execute(statement)

    run("CREATE TRIGGER uncountable BEFORE INSERT ON usage BEGIN SELECT RAISE(ABORT, 'no room for numbers'); END")
    try:
        yield
    finally:
        run("DROP TRIGGER uncountable")


async def test_usage_that_cannot_be_counted_costs_no_vectors_and_ends_no_turn_uncounted(
    start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("quern.turns.runner.STORE_RETRY_SECONDS", 0.02)
    async with start(embedding_length=64) as quern:
        with uncountable(tmp_path / "quern.db"):
            response = await quern.client.post("/v1/embeddings", json={"input": "hello"})
        assert response.status_code == 200
        assert (await quern.client.get("/v1/usage")).json()["data"] == []
    async with start(FakeEngine(reply=lambda _request: tuple(b"answer"))) as quern:
        with uncountable(tmp_path / "quern.db"):
            response = await quern.client.post("/v1/chat/completions", json={"messages": HELLO})
            assert response.status_code == 500
            assert "no room for numbers" in response.text
            assert (await quern.client.get("/v1/usage")).json()["data"] == []
        async with asyncio.timeout(5):
            while quern.application.turns.active:
                await asyncio.sleep(0.01)
        (day,) = (await quern.client.get("/v1/usage")).json()["data"]
        assert (day["requests"], day["completion_tokens"]) == (1, 6), "its cost is counted once it can be"
