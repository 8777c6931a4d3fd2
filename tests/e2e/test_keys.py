"""Keys and usage of a real server: killed, started again, administered while it is down."""

from __future__ import annotations

import json
import subprocess
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import requests

from .conftest import QUERN, ServerProcess

FAKE = {"QUERN_ENGINE__NAME": "fake", "QUERN_LOG__LEVEL": "warning"}


def keys(data_dir: Path, *arguments: str) -> str:
    done = subprocess.run(
        [QUERN, *arguments, "--data-dir", str(data_dir)], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def ask(server: ServerProcess, key: str, **more: Any) -> requests.Response:
    body = {"messages": [{"role": "user", "content": "hello " * 20}], **more}
    return requests.post(
        f"{server.url}/v1/chat/completions", json=body, headers={"authorization": f"Bearer {key}"}, timeout=30
    )


def test_what_was_answered_before_a_kill_is_counted_once_and_a_days_limit_goes_on(tmp_path: Path) -> None:
    anna = keys(tmp_path, "keys", "create", "anna").strip()
    server = ServerProcess(tmp_path, **FAKE).wait_until_ready()
    answered: list[dict[str, int]] = []
    stop = threading.Event()

    def go_on() -> None:
        while not stop.is_set():
            try:
                answered.append(ask(server, anna).json()["usage"])
            except requests.RequestException:
                return

    try:
        threads = [threading.Thread(target=go_on) for _ in range(3)]
        for thread in threads:
            thread.start()
        deadline = time.monotonic() + 60
        while len(answered) < 20 and time.monotonic() < deadline:
            time.sleep(0.01)
    finally:
        server.kill()
        stop.set()
    for thread in threads:
        thread.join(30)
    assert len(answered) >= 20

    keys(tmp_path, "keys", "limit", "anna", "--tokens-per-day", "1")
    [row] = json.loads(keys(tmp_path, "usage", "--json"))
    begun = row["requests"] - len(answered)
    assert 0 <= begun <= 3, "those whose answers were lost in the kill"
    told = sum(usage["completion_tokens"] for usage in answered)
    longest = max(usage["completion_tokens"] for usage in answered)
    assert told <= row["completion_tokens"] <= told + begun * longest

    server = ServerProcess(tmp_path, **FAKE).wait_until_ready()
    try:
        assert requests.get(f"{server.url}/v1/models", timeout=5).status_code == 401
        refused = ask(server, anna)
        assert refused.status_code == 429, "the day's tokens were counted before the kill"
        assert int(refused.headers["retry-after"]) <= 86400
    finally:
        assert server.stop() == 0


def test_a_killed_command_leaves_a_whole_key_or_none(tmp_path: Path) -> None:
    keys(tmp_path, "keys", "create", "first")
    for pause in (0.2, 0.5, 0.8, 1.1, 1.4, 1.7):
        command = [QUERN, "keys", "create", f"k{pause}", "--data-dir", str(tmp_path)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
            time.sleep(pause)
            process.kill()
    listed = json.loads(keys(tmp_path, "keys", "list", "--json"))
    audit = json.loads(keys(tmp_path, "keys", "audit", "--json"))
    assert "first" in {key["name"] for key in listed}
    assert {entry["subject"] for entry in audit if entry["action"] == "keys.create"} == {key["id"] for key in listed}


@pytest.mark.parametrize("name", ["QUERN_API_KEY"])
def test_the_key_of_clients_is_no_setting_and_reaches_no_log(tmp_path: Path, name: str) -> None:
    anna = keys(tmp_path, "keys", "create", "anna").strip()
    server = ServerProcess(tmp_path, **{**FAKE, "QUERN_LOG__LEVEL": "debug", name: anna}).wait_until_ready()
    try:
        assert ask(server, anna).status_code == 200
        requests.get(f"{server.url}/v1/{anna}", headers={"user-agent": anna}, timeout=5)
    finally:
        assert server.stop() == 0
    assert anna.rsplit("_", 1)[1] not in server.log()
