"""The HTTP server: uvicorn with our protocol, under the settings' limits, without signal handlers of its own."""

from __future__ import annotations

import gc
import resource
from collections.abc import Callable, Generator
from contextlib import contextmanager
from math import ceil
from typing import Any

import structlog
import uvicorn

from quern.config import ServerSettings
from quern.http_server.connections import Connections
from quern.http_server.protocol import HttpProtocol

log = structlog.get_logger(__name__)

FILES_BESIDES = 256
"""Files that the process may need open besides connections: the model, the database, pipes to children."""


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

    `connections` counts those that are open.
    """

    def __init__(self, app: Callable[..., Any], settings: ServerSettings, *, seconds_to_end: float) -> None:
        config = HttpConfig(app, settings, seconds_to_end=seconds_to_end)
        super().__init__(config)
        self.connections = config.connections

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
