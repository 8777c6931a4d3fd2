"""Faults that happen to a whole server, made for real: a full disk, a clock that jumps, an output that nobody reads,
too few files, a crash in native code. The table in docs/operations.md says what each of them costs.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil
import pytest
import requests

from .conftest import ONE_THREAD, QUERN, ServerProcess, chat
from .test_status_and_stop import run
from .test_survival import Reader

FAKE = ("--engine", "fake", "--log-format", "json")
WAIT_SECONDS = 60
LONG = {"prompt": "Count.", "max_tokens": 3000, "temperature": 0}


def until(ask: Callable[[], Any], what: str, seconds: float = WAIT_SECONDS) -> Any:
    """The first answer that is one."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        with suppress(OSError, ValueError, requests.RequestException):
            if answer := ask():
                return answer
        time.sleep(0.02)
    pytest.fail(f"waited {seconds} s in vain for {what}")


def url_in(folder: Path) -> str:
    """Where the server of a data directory says that it is, once it takes turns."""
    url = until(lambda: json.loads((folder / "server.json").read_text(encoding="utf-8"))["url"], "an address")
    until(lambda: requests.get(f"{url}/ready", timeout=5).status_code == 200, "a ready server")
    return url


@contextmanager
def serving(folder: Path, *options: str, before: Sequence[str] = (), **settings: str) -> Generator[ServerProcess]:
    server = ServerProcess(folder, *options, before=before, **settings)
    try:
        yield server.wait_until_ready()
    finally:
        server.stop()


@pytest.mark.parametrize("output", ["a reader that goes", "a reader that does not read", "a full disk"])
def test_whatever_becomes_of_its_output_a_server_serves_and_stops_in_order(tmp_path: Path, output: str) -> None:
    with ExitStack() as stack:
        ours, theirs = os.pipe()
        fcntl.fcntl(theirs, fcntl.F_SETPIPE_SZ, 4096)
        if output == "a full disk":
            os.close(theirs)
            theirs = os.open("/dev/full", os.O_WRONLY)
        server = subprocess.Popen(
            [QUERN, "serve", "--port", "0", "--data-dir", str(tmp_path), *FAKE],
            stdout=theirs,
            stderr=theirs,
            env={**os.environ, **ONE_THREAD},
        )
        stack.callback(server.kill)
        os.close(theirs)
        url = url_in(tmp_path)
        if output == "a reader that goes":
            os.close(ours)
        client = stack.enter_context(requests.Session())
        for number in range(60):  # the lines of their requests are more than the pipe holds
            assert client.get(f"{url}/v1/conversations?limit=1", timeout=20).status_code == 200, number
        _, text, _ = chat(url, "hello")
        assert "hello" in text
        assert run("status", folder=tmp_path).returncode == 0
        server.send_signal(signal.SIGTERM)
        assert server.wait(20) == 0
        if output != "a reader that goes":
            os.close(ours)


OWN_DISK = ("unshare", "-rm", "sh", "-c", 'mount -t tmpfs -o size=4m none "$0" && exec "$@"')
"""A disk of its own, that nobody else sees."""


