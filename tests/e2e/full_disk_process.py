"""A server on the fake engine whose disk gets full. Takes the name of a scenario, a folder that is a small file system
of its own, and SQLite's journal mode: a WAL has room from earlier that a full disk doesn't take away. Prints what
happened as one JSON object.
"""

from __future__ import annotations

import asyncio
import json
import os
import sqlite3
import sys
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any

import httpx2

from quern.app import Application
from quern.config import LogLevel, LogSettings, Settings
from quern.engine.fake import FakeEngine
from quern.obs.logging import configure_logging
from quern.prompt.codec import TextCodec
from quern.store import sqlite
from quern.turns.models import ServedModel

MIB = 2**20
LONG = "a whole answer. " * 20
BEGINNERS: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {"messages": [{"role": "user", "content": "hi"}]},
    "/v1/responses": {"input": "hi"},
    "/v1/messages": {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 9},
    "/api/chat": {"model": "fake", "messages": [{"role": "user", "content": "hi"}]},
    "/v1/code/generate": {"prompt": "hi"},
    "/v1/conversations": {"items": [{"type": "message", "role": "user", "content": "hi"}]},
}


@asynccontextmanager
async def server(folder: Path, reserve_mib: int) -> AsyncGenerator[httpx2.AsyncClient]:
    settings = Settings.model_validate({"data_dir": folder, "store": {"reserve_mib": reserve_mib}})
    engine = FakeEngine(token_delay=0.01, reply=lambda _request: tuple(LONG.encode()))
    application = Application(settings, [ServedModel("fake", engine, TextCodec.builtin())])
    async with application.running() as loading:
        await loading
        transport = httpx2.ASGITransport(app=application.asgi, raise_app_exceptions=False)
        async with httpx2.AsyncClient(transport=transport, base_url="http://localhost", timeout=60) as client:
            yield client


def fill(folder: Path) -> None:
    """Leave not a byte."""
    with (folder / "filler").open("ab") as filler:
        free = os.statvfs(folder).f_bavail * os.statvfs(folder).f_frsize
        if free:
            os.posix_fallocate(filler.fileno(), os.fstat(filler.fileno()).st_size, free)


def taken(file: Path) -> int:
    """Bytes on the disk."""
    return file.stat().st_blocks * 512


