"""A server of completions in a child process of ours, whoever wrote it: its folder, its connection, its end."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from abc import ABC, abstractmethod
from pathlib import Path

from quern.config_models import EngineSettings
from quern.engine.completions.client import CompletionServer
from quern.engine.completions.engine import Connected
from quern.engine.served.child_process import ChildProcess, lost


class CompletionsChild(ABC):
    """One child at a time, which listens on a Unix socket in a folder that only we can enter. `name`: the engine's."""

    def __init__(self, name: str, settings: EngineSettings) -> None:
        self._name = name
        self._settings = settings
        self._folder: Path | None = None
        self._child: ChildProcess | None = None
        self._server: CompletionServer | None = None

    @property
    def pid(self) -> int | None:
        """The child's."""
        return self._child.pid if self._child is not None else None

    async def start(self) -> Connected:
        """Start a child and wait until it serves the model. Raises ModelLoadError."""
        try:
            return await self._start()
        except BaseException:
            await self.stop()
            raise

    async def lost(self) -> str:
        """Wait until the child has ended, or hangs."""
        if self._child is None or self._server is None:
            return "There is no inference process."
        return await lost(self._child, self._server.ready, self._settings.hung_seconds)

    async def stop(self) -> None:
        """Kill the child, with all of its processes."""
        if self._server is not None:
            await self._server.close()
        if self._child is not None:
            await self._child.stop()
        if self._folder is not None:
            await asyncio.to_thread(shutil.rmtree, self._folder, ignore_errors=True)
        self._server = self._child = self._folder = None

    @abstractmethod
    async def _start(self) -> Connected:
        """What `start` says; what it has set of folder, child and server is let go of where it raises."""

    async def _new_socket(self) -> Path:
        """Where the next child is to listen."""
        self._folder = Path(await asyncio.to_thread(tempfile.mkdtemp, prefix=f"quern-{self._name}-"))
        return self._folder / "socket"

    async def _connect(self, socket: Path, key: str = "") -> CompletionServer:
        """The server there, of which nothing is asked yet."""
        self._server = await asyncio.to_thread(
            CompletionServer,
            f"http://{self._name}",  # over a Unix socket the host says nothing
            key,
            connections=self._settings.parallel,
            trust_env=False,
            uds=str(socket),
            silence_seconds=None,
        )
        return self._server
