"""`quern backup`, `quern restore` and `quern vacuum` beside a real server on the fake engine."""

from __future__ import annotations

import sqlite3
import stat
from contextlib import closing
from pathlib import Path

import pytest
import requests

from quern.cli.control import control
from quern.errors import ServerRefused, ServerUnreachable

from .conftest import ServerProcess, chat
from .test_status_and_stop import run


def test_a_conversation_goes_on_from_a_backup_that_was_made_while_the_server_ran(
    fake_server: ServerProcess, tmp_path: Path
) -> None:
    kept, _, _ = chat(fake_server.url, "Say hello.")
    file = tmp_path / "monday.db"
    made = run("backup", str(file), folder=fake_server.data_dir)
    assert made.returncode == 0, made.stderr
    assert "1 conversations, 1 turns" in made.stdout
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    lost, _, _ = chat(fake_server.url, "Say goodbye.")

    again = run("backup", str(file), folder=fake_server.data_dir)
    assert (again.returncode, "--force" in again.stderr) == (1, True)
    refused = run("restore", str(file), folder=fake_server.data_dir)
    assert refused.returncode == 1
    assert f"{fake_server.url} (pid {fake_server.process.pid})" in refused.stderr
    assert chat(fake_server.url, "And again.", kept)[1]

    fake_server.stop()
    restored = run("restore", str(file), folder=fake_server.data_dir)
    assert restored.returncode == 0, restored.stderr
    assert "before-restore" in restored.stdout
    server = ServerProcess(fake_server.data_dir, "--engine", "fake").wait_until_ready()
    try:
        assert len(requests.get(f"{server.url}/v1/conversations/{kept}", timeout=10).json()["turns"]) == 1
        assert requests.get(f"{server.url}/v1/conversations/{lost}", timeout=10).status_code == 404
        assert chat(server.url, "And again.", kept)[1]
    finally:
        server.stop()


def test_a_database_of_an_earlier_version_is_written_anew_while_no_server_runs(
    fake_server: ServerProcess,
) -> None:
    kept, text, _ = chat(fake_server.url, "Say hello.")
    refused = run("vacuum", folder=fake_server.data_dir)
    assert refused.returncode == 1
    assert f"{fake_server.url} (pid {fake_server.process.pid})" in refused.stderr
    fake_server.stop()
    database = fake_server.data_dir / "quern.db"
    with closing(sqlite3.connect(database, isolation_level=None)) as connection:
        connection.execute("PRAGMA auto_vacuum=NONE")
        connection.execute("VACUUM")
        assert connection.execute("PRAGMA auto_vacuum").fetchone() == (0,)
    done = run("vacuum", folder=fake_server.data_dir)
    assert (done.returncode, done.stderr) == (0, "")
    assert "anew" in done.stdout
    with closing(sqlite3.connect(database)) as connection:
        assert connection.execute("PRAGMA auto_vacuum").fetchone() == (2,)
    server = ServerProcess(fake_server.data_dir, "--engine", "fake").wait_until_ready()
    try:
        assert requests.get(f"{server.url}/v1/conversations/{kept}", timeout=10).json()["turns"][0]["text"] == text
    finally:
        server.stop()


@pytest.mark.parametrize(("command", "tool"), [("backup", "pg_dump"), ("restore", "pg_restore"), ("vacuum", "VACUUM")])
def test_for_postgresql_its_own_tools_are_named_and_no_password(tmp_path: Path, command: str, tool: str) -> None:
    config = tmp_path / "quern.toml"
    config.write_text("[store]\nurl = 'postgresql://quern:hunter2@db/quern'\n")
    file = [] if command == "vacuum" else [str(tmp_path / "x.db")]
    refused = run(command, *file, "--config", str(config), folder=tmp_path)
    assert refused.returncode == 1
    assert f"`{tool}" in refused.stderr
    assert "hunter2" not in refused.stdout + refused.stderr


def test_commands_speak_to_the_server_over_its_control_socket(fake_server: ServerProcess) -> None:
    with control(fake_server.data_dir) as client:
        assert client is not None
        assert client.request("GET", "/ready").json()["status"] == "ready"
        with pytest.raises(ServerRefused) as refused:
            client.request("GET", "/v1/conversations/none")
        assert refused.value.status == 404
    (fake_server.data_dir / "quern.sock").unlink()
    with pytest.raises(ServerUnreachable, match="no control socket"), control(fake_server.data_dir):
        pass
    fake_server.stop()
    with control(fake_server.data_dir) as client:
        assert client is None


def test_the_control_socket_ends_with_the_server_and_comes_back_after_a_kill(fake_server: ServerProcess) -> None:
    path = fake_server.data_dir / "quern.sock"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    fake_server.kill()
    assert path.is_socket()
    server = ServerProcess(fake_server.data_dir, "--engine", "fake").wait_until_ready()
    with control(server.data_dir) as client:
        assert client is not None
        assert client.request("GET", "/health").json() == {"status": "ok"}
    assert server.stop() == 0
    assert not path.exists()
