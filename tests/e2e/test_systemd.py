"""The installed units under a real systemd: somebody's own, started for the test in a mount namespace of its own.

Skipped, with the reason, where none can be started: that takes root and the package systemd.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import requests

from .conftest import QUERN

SYSTEMD = Path("/lib/systemd/systemd")
PATIENCE_SECONDS = 90
BOOT = """
mount -t tmpfs tmpfs /run && mkdir -p /run/systemd/system && exec "$0" --user --log-target=console
"""
"""systemd starts for a user only where it has booted the machine, which it knows by that folder."""


@dataclass
class Systemd:
    folder: Path
    environment: dict[str, str]
    url: str

    def ctl(self, *arguments: str) -> str:
        done = subprocess.run(
            ["systemctl", "--user", "--no-pager", *arguments],
            capture_output=True, text=True, check=False, timeout=PATIENCE_SECONDS, env=self.environment,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def shown(self, name: str) -> str:
        return self.ctl("show", "q.service", "-p", name, "--value").strip()

    def wait_until(self, condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not condition():
            assert time.monotonic() < deadline, self.ctl("show", "q.service")
            time.sleep(0.05)

    @property
    def pid(self) -> int:
        return int(self.shown("MainPID"))

    def configure(self, text: str = "") -> Path:
        path = self.folder / "quern.toml"
        path.write_text(f"[engine]\nname = 'fake'\n[server]\nport = {self.url.rpartition(':')[2]}\n{text}")
        return path


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as found:
        return found.getsockname()[1]


@pytest.fixture
def systemd(tmp_path: Path) -> Iterator[Systemd]:
    if os.geteuid() != 0 or not SYSTEMD.exists() or shutil.which("unshare") is None:
        pytest.skip("a systemd of the test's own needs root, the package systemd, and unshare")
    runtime = tmp_path / "run"
    runtime.mkdir(mode=0o700)
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("QUERN_", "XDG_", "DBUS_"))}
    places = {"XDG_RUNTIME_DIR": str(runtime), "XDG_CONFIG_HOME": str(tmp_path / "config"), "HOME": str(tmp_path)}
    environment = {**kept, **places, "DBUS_SESSION_BUS_ADDRESS": "unix:path=/nowhere"}
    with (tmp_path / "systemd.log").open("wb") as log:
        manager = subprocess.Popen(
            ["unshare", "-m", "sh", "-c", BOOT, str(SYSTEMD)], env=environment, stdout=log, stderr=log
        )
    found = Systemd(tmp_path, environment, f"http://127.0.0.1:{_free_port()}")
    deadline = time.monotonic() + 10
    while not (runtime / "systemd" / "private").exists():
        if manager.poll() is not None or time.monotonic() > deadline:
            manager.kill()
            manager.wait()
            pytest.skip(f"systemd does not start here: {(tmp_path / 'systemd.log').read_text()[-200:]}")
        time.sleep(0.05)
    try:
        yield found
    finally:
        subprocess.run(["systemctl", "--user", "stop", "q.socket", "q.service"], env=environment, check=False)
        manager.send_signal(signal.SIGTERM)
        manager.wait(30)


def test_the_installed_service_starts_reloads_restarts_and_stops(systemd: Systemd) -> None:
    installed = subprocess.run(
        [QUERN, "service", "install", "--user", "--name", "q", "--now", "--config", str(systemd.configure())],
        capture_output=True, text=True, check=False, timeout=PATIENCE_SECONDS, env=systemd.environment,
    )  # fmt: skip
    assert installed.returncode == 0, installed.stdout + installed.stderr
    assert systemd.shown("ActiveState") == "active"
    assert systemd.shown("StatusText") == f"Serving fake at {systemd.url}"
    assert requests.get(f"{systemd.url}/ready", timeout=PATIENCE_SECONDS).status_code == 200
    first = systemd.pid

    systemd.configure("[turns]\nmax_queued = 7\n")
    systemd.ctl("reload", "q.service")
    systemd.wait_until(lambda: systemd.shown("StatusText").startswith("Serving"))
    systemd.configure("[turns]\nmax_queued = 'many'\n")
    systemd.ctl("reload", "q.service")
    systemd.wait_until(lambda: "turns.max_queued" in systemd.shown("StatusText"))
    assert systemd.pid == first
    systemd.configure()

    os.kill(first, signal.SIGKILL)
    assert requests.get(f"{systemd.url}/ready", timeout=PATIENCE_SECONDS).status_code == 200, "it waited for the next"
    systemd.wait_until(lambda: systemd.shown("ActiveState") == "active")
    assert systemd.shown("NRestarts") == "1"
    assert systemd.pid != first

    outcomes: list[str] = []
    over = threading.Event()

    def ask() -> None:
        while not over.is_set():
            try:
                answer = requests.post(
                    f"{systemd.url}/v1/code/generate", data={"prompt": "hello"}, timeout=PATIENCE_SECONDS
                )
                outcomes.append(str(answer.status_code) if answer.ok else answer.text)
            except requests.RequestException as error:
                outcomes.append(repr(error))

    asking = threading.Thread(target=ask)
    asking.start()
    systemd.ctl("restart", "q.service")
    over.set()
    asking.join(PATIENCE_SECONDS)
    assert set(outcomes) == {"200"}

    systemd.ctl("stop", "q.service", "q.socket")
    assert (systemd.shown("ActiveState"), systemd.shown("Result")) == ("inactive", "success")


def test_a_server_that_stands_is_started_anew_by_the_watchdog(systemd: Systemd) -> None:
    subprocess.run(
        [QUERN, "service", "install", "--user", "--name", "q", "--config", str(systemd.configure())],
        capture_output=True, check=True, timeout=PATIENCE_SECONDS, env=systemd.environment,
    )  # fmt: skip
    more = systemd.folder / "config" / "systemd" / "user" / "q.service.d"
    more.mkdir()
    (more / "watchdog.conf").write_text("[Service]\nWatchdogSec=5\n")
    systemd.ctl("daemon-reload")
    systemd.ctl("start", "q.service")
    first = systemd.pid
    os.kill(first, signal.SIGSTOP)
    systemd.wait_until(lambda: systemd.shown("NRestarts") == "1" and systemd.shown("ActiveState") == "active")
    assert systemd.pid != first
    assert requests.get(f"{systemd.url}/ready", timeout=PATIENCE_SECONDS).status_code == 200
