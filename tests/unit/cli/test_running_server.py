"""A data directory's server: alone, found by its clients, and forgotten when it has ended."""

from __future__ import annotations

import json
import os
import signal
import stat
import subprocess
import sys
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import pytest

from quern.cli.running_server import claimed, find, url_of
from quern.errors import StoreError

URL = "http://127.0.0.1:9000"
HOLDER = """
import sys
from pathlib import Path
from quern.cli.running_server import claimed
with claimed(Path(sys.argv[1])) as claim:
    claim.announce(sys.argv[2])
    print("claimed", flush=True)
    sys.stdin.read()
"""


@contextmanager
def another_server(data_dir: Path) -> Generator[subprocess.Popen[str]]:
    """A process of its own that has the directory."""
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(data_dir), URL], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "claimed\n"
        try:
            yield process
        finally:
            process.kill()


def test_a_directory_without_a_server_has_none(tmp_path: Path) -> None:
    assert find(tmp_path / "missing") is None
    assert find(tmp_path) is None


def test_a_server_is_found_while_it_runs_and_not_after_its_end(tmp_path: Path) -> None:
    with another_server(tmp_path) as process:
        server = find(tmp_path)
        assert server is not None
        assert (server.url, server.pid, server.alive) == (URL, process.pid, True)
        assert process.stdin is not None
        process.stdin.close()
        assert process.wait(30) == 0
    assert find(tmp_path) is None
    assert not server.alive
    assert not (tmp_path / "server.json").exists()


def test_what_a_killed_server_left_is_known_to_be_stale(tmp_path: Path) -> None:
    with another_server(tmp_path) as process:
        process.send_signal(signal.SIGKILL)
        process.wait(30)
    assert (tmp_path / "server.json").exists()
    assert find(tmp_path) is None
    with claimed(tmp_path) as claim:
        claim.announce(URL)
        server = find(tmp_path)
        assert server is not None
        assert server.pid == os.getpid()


@pytest.mark.parametrize("left", ["", "{", "[]", '{"pid": 1}', '{"url": "u", "pid": 1, "surprise": 2}'])
def test_a_file_that_nobody_wrote_is_no_server(tmp_path: Path, left: str) -> None:
    with claimed(tmp_path):
        (tmp_path / "server.json").write_text(left, encoding="utf-8")
        assert find(tmp_path) is None


def test_a_pid_that_is_another_process_by_now_is_not_the_server(tmp_path: Path) -> None:
    with claimed(tmp_path) as claim:
        claim.announce(URL)
        state = json.loads((tmp_path / "server.json").read_text(encoding="utf-8"))
        (tmp_path / "server.json").write_text(json.dumps({**state, "process_start": state["process_start"] - 1}))
        server = find(tmp_path)
        assert server is not None
        assert not server.alive


@pytest.mark.parametrize("name", ["the same", "a link", "a link to its parent", "hard-linked files"])
def test_a_second_server_is_refused_with_the_address_of_the_first_by_whichever_name(tmp_path: Path, name: str) -> None:
    data_dir = tmp_path / "parent" / "data"
    data_dir.mkdir(parents=True)
    with another_server(data_dir) as process:
        match name:
            case "the same":
                other = data_dir
            case "a link":
                other = tmp_path / "link"
                other.symlink_to(data_dir, target_is_directory=True)
            case "a link to its parent":
                (tmp_path / "link").symlink_to(data_dir.parent, target_is_directory=True)
                other = tmp_path / "link" / "data"
            case _:
                other = tmp_path / "copy"
                other.mkdir()
                for file in data_dir.iterdir():
                    (other / file.name).hardlink_to(file)
        with pytest.raises(StoreError) as refused, claimed(other):
            pass
        assert URL in str(refused.value)
        assert f"pid {process.pid}" in str(refused.value)
        assert find(data_dir) is not None


def test_only_the_owner_can_read_what_is_left_in_the_directory(tmp_path: Path) -> None:
    folder = tmp_path / "new"
    with claimed(folder) as claim:
        claim.announce(URL)
        modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in (folder, *folder.iterdir())}
    assert modes == {"new": 0o700, "server.lock": 0o600, "server.json": 0o600}


def test_a_directory_that_cant_be_made_is_refused_with_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="--data-dir"), claimed(tmp_path / "file" / "data"):
        pass


@pytest.mark.parametrize(
    ("host", "url"),
    [
        ("127.0.0.1", "http://127.0.0.1:80"),
        ("0.0.0.0", "http://127.0.0.1:80"),
        ("::", "http://[::1]:80"),
        ("::1", "http://[::1]:80"),
        ("quern.example", "http://quern.example:80"),
    ],
)
def test_clients_are_sent_where_a_listening_address_can_be_reached(host: str, url: str) -> None:
    assert url_of(host, 80) == url
