"""How commands that run a server reach it: through its control socket while it runs, else on its database.

Both ways they speak to the same routes, those below `/v1/admin/` most often, so what they do is the same.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import filelock
import httpx2
from starlette.types import Receive, Scope, Send

from quern.cli.control import control
from quern.cli.server_choice import settings_of
from quern.client.failures import refusal
from quern.config import LogLevel, LogSettings, Settings
from quern.errors import StoreError
from quern.http_server.control_socket import LOCAL
from quern.obs.logging import configure_logging


def administer(method: str, path: str, *, data_dir: Path | None = None, body: Any = None, **query: str) -> Any:
    """The JSON that the server of a data directory, or what stands in for it, answers to an administrator.

    Raises ServerRefused, ServerUnreachable, AnswerBroken, ConfigError or StoreError.
    """
    settings = settings_of(data_dir)
    try:
        with control(settings.data_dir) as running:
            if running is None:
                return asyncio.run(_on_the_database(settings, method, path, body, query))
            return running.request(method, path, json=body, params=query).json()
    except StoreError as error:
        if not isinstance(error.__cause__, filelock.Timeout):
            raise
        with control(settings.data_dir) as started:  # a server, in the moment in between
            if started is None:
                raise
            return started.request(method, path, json=body, params=query).json()


async def _on_the_database(settings: Settings, method: str, path: str, body: Any, query: dict[str, str]) -> Any:
    from quern.app import Application  # noqa: PLC0415 (takes a second, and a running server needs it not)
    from quern.served_models import fake_model  # noqa: PLC0415

    configure_logging(LogSettings(level=LogLevel.WARNING))
    application = Application(settings, [fake_model(settings)])

    async def local(scope: Scope, receive: Receive, send: Send) -> None:
        scope["state"] = {LOCAL: True}
        await application.asgi(scope, receive, send)

    transport = httpx2.ASGITransport(app=local)
    async with (
        application.administered(),
        httpx2.AsyncClient(transport=transport, base_url="http://localhost") as client,
    ):
        answer = await client.request(method, path, json=body, params=query)
    if not answer.is_success:
        raise refusal(answer)
    return answer.json()
