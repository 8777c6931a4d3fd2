"""`quern serve` under a service manager: what it says, what it is given, and what SIGHUP does. A real process each
time, and real sockets at which this test is systemd.
"""

from __future__ import annotations

import fcntl
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

from quern.client.client import QuernClient

from .conftest import QUERN, ServerProcess

PATIENCE_SECONDS = 60


class Manager:
    """systemd's side of the notify socket. `abstract`: the socket's address is no file."""

    def __init__(self, folder: Path, *, abstract: bool = False) -> None:
        self.variable = f"@quern-test-{os.getpid()}-{folder.name}" if abstract else str(folder / "notify")
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(self.variable.replace("@", "\0", 1) if abstract else self.variable)
        self.messages: list[dict[str, str]] = []

    def next(self, key: str) -> dict[str, str]:
        """The next message that has a key; those before it are kept in `messages`."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while True:
            self.socket.settimeout(max(0.01, deadline - time.monotonic()))
            try:
                data = self.socket.recv(65536)
            except TimeoutError:
                pytest.fail(f"{key} did not come; there was {self.messages}")
            message = dict(line.split("=", 1) for line in data.decode().splitlines())
            self.messages.append(message)
            if key in message:
                return message

    def drain(self) -> list[dict[str, str]]:
        """What has come and was not read yet."""
        seen = len(self.messages)
        self.socket.setblocking(False)
        try:
            while True:
                data = self.socket.recv(65536)
                self.messages.append(dict(line.split("=", 1) for line in data.decode().splitlines()))
        except BlockingIOError:
            return self.messages[seen:]


@pytest.fixture(params=["a file", "an abstract address"])
def any_manager(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Manager]:
    manager = Manager(tmp_path, abstract=request.param != "a file")
    yield manager
    manager.socket.close()


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[Manager]:
    manager = Manager(tmp_path)
    yield manager
    manager.socket.close()


Serve = Callable[..., ServerProcess]


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Serve]:
    """Start servers on the fake engine, on one data directory, without a terminal."""
    folder = tmp_path / "data"
    folder.mkdir()
    started: list[ServerProcess] = []

    def start(*options: str, **variables: str) -> ServerProcess:
        started.append(ServerProcess(folder, "--engine", "fake", *options, **variables))
        return started[-1]

    yield start
    for server in started:
        server.stop()


def test_the_manager_hears_when_it_is_ready_and_when_it_ends(any_manager: Manager, serve: Serve) -> None:
    server = serve(NOTIFY_SOCKET=any_manager.variable)
    ready = any_manager.next("READY")
    assert ready["READY"] == "1"
    server.wait_until_ready()
    assert requests.get(f"{server.url}/ready", timeout=10).status_code == 200
    assert ready["STATUS"] == f"Serving fake at {server.url}"
    loading = [message for message in any_manager.messages if message is not ready]
    assert loading
    for message in loading:
        assert message["STATUS"].startswith("Loading the model")
        assert int(message["EXTEND_TIMEOUT_USEC"]) >= 60_000_000
    server.process.send_signal(signal.SIGTERM)
    stopping = any_manager.next("STOPPING")
    assert stopping["STOPPING"] == "1"
    assert int(stopping["EXTEND_TIMEOUT_USEC"]) >= 30_000_000
    assert server.process.wait(30) == 0
    assert [message for message in any_manager.drain() if "READY" in message] == []


def test_a_server_that_cannot_start_never_says_that_it_is_ready(manager: Manager, tmp_path: Path) -> None:
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(b"GGUF but not really")
    server = ServerProcess(tmp_path, "--model", str(broken), NOTIFY_SOCKET=manager.variable)
    assert server.process.wait(60) == 1
    assert [message for message in manager.drain() if "READY" in message] == []


def test_a_notify_socket_at_which_nobody_listens_keeps_nobody_from_serving(tmp_path: Path, serve: Serve) -> None:
    server = serve(NOTIFY_SOCKET=str(tmp_path / "none"), WATCHDOG_USEC="1000000").wait_until_ready()
    assert requests.get(f"{server.url}/health", timeout=10).status_code == 200
    assert "service_manager_not_told" in server.log()


def test_the_watchdog_is_fed_while_the_server_runs_and_starves_while_it_stands(manager: Manager, serve: Serve) -> None:
    server = serve(NOTIFY_SOCKET=manager.variable, WATCHDOG_USEC="400000")
    manager.next("READY")
    for _ in range(5):
        assert manager.next("WATCHDOG")["WATCHDOG"] == "1"
    server.process.send_signal(signal.SIGSTOP)
    time.sleep(0.5)
    manager.drain()
    time.sleep(1)
    assert manager.drain() == []
    server.process.send_signal(signal.SIGCONT)
    manager.next("WATCHDOG")


@pytest.mark.parametrize("variables", [{"WATCHDOG_USEC": "0"}, {"WATCHDOG_USEC": "200000", "WATCHDOG_PID": "1"}, {}])
def test_a_watchdog_that_is_none_or_another_processs_is_not_fed(
    manager: Manager, serve: Serve, variables: dict[str, str]
) -> None:
    serve(NOTIFY_SOCKET=manager.variable, **variables).wait_until_ready()
    manager.next("READY")
    time.sleep(0.5)
    assert [message for message in manager.drain() if "WATCHDOG" in message] == []


def _config(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "quern.toml"
    path.write_text(text, encoding="utf-8")
    return path


def _wait_for_log(server: ServerProcess, text: str) -> str:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < deadline:
        found = [line for line in server.log().splitlines() if text in line]
        if found:
            return found[-1]
        time.sleep(0.05)
    pytest.fail(f"{text!r} is not in the log:\n{server.log()}")


def test_sighup_reads_the_settings_anew_and_names_those_that_need_a_restart(
    tmp_path: Path, manager: Manager, serve: Serve
) -> None:
    config = _config(tmp_path, "[log]\nlevel = 'warning'\n")
    server = serve("--config", str(config), NOTIFY_SOCKET=manager.variable)
    manager.next("READY")
    server.wait_until_ready()
    assert requests.get(f"{server.url}/v1/models", timeout=10).status_code == 200
    assert "/v1/models" not in server.log()
    _config(tmp_path, "[log]\nlevel = 'info'\n[turns]\nmax_queued = 7\nhold_seconds = 5.0\n[engine]\nparallel = 3\n")
    before = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
    server.process.send_signal(signal.SIGHUP)
    reloading = manager.next("RELOADING")
    assert reloading["RELOADING"] == "1"
    assert before <= int(reloading["MONOTONIC_USEC"]) <= time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
    assert manager.next("READY")["STATUS"].startswith("Serving fake at")
    took = _wait_for_log(server, "settings_reloaded")
    assert all(name in took for name in ("log.level", "turns.max_queued"))
    assert "engine.parallel" not in took
    waiting = _wait_for_log(server, "settings_need_restart")
    assert all(name in waiting for name in ("engine.parallel", "turns.hold_seconds"))
    assert requests.get(f"{server.url}/v1/models", timeout=10).status_code == 200
    assert "/v1/models" in _wait_for_log(server, "/v1/models")
    assert server.stop() == 0


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("[log]\nlevel = 'loud'\n", "log.level"),
        ("[log]\nlevle = 'debug'\n", "log.levle"),
        ("[log\n", "not valid TOML"),
        ("[server]\nidle_seconds = -1\n[log]\nlevel = 'error'\n", "server.idle_seconds"),
        (None, "can't be read"),
    ],
)
def test_a_file_that_is_wrong_is_refused_and_the_settings_stay(
    tmp_path: Path, manager: Manager, serve: Serve, text: str | None, named: str
) -> None:
    config = _config(tmp_path, "[log]\nlevel = 'info'\n")
    server = serve("--config", str(config), NOTIFY_SOCKET=manager.variable).wait_until_ready()
    manager.next("READY")
    if text is None:
        config.unlink()
    else:
        _config(tmp_path, text)
    server.process.send_signal(signal.SIGHUP)
    manager.next("RELOADING")
    assert named in manager.next("READY")["STATUS"]
    assert named in _wait_for_log(server, "settings_refused")
    assert requests.get(f"{server.url}/v1/models", timeout=10).status_code == 200
    assert "/v1/models" in _wait_for_log(server, "/v1/models")
    assert server.process.poll() is None


def _quern_reload(server: ServerProcess, *options: str) -> subprocess.CompletedProcess[str]:
    command = [QUERN, "reload", "--data-dir", str(server.data_dir), *options]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def test_quern_reload_says_what_changed_and_what_needs_a_restart(
    tmp_path: Path, manager: Manager, serve: Serve
) -> None:
    config = _config(tmp_path, "[log]\nlevel = 'warning'\n")
    server = serve("--config", str(config), NOTIFY_SOCKET=manager.variable).wait_until_ready()
    manager.next("READY")
    nothing = _quern_reload(server)
    assert (nothing.returncode, nothing.stdout) == (
        0,
        "No setting that a running server can take over has changed.\n",
    )
    manager.next("RELOADING")
    assert manager.next("READY")["STATUS"].startswith("Serving fake at")
    _config(tmp_path, "[log]\nlevel = 'info'\n[limits]\ntokens_per_day = 70\n[engine]\nparallel = 3\n")
    done = _quern_reload(server)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        "limits.tokens_per_day: 0, now 70",
        "log.level: warning, now info",
        "A restart is needed for: engine.parallel",
    ]
    assert requests.get(f"{server.url}/v1/models", timeout=10).status_code == 200
    assert "/v1/models" in _wait_for_log(server, "/v1/models")
    as_json = _quern_reload(server, "--json")
    assert json.loads(as_json.stdout) == {
        "object": "reload",
        "changed": {},
        "need_restart": ["engine.parallel"],
        "keys_kept": None,
    }


@pytest.mark.parametrize(("text", "named"), [("[log]\nlevel = 'loud'\n", "log.level"), ("[log\n", "not valid TOML")])
def test_quern_reload_says_why_a_file_is_refused(tmp_path: Path, serve: Serve, text: str, named: str) -> None:
    config = _config(tmp_path, "[log]\nlevel = 'info'\n")
    server = serve("--config", str(config)).wait_until_ready()
    _config(tmp_path, text)
    refused = _quern_reload(server)
    assert refused.returncode == 2
    assert named in refused.stderr
    assert "are as they were" in refused.stderr
    assert requests.get(f"{server.url}/v1/models", timeout=10).status_code == 200
    assert "/v1/models" in _wait_for_log(server, "/v1/models"), "the log's level is as it was"
    assert server.stop() == 0
    missing = _quern_reload(server)
    assert missing.returncode == 1
    assert f"No server runs on the data directory {server.data_dir}" in missing.stderr


def test_a_reload_touches_no_answer_that_is_being_written(tmp_path: Path, serve: Serve) -> None:
    server = serve().wait_until_ready()
    prompt = " ".join(f"word {number}" for number in range(350))
    with requests.post(
        f"{server.url}/v1/code/generate",
        data={"prompt": prompt},
        headers={"Accept": "text/plain"},
        stream=True,
        timeout=60,
    ) as answer:
        pieces = answer.iter_content(64)
        text = next(pieces)
        for _ in range(3):
            server.process.send_signal(signal.SIGHUP)
            text += next(pieces)
        _wait_for_log(server, "settings_reloaded")
        text += b"".join(pieces)
    assert text.count(b"word") == 350


AS_SYSTEMD = """
import os, sys
for number, descriptor in enumerate(map(int, sys.argv[1].split(",")), 3):
    os.dup2(descriptor, number, inheritable=True)