def _has_small_disks(folder: Path) -> bool:
    command = [*OWN_DISK, str(folder), "true"]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def test_on_a_full_disk_nothing_is_lost_that_was_saved_and_with_room_all_goes_on(
    tmp_path: Path, tiny_model_path: Path
) -> None:
    if shutil.which("unshare") is None or not _has_small_disks(tmp_path):
        pytest.skip("this user may not mount a disk; tests/unit/store/test_database.py fills SQLite's own limit")
    folder = tmp_path / "data"
    folder.mkdir()
    command = [QUERN, "serve", "--port", "0", "--data-dir", str(folder)]
    server = subprocess.Popen(
        [*OWN_DISK, str(folder), *command, "--model", str(tiny_model_path), "--engine", "cpu"],
        env={**os.environ, **ONE_THREAD, "QUERN_STORE__RESERVE_MIB": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        inside = Path(f"/proc/{server.pid}/root{folder}")
        url = url_in(inside)
        conversation_id, said, _ = chat(url, "hello", max_tokens=4)
        running = Reader(url, **LONG)
        running.start()
        running.wait_for_text()
        filler = (inside / "filler").open("wb")
        with suppress(OSError), filler:
            while True:
                filler.write(b"x" * 65536)
                filler.flush()
        refused = requests.post(f"{url}/v1/code/chat_stream", data={"prompt": "too late", "max_tokens": 4}, timeout=30)
        assert refused.status_code == 507
        assert "is full" in refused.text
        assert requests.get(f"{url}/v1/conversations/{conversation_id}", timeout=30).status_code == 200
        running.wait_for_text(len(running.pieces) + 50)
        (inside / "filler").unlink()
        running.join(WAIT_SECONDS)
        assert running.error is None, "with room in time, a turn that ran is whole"
        kept = requests.get(f"{url}/v1/conversations/{running.conversation_id}", timeout=30).json()
        assert kept["messages"][1]["content"] == running.text()
        kept = requests.get(f"{url}/v1/conversations/{conversation_id}", timeout=30).json()
        assert kept["messages"][1]["content"] == said
        chat(url, "and now?", conversation_id, max_tokens=4)
        server.send_signal(signal.SIGTERM)
        assert server.wait(WAIT_SECONDS) == 0
    finally:
        server.kill()
        server.wait(WAIT_SECONDS)


@pytest.fixture(scope="session")
def jumping_clock(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The library that makes a process's clock jump."""
    library = tmp_path_factory.mktemp("clock") / "jumping_clock.so"
    source = Path(__file__).with_name("jumping_clock.c")
    subprocess.run(["cc", "-shared", "-fPIC", "-O1", "-o", str(library), str(source), "-ldl"], check=True)
    return library


class Clock:
    """What a server's clock is ahead of ours."""

    def __init__(self, file: Path) -> None:
        self.file = file
        file.write_bytes(struct.pack("q", 0))

    def set(self, seconds: int) -> None:
        # In place: the server has the file mapped, and in one that is cut short for a moment it would die of SIGBUS.
        with self.file.open("r+b") as mapped:
            mapped.write(struct.pack("q", seconds))


OFTEN = """
from quern.turns import archive, conversations
from quern.cli.main import run
archive.FORGET_EVERY = conversations.FORGET_EVERY = 0.05
run()
"""
"""What is old is looked for every minute; nobody wants to wait for that."""


def test_a_clock_that_jumps_deletes_nothing_and_holds_up_nobody(tmp_path: Path, jumping_clock: Path) -> None:
    clock = Clock(tmp_path / "clock")
    year = 365 * 24 * 3600
    data = tmp_path / "data"
    data.mkdir()
    with serving(
        data,
        *FAKE,
        command=OFTEN,
        before=(sys.executable, "-c"),
        LD_PRELOAD=str(jumping_clock),
        JUMPING_CLOCK=str(clock.file),
        QUERN_CONVERSATIONS__KEEP_DAYS="30",
    ) as server:
        created = requests.post(f"{server.url}/v1/conversations", json={}, timeout=10).json()
        assert abs(created["created_at"] - time.time()) < 60
        conversation_id, _, _ = chat(server.url, "first")
        stream = requests.post(f"{server.url}/v1/chat/completions", json=asked("long " * 2000), stream=True, timeout=60)
        headers = {"Idempotency-Key": "a key"}
        paid = requests.post(f"{server.url}/v1/chat/completions", json=asked("paid"), headers=headers, timeout=10)
        for ahead in (year, -20 * year, 0):
            clock.set(ahead)
            moved = requests.post(f"{server.url}/v1/conversations", json={}, timeout=10).json()
            assert abs(moved["created_at"] - time.time() - ahead) < 60, "the server's clock has jumped"
            time.sleep(0.3)
            _, text, _ = chat(server.url, f"at {ahead}", conversation_id)
            assert f"at {ahead}" in text
        assert "clock_set_forward" in server.log()
        again = requests.post(f"{server.url}/v1/chat/completions", json=asked("paid"), headers=headers, timeout=10)
        assert again.json()["id"] == paid.json()["id"]
        assert stream.text.endswith("data: [DONE]\n\n")
        body = requests.get(f"{server.url}/v1/conversations/{conversation_id}", timeout=10).json()
        asked_for = [message["content"] for message in body["messages"] if message["role"] == "user"]
        assert asked_for == ["first", f"at {year}", f"at {-20 * year}", "at 0"], "the order is that of what was said"
        listed = requests.get(f"{server.url}/v1/conversations", timeout=10).json()["data"]
        assert {created["id"], conversation_id} <= {one["id"] for one in listed}
        assert run("status", folder=data).returncode == 0
        assert run("stop", folder=data).returncode == 0


def asked(prompt: str) -> dict[str, object]:
    """A request, streamed where it is a long one."""
    return {"messages": [{"role": "user", "content": prompt}], "stream": prompt.startswith("long")}


HEAD = (
    b"POST /v1/code/generate HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n"
    b"Content-Type: application/x-www-form-urlencoded\r\n\r\nprompt="
)


def test_with_too_few_files_connections_are_refused_and_those_that_are_open_are_served(tmp_path: Path) -> None:
    limit = ("prlimit", "--nofile=300:300")
    with serving(tmp_path, *FAKE, before=limit) as server, ExitStack() as stack:
        assert "few_open_files" in server.log()
        host, _, port = server.url.removeprefix("http://").partition(":")
        busy = [stack.enter_context(socket.create_connection((host, int(port)))) for _ in range(44)]
        for connection in busy:
            connection.sendall(HEAD)
        until(lambda: requests.get(f"{server.url}/health", timeout=5).status_code == 503, "a refusal")
        for connection in busy[:10]:
            connection.sendall(b"hi")
            assert connection.recv(15).startswith(b"HTTP/1.1 200"), "those who have a place are served"
        busy[0].close()
        until(lambda: requests.get(f"{server.url}/health", timeout=5).status_code == 200, "a place")
        server.process.send_signal(signal.SIGINT)
        assert server.process.wait(20) == 130, "Ctrl-C is a clean end too"


def test_a_crash_in_native_code_interrupts_what_runs_and_the_next_start_has_its_text(
    tmp_path: Path, tiny_model_path: Path
) -> None:
    tiny = ("--model", str(tiny_model_path), "--engine", "cpu")
    with serving(tmp_path, *tiny) as server:
        reader = Reader(server.url, **LONG)
        reader.start()
        reader.wait_for_text(40)
        server.process.send_signal(signal.SIGSEGV)
        assert server.process.wait(20) == -signal.SIGSEGV
        reader.join(20)
        assert reader.error is not None
        assert "Fatal Python error: Segmentation fault" in server.log(), "the log says where"
        assert str(LONG["prompt"]) not in server.log()
    with serving(tmp_path, *FAKE) as server:
        (turn,) = requests.get(f"{server.url}/v1/conversations/{reader.conversation_id}", timeout=10).json()["turns"]
        assert turn["state"] == "interrupted"
        assert reader.text().startswith(turn["text"]) or turn["text"].startswith(reader.text())
        assert turn["text"]


def test_without_its_control_sockets_file_a_server_serves_and_commands_still_find_it(tmp_path: Path) -> None:
    with serving(tmp_path, *FAKE) as server:
        (tmp_path / "quern.sock").unlink()
        assert chat(server.url, "hello")[1]
        made = run("keys", "create", "anna", folder=tmp_path)
        assert made.returncode == 1
        assert "Traceback" not in made.stderr
        assert "quern.sock" in made.stderr
        stopped = run("stop", folder=tmp_path)
        assert stopped.returncode == 0, stopped.stderr
        assert server.process.wait(20) == 0


def test_a_home_that_takes_no_files_is_named_with_what_to_do() -> None:
    place = "/proc/no/such"
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("QUERN_", "XDG_"))}
    ended = subprocess.run(
        [QUERN, "serve", "--engine", "fake", "--port", "0"],
        env={**environment, "HOME": place},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ended.returncode == 1
    assert f"{place}/.local/share/quern can't be used" in ended.stderr
    assert "--data-dir" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_a_model_that_finds_no_memory_says_what_to_do(tmp_path: Path, tiny_model_path: Path) -> None:
    """The limit is one of address space, so the lack is real, and this machine doesn't feel it."""
    limit = ("prlimit", f"--as={2**32}")
    tiny = ("--model", str(tiny_model_path), "--engine", "cpu")
    server = ServerProcess(tmp_path, *tiny, before=limit, QUERN_ENGINE__KV_TOKENS="200000000")
    try:
        assert server.process.wait(WAIT_SECONDS) == 1
    finally:
        server.stop()
    assert "not enough memory" in server.log()
    assert "engine.kv_tokens" in server.log()
    assert "Traceback" not in server.log()


def test_eight_large_bodies_at_once_take_little_more_memory_than_two(tmp_path: Path) -> None:
    text = "冒泡 sort, " * 580_000
    body = json.dumps({"messages": [{"role": "user", "content": text}]}, ensure_ascii=False).encode()
    assert 7 * 2**20 < len(body) < 8 * 2**20
    with serving(tmp_path, *FAKE) as server:
        process = psutil.Process(server.process.pid)

        def peak_with(count: int) -> int:
            """The most memory that it takes while so many are sent at once."""
            statuses: list[int] = []

            def send() -> None:
                headers = {"content-type": "application/json"}
                answer = requests.post(f"{server.url}/v1/chat/completions", data=body, headers=headers, timeout=120)
                statuses.append(answer.status_code)

            senders = [threading.Thread(target=send) for _ in range(count)]
            for sender in senders:
                sender.start()
            peak = 0
            while any(sender.is_alive() for sender in senders):
                peak = max(peak, process.memory_info().rss)
                time.sleep(0.005)
            assert set(statuses) <= {413, 503}, "too long for the context, or too many for now"
            assert len(statuses) == count
            return peak

        peak_with(1)
        two, eight = peak_with(2), peak_with(8)
        assert eight < two + 100 * 2**20
        assert eight < 600 * 2**20
