"""`quern serve` as the person who runs it sees it."""

from __future__ import annotations

import fcntl
import os
import pty
import shlex
import signal
import subprocess
import termios
from pathlib import Path

import pytest
import requests

from .conftest import QUERN, ServerProcess, StartServer


def _run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([QUERN, *arguments], capture_output=True, text=True, timeout=60, check=False)


def test_the_printed_curl_line_returns_code(server: ServerProcess) -> None:
    (line,) = [line.strip() for line in server.log().splitlines() if line.strip().startswith("curl ")]
    answer = subprocess.run([*shlex.split(line), "-s"], capture_output=True, text=True, timeout=360, check=True)
    assert answer.stdout.startswith('{"status":"success","result":"')
    assert "def " in answer.stdout


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1"])
def test_an_address_that_others_can_reach_is_refused_with_an_explanation(host: str, tmp_path: Path) -> None:
    result = _run("serve", "--engine", "fake", "--host", host, "--data-dir", str(tmp_path))
    assert result.returncode == 2
    assert f"Refusing to listen on {host}" in result.stderr
    assert "quern keys create" in result.stderr
    assert "--allow-anonymous" in result.stderr
    assert "Traceback" not in result.stderr


def test_a_taken_port_is_named_before_anything_slow_happens(server: ServerProcess, tmp_path: Path) -> None:
    port = server.url.rpartition(":")[2]
    result = _run("serve", "--port", port, "--data-dir", str(tmp_path))
    assert result.returncode == 2
    assert f"Can't listen on 127.0.0.1:{port}" in result.stderr


def test_a_second_server_on_the_same_data_is_refused(server: ServerProcess) -> None:
    result = _run("serve", "--engine", "fake", "--port", "0", "--data-dir", str(server.data_dir))
    assert result.returncode == 1
    assert "Traceback" not in result.stderr
    assert str(server.data_dir) in result.stderr


def test_a_model_file_that_is_none_is_refused_with_a_sentence(tmp_path: Path, small_model_path: Path) -> None:
    broken = tmp_path / "broken.gguf"
    with small_model_path.open("rb") as whole:
        broken.write_bytes(whole.read(20_000_000))
    for path in (broken, tmp_path / "missing.gguf"):
        result = _run("serve", "--model", str(path), "--port", "0", "--data-dir", str(tmp_path / "data"))
        assert result.returncode == 1, result.stderr
        assert path.name in result.stderr
        assert "Traceback" not in result.stderr


def test_the_fake_engine_serves_without_any_model(start_server: StartServer) -> None:
    server = start_server("--engine", "fake")
    answer = requests.post(f"{server.url}/v1/code/generate", data={"prompt": "echo"}, timeout=10).json()
    assert answer["status"] == "success"
    assert "echo" in answer["result"]


def test_generate_on_the_command_line_streams_plain_text(server: ServerProcess) -> None:
    result = _run("generate", "Say hi.", "--server", server.url, "--max-tokens", "8")
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip()
    assert "\x1b" not in result.stdout


def _serve_in_terminal(data_dir: Path, *before: str) -> tuple[subprocess.Popen[bytes], int]:
    """A server whose controlling terminal is ours: closing the returned descriptor closes the terminal."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [*before, QUERN, "serve", "--engine", "fake", "--port", "0", "--data-dir", str(data_dir)],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,
        preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),  # noqa: PLW1509 (the child makes it its terminal)
    )
    os.close(theirs)
    seen = b""
    while b"Try it:" not in seen:
        seen += os.read(ours, 65536)
    return process, ours


def test_a_closed_terminal_is_a_clean_end(tmp_path: Path) -> None:
    process, terminal = _serve_in_terminal(tmp_path)
    os.close(terminal)
    assert process.wait(20) == 0


def test_under_nohup_a_hangup_changes_nothing(tmp_path: Path) -> None:
    process, terminal = _serve_in_terminal(tmp_path, "sh", "-c", 'trap "" HUP; exec "$@"', "sh")
    process.send_signal(signal.SIGHUP)
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(1)
    process.send_signal(signal.SIGTERM)
    assert process.wait(20) == 0
    os.close(terminal)