os.environ["LISTEN_PID"] = str(os.getpid())
os.environ["LISTEN_FDS"] = str(number - 2)
os.execv(sys.argv[2], sys.argv[2:])
"""


class Activated(ServerProcess):
    """A server that gets its listeners as systemd passes them."""

    def __init__(self, data_dir: Path, listeners: list[socket.socket], *options: str) -> None:
        self.output = data_dir / f"serve-{time.monotonic_ns()}.log"
        self.data_dir = data_dir
        command = [QUERN, "serve", "--engine", "fake", "--data-dir", str(data_dir)]
        # Higher numbers than those that systemd uses, so that none is in another's way.
        moved = [fcntl.fcntl(listener.fileno(), fcntl.F_DUPFD, 20) for listener in listeners]
        with self.output.open("wb") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-c", AS_SYSTEMD, ",".join(map(str, moved)), *command, *options],
                stdout=output,
                stderr=subprocess.STDOUT,
                pass_fds=moved,
                start_new_session=True,
            )
        for descriptor in moved:
            os.close(descriptor)
        self.url = ""


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as opened:
        yield opened


def _url(listener: socket.socket) -> str:
    return f"http://127.0.0.1:{listener.getsockname()[1]}"


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    folder.mkdir()
    return folder


def test_a_socket_that_systemd_opened_is_the_servers(data_dir: Path, listener: socket.socket) -> None:
    server = Activated(data_dir, [listener], "--port", "9").wait_until_ready()
    try:
        assert server.url == _url(listener)
        with QuernClient(server.url) as client:
            assert "hello" in client.generate("hello")
        assert all(b"LISTEN_" not in (Path(f"/proc/{c.pid}/environ").read_bytes()) for c in server.children())
    finally:
        assert server.stop() == 0
    listener.settimeout(0)  # it is open still, and ours
    with socket.create_connection(listener.getsockname()):
        pass


def test_a_unix_socket_beside_it_is_served_too_and_is_no_control_socket(
    data_dir: Path, tmp_path: Path, listener: socket.socket
) -> None:
    with socket.socket(socket.AF_UNIX) as unix:
        unix.bind(str(tmp_path / "proxy.sock"))
        unix.listen()
        server = Activated(data_dir, [unix, listener]).wait_until_ready()
        try:
            with socket.socket(socket.AF_UNIX) as client:
                client.connect(str(tmp_path / "proxy.sock"))
                client.sendall(b"GET /health HTTP/1.1\r\nHost: evil.example\r\nConnection: close\r\n\r\n")
                assert client.recv(100).startswith(b"HTTP/1.1 403 ")
        finally:
            server.stop()


def test_a_passed_socket_that_others_can_reach_is_refused_like_such_an_address(data_dir: Path) -> None:
    with socket.create_server(("0.0.0.0", 0)) as everywhere:
        server = Activated(data_dir, [everywhere])
        assert server.process.wait(60) == 2
        assert "Refusing to listen on 0.0.0.0" in server.log()


def test_without_a_tcp_socket_the_sentence_says_what_to_add(data_dir: Path, tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as unix:
        unix.bind(str(tmp_path / "only.sock"))
        unix.listen()
        server = Activated(data_dir, [unix])
        assert server.process.wait(60) == 2
        assert "ListenStream=127.0.0.1:8001" in server.log()


def test_sockets_for_another_process_are_not_taken(tmp_path: Path, serve: Serve) -> None:
    server = serve(LISTEN_PID="1", LISTEN_FDS="1").wait_until_ready()
    assert requests.get(f"{server.url}/health", timeout=10).status_code == 200


def test_a_restart_refuses_nobody(data_dir: Path, listener: socket.socket) -> None:
    """Requests go on, each on a connection of its own, over three restarts: every one of them is answered."""
    listener.listen(4096)
    url = _url(listener)
    outcomes: list[Any] = []
    over = threading.Event()

    def ask() -> None:
        while not over.is_set():
            try:
                answer = requests.post(f"{url}/v1/code/generate", data={"prompt": "hello"}, timeout=PATIENCE_SECONDS)
                outcomes.append(answer.status_code if answer.ok else answer.text)
            except requests.RequestException as error:
                outcomes.append(error)

    server = Activated(data_dir, [listener]).wait_until_ready()
    threads = [threading.Thread(target=ask) for _ in range(4)]
    try:
        for thread in threads:
            thread.start()
        for _ in range(3):
            seen = len(outcomes)
            while len(outcomes) < seen + 20:
                time.sleep(0.02)
            assert server.stop() == 0
            server = Activated(data_dir, [listener]).wait_until_ready()
    finally:
        over.set()
        for thread in threads:
            thread.join(PATIENCE_SECONDS)
        server.stop()
    assert len(outcomes) >= 60
    assert set(map(str, outcomes)) == {"200"}
