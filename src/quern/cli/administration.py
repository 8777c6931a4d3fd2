"""How commands that run a server reach it: through its control socket while it runs, else on its database.

Both ways they speak to the same routes, those below `/v1/admin/` most often, so what they do is the same.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx2
from starlette.types import Receive, Scope, Send

from quern.cli.running_server import find
from quern.cli.server_choice import settings_of
from quern.config import LogLevel, LogSettings, Settings
from quern.errors import ServerRefused, ServerUnreachable
from quern.obs.logging import configure_logging

SOCKET_NAME = "quern.sock"
BASE = "http://localhost"
ANSWER_SECONDS = 30.0


def administer(method: str, path: str, *, data_dir: Path | None = None, body: Any = None, **query: str) -> Any:
    """The JSON that the server of a data directory, or what stands in for it, answers to an administrator.

    Raises ServerRefused, ServerUnreachable, ConfigError or StoreError.
    """
    return asyncio.run(_administer(settings_of(data_dir), method, path, body, query))


async def _administer(settings: Settings, method: str, path: str, body: Any, query: dict[str, str]) -> Any:
    async with _client(settings) as client:
        try:
            answer = await client.request(method, path, json=body, params=query)
        except httpx2.HTTPError as error:
            raise ServerUnreachable(
                f"The server that runs on {settings.data_dir} does not answer at its control socket: {error}. Stop it "
                f"with `quern stop`, or use a user's account that may write to that directory."
            ) from error
    if answer.is_success:
        return answer.json()
    raise ServerRefused(answer.status_code, str(answer.json()["error"]["message"]))


@asynccontextmanager
async def _client(settings: Settings) -> AsyncGenerator[httpx2.AsyncClient]:
    if await asyncio.to_thread(find, settings.data_dir) is not None:
        transport = httpx2.AsyncHTTPTransport(uds=str(settings.data_dir / SOCKET_NAME))
        async with httpx2.AsyncClient(transport=transport, base_url=BASE, timeout=ANSWER_SECONDS) as client:
            yield client
        return
    from quern.app import Application, fake_engine  # noqa: PLC0415 (takes a second, and a running server needs it not)

    configure_logging(LogSettings(level=LogLevel.WARNING))
    application = Application(settings, *fake_engine(settings))

    async def local(scope: Scope, receive: Receive, send: Send) -> None:
        scope["state"] = {"local": True}
        await application.asgi(scope, receive, send)

    async with (
        application.administered(),
        httpx2.AsyncClient(transport=httpx2.ASGITransport(app=local), base_url=BASE) as client,
    ):
        yield client
