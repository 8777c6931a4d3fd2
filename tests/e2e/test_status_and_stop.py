"""`quern status` and `quern stop` beside a real server on the fake engine."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import time
from pathlib import Path

import pytest
import requests

from .conftest import QUERN, ServerProcess, StartServer

NOTHING_RUNS = 3


def run(*arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("QUERN_")}
    return subprocess.run(
        [QUERN, *arguments, "--data-dir", str(folder)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env=environment,
    )


@pytest.mark.parametrize("name", ["status", "ps"])
def test_status_shows_what_runs(fake_server: ServerProcess, name: str) -> None:
    shown = run(name, folder=fake_server.data_dir)
    assert shown.returncode == 0, shown.stderr
    for text in (fake_server.url, f"pid {fake_server.process.pid}", "fake", "0 running of 16", "0 waiting", "MB"):
        assert text in shown.stdout
    assert str(fake_server.data_dir) in shown.stdout


def test_status_as_json_has_every_fact(fake_server: ServerProcess) -> None:
    facts = json.loads(run("status", "--json", folder=fake_server.data_dir).stdout)
    assert (facts["url"], facts["pid"], facts["status"]) == (fake_server.url, fake_server.process.pid, "ready")
    assert (facts["model"]["id"], facts["model"]["engine"], facts["running"], facts["waiting"]) == (
        "fake",
        "fake",
        0,
        0,
    )
    assert facts["memory_bytes"] > 10**7
    assert facts["uptime_seconds"] > 0


def test_a_server_without_a_place_for_another_connection_still_says_what_it_does(tmp_path: Path) -> None:
    server = ServerProcess(tmp_path, "--engine", "fake", QUERN_SERVER__MAX_CONNECTIONS="1").wait_until_ready()
    host, _, port = server.url.removeprefix("http://").partition(":")
    head = b"POST /v1/code/generate HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\nprompt="
    try:
        with socket.create_connection((host, int(port))) as client:
            client.sendall(head)
            while requests.get(f"{server.url}/health", timeout=10).status_code != 503:
                time.sleep(0.05)
            facts = json.loads(run("status", "--json", folder=tmp_path).stdout)
        assert (facts["url"], facts["status"], facts["model"]["id"]) == (server.url, "ready", "fake")
    finally:
        server.stop()


def test_without_a_server_there_is_a_sentence_and_an_exit_code_for_each(tmp_path: Path) -> None:
    environment = {**os.environ, "QUERN_SERVER__PORT": "9"}
    shown = subprocess.run([QUERN, "status"], capture_output=True, text=True, timeout=60, check=False, env=environment)
    assert (shown.returncode, shown.stdout) == (NOTHING_RUNS, "")
    assert "No server runs" in shown.stderr
    assert "quern serve" in shown.stderr
    stopped = run("stop", folder=tmp_path)
    assert stopped.returncode == 0
    assert "nothing to stop" in stopped.stdout


def test_stop_ends_the_server_and_waits_until_it_is_gone(fake_server: ServerProcess) -> None:
    stopped = run("stop", folder=fake_server.data_dir)
    assert stopped.returncode == 0, stopped.stderr
    assert f"Stopped the server at {fake_server.url} (pid {fake_server.process.pid})" in stopped.stdout
    assert fake_server.process.wait(10) == 0
    assert not (fake_server.data_dir / "server.json").exists()
    assert run("stop", folder=fake_server.data_dir).returncode == 0


def test_stop_now_does_not_wait_for_a_long_answer(start_server: StartServer) -> None:
    server = start_server()
    endless = {"input_prefix": "1,", "input_suffix": "", "n_predict": 4000, "ignore_eos": True, "stream": True}
    with requests.post(f"{server.url}/infill", json=endless, stream=True, timeout=60) as answer:
        pieces = answer.iter_lines()
        assert b"content" in next(pieces)
        stopped = run("stop", "--now", folder=server.data_dir)
        assert stopped.returncode == 0, stopped.stderr
        assert b"error" in [line for line in pieces if line][-1]
    assert server.process.wait(10) == 0


def test_stop_says_so_where_the_server_does_not_end_in_time(fake_server: ServerProcess) -> None:
    os.kill(fake_server.process.pid, signal.SIGSTOP)
    try:
        stopped = run("stop", "--timeout", "0.2", folder=fake_server.data_dir)
        assert stopped.returncode == 1
        assert "still runs after 0.2 s" in stopped.stderr
    finally:
        os.kill(fake_server.process.pid, signal.SIGCONT)
    assert fake_server.process.wait(30) == 0


def test_a_killed_server_leaves_nothing_that_runs(fake_server: ServerProcess) -> None:
    fake_server.kill()
    shown = run("status", folder=fake_server.data_dir)
    assert shown.returncode in {0, NOTHING_RUNS}
    assert str(fake_server.process.pid) not in shown.stdout
    assert "nothing to stop" in run("stop", folder=fake_server.data_dir).stdout


@pytest.mark.parametrize("way", ["the same", "a link", "its database linked", "its database hard-linked"])
def test_a_second_server_is_refused_before_it_looks_for_a_model(
    fake_server: ServerProcess, tmp_path: Path, way: str
) -> None:
    folder = fake_server.data_dir if way == "the same" else tmp_path / "other"
    if way == "a link":
        folder.symlink_to(fake_server.data_dir, target_is_directory=True)
    elif folder != fake_server.data_dir:
        folder.mkdir()
    if way == "its database linked":
        (folder / "quern.db").symlink_to(fake_server.data_dir / "quern.db")
    if way == "its database hard-linked":
        (folder / "quern.db").hardlink_to(fake_server.data_dir / "quern.db")
    refused = run("serve", "--port", "0", "--model", "no-such-model", folder=folder)
    assert refused.returncode == 1
    assert "Traceback" not in refused.stderr
    assert "no-such-model" not in refused.stderr
    if way == "its database hard-linked":
        assert "2 names (hard links)" in refused.stderr
    else:
        assert f"{fake_server.url} (pid {fake_server.process.pid})" in refused.stderr
    assert requests.get(f"{fake_server.url}/ready", timeout=10).status_code == 200


def test_the_banner_has_a_base_url_for_each_vendors_clients(fake_server: ServerProcess) -> None:
    lines = [line.split() for line in fake_server.log().splitlines()]
    assert ["OpenAI's", f"{fake_server.url}/v1"] in lines
    for vendor in ("Anthropic's", "Ollama's", "llama.cpp's"):
        assert [vendor, fake_server.url] in lines
    assert "any key will do" in fake_server.log()
