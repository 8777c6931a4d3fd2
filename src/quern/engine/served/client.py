"""What the clients of inference servers share: one server over HTTP, how it is found gone, and what is said then."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import httpx2

from quern.errors import ServerLost

SPARE_CONNECTIONS = 8
CONNECT_SECONDS = 10.0
# Servers write at least a comment line or a token that often, however long a step takes: longer silence means that one
# hangs or that the network is gone. Of a server that hangs the supervisor knows earlier.
SILENCE_SECONDS = 300.0
PROBE_SECONDS = 10.0
LOST = "The connection to the inference server broke while it was answering, so this answer was lost. Ask again."


class InferenceServer:
    """One server at `url`, or at the Unix socket `uds`. Making one reads certificates, so make it in a thread. It may
    say nothing for `silence_seconds`; None: whoever notices that it is lost closes this client. `health`: where it says
    that it is well.

    Raises ConnectionError where nothing answers, PermissionError where the key is wrong and EngineFailed where a
    running answer is lost.
    """

    def __init__(
        self,
        url: str,
        api_key: str,
        *,
        connections: int,
        trust_env: bool,
        uds: str | None = None,
        silence_seconds: float | None = SILENCE_SECONDS,
        health: str = "/health",
    ) -> None:
        self._health = health
        # A connection that the server closes after a while of silence would fail the next request: use none twice.
        limits = httpx2.Limits(max_connections=connections + SPARE_CONNECTIONS, max_keepalive_connections=0)
        self._http = httpx2.AsyncClient(
            base_url=url,
            headers={"Authorization": f"Bearer {api_key}"} if api_key else {},
            timeout=httpx2.Timeout(silence_seconds, connect=CONNECT_SECONDS, pool=None),
            limits=limits,
            trust_env=trust_env,
            transport=httpx2.AsyncHTTPTransport(uds=uds, limits=limits, trust_env=trust_env) if uds else None,
        )

    async def close(self) -> None:
        """Close every connection."""
        await self._http.aclose()

    async def ready(self) -> bool:
        """Whether it has loaded its model."""
        return (await self.get(self._health)).status_code == 200

    async def get(self, path: str) -> httpx2.Response:
        """Ask for something that is answered at once, whatever is computed."""
        self.check_open()
        try:
            return await self._http.get(path, timeout=PROBE_SECONDS)
        except httpx2.TransportError as error:
            raise ConnectionError(str(error)) from error

    async def read(self, path: str) -> Any:
        """The same as JSON. Raises HTTPError where it is refused for another reason than the key."""
        response = await self.get(path)
        if response.status_code in {401, 403}:
            msg = "the key was refused"
            raise PermissionError(msg)
        response.raise_for_status()
        return response.json()

    @asynccontextmanager
    async def post(
        self, path: str, body: Mapping[str, object], headers: Mapping[str, str] | None = None
    ) -> AsyncGenerator[httpx2.Response]:
        """The response to a request, whose body is read by whoever asks. What breaks off is ServerLost."""
        self.check_open()
        answering = False
        try:
            async with self._http.stream("POST", path, json=body, headers=headers) as response:
                answering = True
                yield response
        except httpx2.HTTPError as error:
            if isinstance(error, httpx2.ConnectError | httpx2.ConnectTimeout) and not answering:
                raise ConnectionError(str(error)) from error
            raise ServerLost(LOST) from error

    def check_open(self) -> None:
        """Raises ConnectionError once it is closed."""
        if self._http.is_closed:
            msg = "the connection was closed"
            raise ConnectionError(msg)
