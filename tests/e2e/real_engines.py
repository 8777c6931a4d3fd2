"""The real small model on every engine: as a GGUF file, or as a folder of floats for the engines that read those."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import pytest
import requests
from tests.conftest import SMALL_MODEL

from quern.config import Settings
from quern.engine.vllm.command import VARIABLES, find_vllm

ENGINES = [
    "auto",
    *(pytest.param(name, marks=pytest.mark.engines) for name in ("llamacpp", "transformers", "vllm", "remote")),
]
"""`auto` is `cpu` where that runs. The others are for `make test-engines`."""
EXACT = pytest.mark.parametrize("server", ENGINES[:2], indirect=True)
"""For what only those engines keep to whose numbers don't depend on how much is computed at once."""
OF_FLOATS = frozenset({"transformers", "vllm", "remote"})
FOLDER = Settings().models_dir / f"{SMALL_MODEL}-hf"
START_SECONDS = 600
"""Where other work has the cores, vLLM's start is minutes."""
VLLM_ARGUMENTS = ("--block-size=32", "--enforce-eager")
"""Blocks as large as those of `cpu`, so that as much is cached; and nothing is compiled, which would take minutes."""
SETTINGS = {
    "QUERN_MODEL__ALIASES": SMALL_MODEL,
    "QUERN_ENGINE__THREADS": "2",
    "QUERN_ENGINE__KV_TOKENS": "40960",
    "QUERN_ENGINE__VLLM__ARGUMENTS": " ".join(VLLM_ARGUMENTS),
}


def serve_options(engine: str) -> tuple[str, ...]:
    """For `quern serve`."""
    return ("--model", str(FOLDER) if engine in OF_FLOATS else SMALL_MODEL, "--engine", engine)


@dataclass(frozen=True)
class Surroundings:
    """What a server is started with: environment variables, and vLLMs elsewhere that they name."""

    settings: Mapping[str, str]
    elsewhere: Sequence[VllmServer] = ()


@contextmanager
def surroundings(engine: str, data_dir: Path) -> Generator[Surroundings]:
    """For an engine's server, on a new data directory."""
    if engine in OF_FLOATS:
        (data_dir / "engines").symlink_to(Settings().engines_dir)
    if engine != "remote":
        yield Surroundings(SETTINGS if engine in OF_FLOATS else {})
        return
    servers = [VllmServer(data_dir / f"vllm-{number}.log") for number in range(2)]
    try:
        urls = [server.wait_until_ready().url for server in servers]
        yield Surroundings({**SETTINGS, "QUERN_ENGINE__REMOTE__URLS": ",".join(urls)}, servers)
    finally:
        for server in servers:
            server.kill()


class VllmServer:
    """A vLLM with the small model that is none of Quern's, on a port of its own."""

    def __init__(self, log: Path) -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = str(free.getsockname()[1])
        program = find_vllm(None, Settings().engines_dir)
        model = (str(FOLDER),) if program[-1] == "serve" else ("--model", str(FOLDER))
        options = (
            "--host=127.0.0.1", f"--port={port}", "--max-model-len=8192", "--max-num-seqs=16",
            "--generation-config=vllm", '--structured-outputs-config={"backend": "guidance"}',
            "--scheduling-policy=priority", "--enable-prompt-tokens-details", *VLLM_ARGUMENTS,
        )  # fmt: skip
        self.url = f"http://127.0.0.1:{port}"
        self._log = log
        with log.open("wb") as output:
            self._process = subprocess.Popen(
                [*program, *model, *options],
                stdout=output,
                stderr=subprocess.STDOUT,
                env={**os.environ, **VARIABLES, "VLLM_CPU_KVCACHE_SPACE": "1"},
                start_new_session=True,
            )

    def wait_until_ready(self) -> VllmServer:
        """Itself, once it answers."""
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline and self._process.poll() is None:
            with suppress(requests.RequestException):
                if requests.get(f"{self.url}/health", timeout=5).ok:
                    return self
            time.sleep(0.2)
        pytest.fail(f"vLLM did not get ready:\n{self._log.read_text(errors='replace')[-5000:]}")

    def kill(self) -> None:
        """kill -9, all of its processes."""
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait(30)
