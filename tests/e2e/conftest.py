"""The real server: `quern serve` as a process of its own, on a real socket, with the real small model."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import psutil
import pytest
import requests

from .real_engines import ENGINES, OF_FLOATS, serve_options, surroundings
from .real_engines import START_SECONDS as LONG_START_SECONDS

QUERN = str(Path(sys.executable).with_name("quern"))
START_SECONDS = 120
ONE_THREAD = {"QUERN_ENGINE__THREADS": "1"}
"""Other tests run meanwhile: threads that wait for one another get nothing done while one of them waits for a core."""


class ServerProcess:
    """`quern serve` on a free port and a data directory of the test's own. `command`: which `quern`; `before`: what
    starts it; `settings`: environment variables.
    """

    def __init__(
        self, data_dir: Path, *options: str, command: str = QUERN, before: Sequence[str] = (), **settings: str
    ) -> None:
        self.output = data_dir / f"serve-{time.monotonic_ns()}.log"
        self.data_dir = data_dir
        with self.output.open("wb") as output:
            self.process = subprocess.Popen(
                [*before, command, "serve", "--port", "0", "--data-dir", str(data_dir), *options],
                stdout=output,
                stderr=subprocess.STDOUT,
                env={**os.environ, **ONE_THREAD, **settings},
                start_new_session=True,
            )
        self.url = ""

    def wait_until_ready(self, seconds: float = START_SECONDS) -> ServerProcess:
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            for line in self.log().splitlines():
                if line.startswith("Serving"):
                    self.url = line.split()[1]
                    return self
            if self.process.poll() is not None:
                break
            time.sleep(0.05)
        pytest.fail(f"the server did not get ready:\n{self.log()}")

    def log(self) -> str:
        return self.output.read_text(encoding="utf-8", errors="replace")

    def stats(self) -> dict[str, Any]:
        return requests.get(f"{self.url}/ready", timeout=5).json()

    def wait_for(self, condition: Callable[[dict[str, Any]], bool], seconds: float = 30) -> dict[str, Any]:
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            stats = self.stats()
            if condition(stats):
                return stats
            time.sleep(0.02)
        pytest.fail(f"waited {seconds} s in vain; the last state was {self.stats()}\n{self.log()[-3000:]}")

    def children(self) -> list[psutil.Process]:
        return psutil.Process(self.process.pid).children(recursive=True)

    def kill(self) -> None:
        """kill -9, the server alone."""
        self.process.kill()
        self.process.wait(10)

    def stop(self) -> int:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(60)
            except subprocess.TimeoutExpired:
                os.killpg(self.process.pid, signal.SIGKILL)
        return self.process.wait(10)


def chat(url: str, prompt: str, conversation_id: str | None = None, **fields: object) -> tuple[str, str, list[str]]:
    """A turn, read exactly as the existing client reads it. Returns the conversation's id, the text, the chunks."""
    data = {"prompt": prompt, **fields}
    if conversation_id:
        data["conversation_id"] = conversation_id
    response = requests.post(f"{url}/v1/code/chat_stream", data=data, stream=True, timeout=360)
    response.raise_for_status()
    text = ""
    chunks: list[str] = []
    for chunk in response.iter_content(chunk_size=None, decode_unicode=True):
        chunks.append(chunk)
        if not chunks[1:] and not conversation_id and "conversation_id:" in chunk:
            header, rest = chunk.split("\n---\n", 1)
            conversation_id = header.removeprefix("conversation_id:").strip()
            text += rest
        elif "conversation_id:" in chunk and "---" in chunk:
            continue
        else:
            text += chunk
    assert conversation_id
    return conversation_id, text, chunks


@pytest.fixture(scope="session")
def data_dir_with_model(small_model_path: Path) -> Callable[[Path], Path]:
    """Give a fresh data directory the already fetched model."""

    def prepare(folder: Path) -> Path:
        (folder / "models").symlink_to(small_model_path.parents[1], target_is_directory=True)
        return folder

    return prepare


StartServer = Callable[..., ServerProcess]


@pytest.fixture
def start_server(tmp_path: Path, data_dir_with_model: Callable[[Path], Path]) -> Iterator[StartServer]:
    """Start servers that are stopped after the test; all share the test's data directory."""
    started: list[ServerProcess] = []
    data_dir_with_model(tmp_path)

    def start(*options: str, model: str = "qwen2.5-coder-0.5b", wait: bool = True) -> ServerProcess:
        server = ServerProcess(tmp_path, "--model", model, *options)
        started.append(server)
        return server.wait_until_ready() if wait else server

    yield start
    for server in started:
        server.stop()


@pytest.fixture(scope="session", params=ENGINES)
def server(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    data_dir_with_model: Callable[[Path], Path],
) -> Iterator[ServerProcess]:
    """For each engine one server for the tests that leave it as they found it."""
    folder = data_dir_with_model(tmp_path_factory.mktemp("server"))
    with surroundings(request.param, folder) as found:
        running = ServerProcess(folder, *serve_options(request.param), "--log-format", "json", **found.settings)
        try:
            yield running.wait_until_ready(LONG_START_SECONDS if request.param in OF_FLOATS else START_SECONDS)
        finally:
            running.stop()


@pytest.fixture
def fake_server(tmp_path: Path) -> Iterator[ServerProcess]:
    folder = tmp_path / "data dir"
    folder.mkdir()
    running = ServerProcess(folder, "--engine", "fake")
    yield running.wait_until_ready()
    running.stop()
