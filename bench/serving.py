"""A real `quern serve` process for the benchmarks, on a data directory of its own with the installed models."""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import httpx2

from quern.config import Settings

QUERN = Path(sys.executable).with_name("quern")


class Server:
    """`quern serve` on a data directory, as often as one likes. `options` go to it, `settings` into its environment."""

    def __init__(self, folder: Path, model: str, *options: str, **settings: str) -> None:
        self._command = [str(QUERN), "serve", "--port", "0", "--model", model, "--data-dir", str(folder), *options]
        self._environment = {**os.environ, **settings}
        self._log = folder / "serve.log"
        self.url = ""

    def start(self) -> None:
        """Start it and wait until it serves. Raises RuntimeError where it does not get ready."""
        with self._log.open("ab") as log:
            self.process = subprocess.Popen(
                self._command, stdout=subprocess.PIPE, stderr=log, text=True, env=self._environment
            )
        for line in self.process.stdout or ():
            if line.startswith("Serving"):
                self.url = line.split()[1]
                return
        raise RuntimeError(f"the server did not get ready: {self._log.read_text(errors='replace')[-2000:]}")

    def end(self, how: signal.Signals = signal.SIGTERM) -> None:
        """Send it a signal and wait until it is gone."""
        self.process.send_signal(how)
        self.process.wait(60)


def add_server_options(parser: argparse.ArgumentParser) -> None:
    """What is served, and by what."""
    parser.add_argument("--engine", default="cpu", help="What runs it.")
    parser.add_argument("--model", default="qwen2.5-coder-0.5b", help="What is served.")
    parser.add_argument("--models-dir", type=Path, default=Settings().models_dir, help="Where models are.")


@contextmanager
def data_folder(models_dir: Path) -> Generator[Path]:
    """A data directory for a while, with these models."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "models").symlink_to(models_dir.expanduser().absolute(), target_is_directory=True)
        yield Path(folder)


@asynccontextmanager
async def served(model_dir: Path, model: str, *options: str) -> AsyncGenerator[httpx2.AsyncClient]:
    """Start a server, give a client for it, stop it. `options` go to `quern serve`.

    Raises RuntimeError where it does not get ready.
    """
    with data_folder(model_dir) as folder:
        server = Server(folder, model, *options)
        await asyncio.to_thread(server.start)
        try:
            async with httpx2.AsyncClient(base_url=server.url, timeout=None) as client:
                yield client
        finally:
            await asyncio.to_thread(server.end)
