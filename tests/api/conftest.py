"""The whole application on the fake engine: in process for most tests, on a real socket where a socket matters."""

from __future__ import annotations

import asyncio
import shutil
import socket
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Generator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import httpx2
import pytest
import uvloop
from blockbuster import BlockBuster, blockbuster_ctx

from quern import app as wiring
from quern.app import Application
from quern.config import LogSettings, ServerSettings, Settings
from quern.engine.fake import FakeEngine
from quern.http_server.server import HttpServer
from quern.obs.logging import configure_logging
from quern.prompt.codec import TextCodec
from quern.turns import plan
from quern.turns.models import ServedModel
from quern.types import Item, Message, Role

from .raw_sockets import RawClient


def _sources() -> ModuleType:
    """Where Quern's code really is. An editable install names another folder first, in which there is none, and the
    detector looks at the first one only.
    """
    sources = ModuleType("sources")
    sources.__path__ = [str(Path(wiring.__file__).parent)]
    return sources


def pytest_asyncio_loop_factories() -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    """Run on the event loop that `quern serve` runs on."""
    return {"uvloop": uvloop.new_event_loop}


@pytest.fixture(autouse=True)
def no_blocking_calls() -> Generator[BlockBuster]:
    """Fail on any blocking call on the event loop that comes from Quern's own code."""
    with blockbuster_ctx(_sources()) as detector:
        yield detector


@pytest.fixture(autouse=True, scope="session")
def logging_as_served() -> None:
    """Write logs as a server does: structlog's own way to show an exception reads files."""
    configure_logging(LogSettings())


SEED = 20261128
"""The seed of every answer that was asked for without one."""


@pytest.fixture(autouse=True)
def no_chance(monkeypatch: pytest.MonkeyPatch) -> None:
    """Equal requests are equal at the engine's door."""
    monkeypatch.setattr(plan, "new_seed", lambda: SEED)


@dataclass
class Quern:
    """A running application and a client for it."""

    application: Application
    engine: FakeEngine
    client: httpx2.AsyncClient
    settings: Settings

    @property
    def codec(self) -> TextCodec:
        """What makes the model's prompts."""
        return self.application.models.default.codec

    async def chat(self, prompt: str, conversation_id: str | None = None, **fields: str) -> httpx2.Response:
        data = {"prompt": prompt, **fields}
        if conversation_id is not None:
            data["conversation_id"] = conversation_id
        return await self.client.post("/v1/code/chat_stream", data=data)

    async def begin(self, prompt: str = "hello") -> str:
        """Begin a conversation and return its id."""
        response = await self.chat(prompt)
        assert response.status_code == 200, response.text
        return response.text.partition("\n---\n")[0].removeprefix("conversation_id:")


@asynccontextmanager
async def being_admitted(
    quern: Quern, prompt: str, conversation_id: str
) -> AsyncGenerator[asyncio.Future[httpx2.Response]]:
    """A chat turn that is being admitted as long as the block lasts, and goes on then."""
    encode = quern.codec.encode_chat
    begun, go_on = threading.Event(), threading.Event()

    def held(items: Sequence[Item], *rest: Any, **options: Any) -> tuple[int, ...]:
        if items[-1] == Message(Role.USER, prompt):
            begun.set()
            assert go_on.wait(30)
        return encode(items, *rest, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(quern.codec, "encode_chat", held)
        response = asyncio.ensure_future(quern.chat(prompt, conversation_id))
        try:
            assert await asyncio.to_thread(begun.wait, 30)
            yield response
        finally:
            go_on.set()


Start = Callable[..., AbstractAsyncContextManager[Quern]]


@pytest.fixture
def start(tmp_path: Path, empty_database: Path) -> Start:
    """Start applications with settings and fake engines of the test's choice, on one data directory. With an
    `embedding_length`, which must be the engine's, the model is one for embeddings.
    """
    shutil.copy(empty_database, tmp_path)

    @asynccontextmanager
    async def starting(
        engine: FakeEngine | None = None,
        *,
        wait_until_loaded: bool = True,
        live: bool = False,
        embedding_length: int = 0,
        **overrides: object,
    ) -> AsyncGenerator[Quern]:
        settings = Settings.model_validate({"data_dir": tmp_path, "store": {"reserve_mib": 0}, **overrides})
        codec = TextCodec.builtin(embedding_length=embedding_length)
        engine = engine or FakeEngine(vocabulary_size=codec.vocabulary_size)
        model = ServedModel(engine.info.model_id, engine, codec, frozenset(settings.model.aliases))
        application = Application(settings, [model])
        async with application.running() as loading:
            if wait_until_loaded:
                await loading
            async with _client(application, settings.server, live=live) as client:
                yield Quern(application, engine, client, settings)

    return starting


@asynccontextmanager
async def _client(
    application: Application, settings: ServerSettings, *, live: bool
) -> AsyncGenerator[httpx2.AsyncClient]:
    if not live:
        transport = httpx2.ASGITransport(app=application.asgi, raise_app_exceptions=False)
        async with httpx2.AsyncClient(transport=transport, base_url="http://localhost") as client:
            yield client
        return
    async with listening(application, settings) as url, httpx2.AsyncClient(base_url=url, timeout=20) as client:
        yield client


@asynccontextmanager
async def listening(
    application: Application, settings: ServerSettings, control: socket.socket | None = None
) -> AsyncGenerator[str]:
    """Serve the application on a real loopback socket, as `quern serve` does; and on a control socket."""
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    listener.listen(1000)
    server = HttpServer(application.asgi, settings, seconds_to_end=1, control=control)
    async with asyncio.TaskGroup() as group:
        serving = group.create_task(server.serve(sockets=[listener]))
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            await asyncio.wait([serving])


Connect = Callable[[Quern], Awaitable[RawClient]]


@pytest.fixture
async def connect() -> AsyncIterator[Connect]:
    """Open raw connections to a live application; they are closed after the test."""
    clients: list[RawClient] = []

    async def opened(quern: Quern) -> RawClient:
        clients.append(await RawClient.connect(str(quern.client.base_url)))
        return clients[-1]

    yield opened
    for client in clients:
        await client.close()


@pytest.fixture
async def quern(start: Start) -> AsyncIterator[Quern]:
    """An application that is ready, in process."""
    async with start() as running:
        yield running