async def until(condition: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + 20
    while not condition() and time.monotonic() < deadline:
        await asyncio.sleep(0.02)
    return condition()


async def big_conversation(client: httpx2.AsyncClient, items: int, size: int) -> str:
    """Results of tools, of which the search has no index."""
    results = [{"type": "function_call_output", "call_id": f"c{n}", "output": "x" * size} for n in range(items)]
    return (await client.post("/v1/conversations", json={"items": results})).json()["id"]


def told(answer: httpx2.Response) -> dict[str, Any]:
    retry = answer.headers.get("x-should-retry")
    return {"status": answer.status_code, "retry": retry, "body": answer.json()}


async def full_disk(folder: Path) -> dict[str, Any]:
    """Turns that run, begin and are deleted while there is no room at all."""
    seen: dict[str, Any] = {}
    database, reserve = folder / "quern.db", folder / "quern.db.reserve"
    async with server(folder, 4) as client:
        seen["reserve"] = taken(reserve)
        big = await big_conversation(client, 4, 3 * MIB // 2)
        bigger = await big_conversation(client, 16, MIB // 3)
        small = (await client.post("/v1/conversations", json={})).json()["id"]
        response = (await client.post("/v1/responses", json={"input": "hi"})).json()["id"]
        body = {"messages": [{"role": "user", "content": "go on"}], "stream": True}
        headers = {"x-quern-conversation": small}
        async with client.stream("POST", "/v1/chat/completions", json=body, headers=headers) as stream:
            lines = stream.aiter_lines()
            await anext(lines)
            await asyncio.to_thread(fill, folder)
            seen["refused"] = {path: told(await begin(client, path)) for path in BEGINNERS}
            seen["stream"] = [line async for line in lines if line][-1]
        seen["turns"] = (await client.get(f"/v1/conversations/{small}")).json()["turns"]
        seen["refused_after"] = told(await client.post("/v1/responses", json={"input": "hi"}))
        size = taken(database)
        seen["deleted"] = told(await client.delete(f"/v1/conversations/{big}"))
        seen["shrank"] = await until(lambda: size - taken(database) > 5 * MIB)
        seen["reserve_again"] = await until(lambda: taken(reserve) == 4 * MIB)
        seen["begun"] = (await client.post("/v1/responses", json={"input": "hi"})).status_code
        await asyncio.to_thread(fill, folder)
        seen["response_deleted"] = told(await client.delete(f"/v1/responses/{response}"))
        seen["item_deleted"] = await delete_an_item(client, bigger)
        seen["reserve_of_what_there_is"] = await until(lambda: taken(reserve) > 3 * MIB)
    await asyncio.to_thread(fill, folder)
    async with server(folder, 4) as client:
        seen["all_deleted"] = told(await client.delete("/v1/conversations?all=true"))
        seen["shrank_to_little"] = await until(lambda: taken(database) < MIB)
        seen["reserve_at_last"] = await until(lambda: taken(reserve) == 4 * MIB)
        seen["begun_at_last"] = (await client.post("/v1/responses", json={"input": "hi"})).status_code
    return seen


async def begin(client: httpx2.AsyncClient, path: str) -> httpx2.Response:
    body = BEGINNERS[path]
    return await (client.post(path, data=body) if path.startswith("/v1/code") else client.post(path, json=body))


async def delete_an_item(client: httpx2.AsyncClient, conversation_id: str) -> int:
    path = f"/v1/conversations/{conversation_id}/items"
    first = (await client.get(path, params={"limit": 1})).json()["data"][0]["id"]
    return (await client.delete(f"{path}/{first}")).status_code


async def small_reserve(folder: Path) -> dict[str, Any]:
    """A conversation whose deletion takes more journal than there is room for."""
    seen: dict[str, Any] = {}
    async with server(folder, 2) as client:
        big = await big_conversation(client, 20, 7 * MIB // 20)
        bigger = await big_conversation(client, 1, 5 * MIB)
        await asyncio.to_thread(fill, folder)
        seen["too_big"] = told(await client.delete(f"/v1/conversations/{bigger}"))
        size, database = taken(folder / "quern.db"), folder / "quern.db"
        seen["kept"] = len((await client.get(f"/v1/conversations/{bigger}")).json()["messages"])
        seen["deleted"] = told(await client.delete(f"/v1/conversations/{big}"))
        seen["gone"] = (await client.get(f"/v1/conversations/{big}")).status_code
        seen["shrank"] = await until(lambda: size - taken(database) > 6 * MIB)
        seen["too_big_no_more"] = (await client.delete(f"/v1/conversations/{bigger}")).status_code
    return seen


async def deletion(folder: Path) -> dict[str, Any]:
    """What is true in any journal mode."""
    seen: dict[str, Any] = {}
    database, reserve = folder / "quern.db", folder / "quern.db.reserve"
    async with server(folder, 4) as client:
        big = await big_conversation(client, 4, 3 * MIB // 2)
        response = (await client.post("/v1/responses", json={"input": "hi"})).json()["id"]
        size = taken(database)
        await asyncio.to_thread(fill, folder)
        seen["deleted"] = told(await client.delete(f"/v1/conversations/{big}"))
        seen["response_deleted"] = told(await client.delete(f"/v1/responses/{response}"))
        seen["shrank"] = await until(lambda: size - taken(database) > 5 * MIB)
        seen["reserve"] = await until(lambda: taken(reserve) == 4 * MIB)
        seen["begun"] = (await client.post("/v1/responses", json={"input": "hi"})).status_code
    return seen


def main() -> None:
    sqlite.journal_mode = lambda _version: sys.argv[3]
    configure_logging(LogSettings(level=LogLevel.ERROR))
    scenario, folder = globals()[sys.argv[1]], Path(sys.argv[2])
    seen = asyncio.run(scenario(folder))
    with closing(sqlite3.connect(folder / "quern.db")) as connection:
        seen["integrity"] = connection.execute("PRAGMA integrity_check").fetchone()[0]
    sys.stdout.write(json.dumps(seen))


main()
