"""A llama-server that is ready, and the one that somebody else runs."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

import httpx2
import structlog

from quern.engine.llamacpp.client import LlamaServer, ServerFacts
from quern.engine.served.backend import unreachable
from quern.errors import EngineFailed, ModelLoadError

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Connected:
    """A server that is ready. `device` is for people. `keeps_to_grammars`: as `LlamaServer` tells it."""

    server: LlamaServer
    facts: ServerFacts
    device: str
    keeps_to_grammars: bool = True


class RemoteServer:
    """A llama-server that somebody else runs at `url`; our requests use the first `slots` of it, at most.

    It should be started with `--cache-ram 0 --slot-prompt-similarity 0`: its own prompt cache knows nothing of salts.
    Where the model `embeds` it has to be started with `--embeddings --pooling last` too.
    """

    def __init__(self, url: str, api_key: str, slots: int, *, embeds: bool = False) -> None:
        self._url = url
        self._embeds = embeds
        self._api_key = api_key
        self._slots = slots
        self._server: LlamaServer | None = None

    @property
    def expected_load_seconds(self) -> float:
        """It is loaded already, as far as we know."""
        return 1.0

    def progress(self) -> float:
        """Nothing tells."""
        return 0.0

    async def start(self) -> Connected:
        """Connect. Raises ModelLoadError."""
        self._server = await asyncio.to_thread(
            LlamaServer, self._url, self._api_key, connections=self._slots, trust_env=True
        )
        try:
            if not await self._server.ready():
                msg = f"The llama-server at {self._url} is still loading its model. Start Quern once it is ready."
                raise ModelLoadError(msg)
            facts = await self._server.facts()
            keeps = await self._check_abilities(self._server)
            return Connected(self._server, facts, f"llama-server at {self._url}", keeps)
        except ConnectionError as error:
            msg = f"No llama-server answers at {self._url}. Start it there, or correct the setting engine.url."
            raise ModelLoadError(msg) from error
        except PermissionError as error:
            msg = f"The llama-server at {self._url} refused our key. Set engine.api_key to one of its API keys."
            raise ModelLoadError(msg) from error
        except (httpx2.HTTPError, ValueError, LookupError, TypeError) as error:
            msg = (
                f"What answers at {self._url} does not speak llama-server's protocol, or is too old: {error!r}. Update "
                f"it, or correct the setting engine.url."
            )
            raise ModelLoadError(msg) from error

    async def _check_abilities(self, server: LlamaServer) -> bool:
        """Whether it keeps to grammars. Raises ModelLoadError where it has to embed and doesn't."""
        if not self._embeds:
            keeps = await server.keeps_to_grammars()
            if not keeps:
                log.warning("llama_server_ignores_grammars")
            return keeps
        try:
            await server.embed((0,))
        except EngineFailed as error:
            msg = f"The llama-server at {self._url} makes no embeddings: start it with --embeddings --pooling last."
            raise ModelLoadError(msg) from error
        return False

    async def lost(self) -> str:
        """Probe until the server has been unreachable for a while."""
        if self._server is not None:
            await unreachable(self._server.ready)
        return f"The llama-server at {self._url} does not answer any more."

    async def stop(self) -> None:
        """Disconnect."""
        if self._server is not None:
            await self._server.close()
            self._server = None
