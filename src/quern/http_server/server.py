"""The HTTP server: uvicorn with our protocol, under the settings' limits, without signal handlers of its own."""

from __future__ import annotations

import asyncio
import gc
import resource
import socket
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from functools import partial
from math import ceil
from typing import Any, cast

import structlog
import uvicorn

from quern.config import ServerSettings
from quern.http_server.connections import Connections
from quern.http_server.control_socket import LOCAL
from quern.http_server.protocol import HttpProtocol

log = structlog.get_logger(__name__)

FILES_BESIDES = 256
"""Files that the process may need open besides connections: the model, the database, pipes to children."""

CONTROL_CONNECTIONS = 64
"""Connections over the control socket at once, counted apart, so that a full server can still be controlled."""

REQUEST_COMES_SECONDS = 0.25
"""Within this who has connected has sent a request, or has no hurry."""


class HttpConfig(uvicorn.Config):
    """uvicorn's configuration with what our protocol needs besides."""

    def __init__(self, app: Callable[..., Any], settings: ServerSettings, *, seconds_to_end: float) -> None:
        super().__init__(
            app,
            http=HttpProtocol,
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            timeout_graceful_shutdown=ceil(seconds_to_end),
        )
        self.timeout_keep_alive = settings.idle_seconds  # pyright: ignore[reportAttributeAccessIssue]
        self.settings = settings
        self.connections = Connections(_connections(settings.max_connections), settings.max_connections_per_address)


class HttpServer(uvicorn.Server):
    """Serves an ASGI application. `seconds_to_end`: how long connections may go on once the server is to exit.

    `control`: the control socket, bound; see `control_socket.py`. `connections` counts those that are open, but for the
    control socket's. `listening` is set once everybody can connect.
    """

    def __init__(
        self,
        app: Callable[..., Any],
        settings: ServerSettings,
        *,
        seconds_to_end: float,
        control: socket.socket | None = None,
    ) -> None:
        config = HttpConfig(app, settings, seconds_to_end=seconds_to_end)
        super().__init__(config)
        self.connections = config.connections
        self.listening = asyncio.Event()
        self._control = control
        self._public: list[asyncio.Server] = []

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen."""
        unix = [listener for listener in sockets or () if listener.family is socket.AF_UNIX]
        await super().startup([listener for listener in sockets or () if listener.family is not socket.AF_UNIX])
        self.servers += await self._listen(unix, self.connections, {})
        self._public = [*self.servers]
        if self._control is not None:
            places = Connections(CONTROL_CONNECTIONS, CONTROL_CONNECTIONS)
            self.servers += await self._listen([self._control], places, {LOCAL: True})
        self.listening.set()

    async def _listen(
        self, listeners: Sequence[socket.socket], connections: Connections, app_state: dict[str, Any]
    ) -> list[asyncio.Server]:
        """On Unix sockets. `app_state`: what the ASGI scope's `state` begins with."""
        protocol = partial(HttpProtocol, self.config, self.server_state, app_state, connections=connections)
        loop = asyncio.get_running_loop()
        return [await loop.create_unix_server(protocol, sock=listener) for listener in listeners]

    def reload(self, settings: ServerSettings) -> None:
        """Other limits for new connections."""
        self.connections.reload(_connections(settings.max_connections), settings.max_connections_per_address)

    async def leave_listeners(self) -> None:
        """Take no more connections, and end those that have no request, but for the control socket's.

        For listeners that outlive this process: who connects now waits for the next one. Who has just connected gets
        the time to send a request.
        """
        for server in self._public:
            server.close()
        await asyncio.sleep(REQUEST_COMES_SECONDS)
        for connection in [*self.server_state.connections]:
            if not cast("HttpProtocol", connection).local:
                connection.shutdown()

    @contextmanager
    def capture_signals(self) -> Generator[None]:
        """Leave signals to the process: it lets running turns finish first."""
        yield


def freeze_garbage_collection() -> None:
    """Have Python's collector not look again at what was made until now, since it lives as long as the server. Every
    stream stands while it looks at all objects: a tenth of a second for those of the imported modules alone.
    """
    gc.collect()
    gc.freeze()


def _connections(wanted: int) -> int:
    """As many connections as the process may have files; its own limit is raised as far as the system lets it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = wanted + FILES_BESIDES
    if soft < needed:
        soft = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    if soft >= needed:
        return wanted
    possible = max(1, soft - FILES_BESIDES)
    log.warning("few_open_files", limit=soft, connections=possible, setting="server.max_connections", wanted=wanted)
    return possible
