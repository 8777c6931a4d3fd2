"""Which server a command talks to is decided by one rule, whichever command it is."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from tests.unit.cli.command import Command
from tests.unit.client.scripted_server import Scripted, ScriptedServer

from quern.cli.running_server import claimed

DEAD = "http://127.0.0.1:9"
COMMANDS = [("generate", "Hi"), ("chat",), ("status",), ("ps",)]
HEADER = b"conversation_id:0b8b9c1e-3f0a-4a42-9a57-0a4f2d8d6c11\n---\n"


@pytest.fixture(autouse=True)
def answers(server: ScriptedServer) -> None:
    server.answer("/v1/code/generate", Scripted((b"Hello",)))
    server.answer("/v1/code/chat_stream", Scripted((HEADER, b"Hello"), media_type="text/event-stream; charset=utf-8"))
    server.answer("/v1/models", Scripted((b'{"data": [{"id": "m"}]}',), media_type="application/json"))
    server.answer("/ready", Scripted((b'{"status": "ready"}',), media_type="application/json"))


@pytest.fixture
def running(tmp_path: Path, server: ScriptedServer) -> Iterator[Path]:
    """A data directory whose server is the scripted one."""
    with claimed(tmp_path / "running") as claim:
        claim.announce(server.url)
        yield tmp_path / "running"


def reached(command: Command, server: ScriptedServer, *arguments: str, **variables: str) -> bool:
    """Whether a command with these variables talks to the scripted server."""
    before = len(server.received)
    done = replace(command, environment={**command.environment, **variables}).run(*arguments, stdin=b"Hi\n")
    assert (done.returncode == 0) == (len(server.received) > before), done.stderr
    return done.returncode == 0


@pytest.mark.parametrize("arguments", COMMANDS)
def test_the_port_of_the_settings_is_the_port_of_the_clients(
    command: Command, server: ScriptedServer, arguments: tuple[str, ...]
) -> None:
    assert reached(command, server, *arguments, QUERN_SERVER__PORT=str(server.port))


@pytest.mark.parametrize("arguments", COMMANDS)
def test_the_option_wins_over_the_variable_over_the_port(
    command: Command, server: ScriptedServer, arguments: tuple[str, ...]
) -> None:
    port = {"QUERN_SERVER__PORT": "9"}
    assert reached(command, server, *arguments, "--server", server.url, QUERN_SERVER=DEAD, **port)
    assert reached(command, server, *arguments, QUERN_SERVER=server.url, **port)
    assert not reached(command, server, *arguments, QUERN_SERVER=DEAD, QUERN_SERVER__PORT=str(server.port))


@pytest.mark.parametrize("arguments", COMMANDS)
def test_the_server_of_the_data_directory_is_found_wherever_it_listens(
    command: Command, server: ScriptedServer, running: Path, arguments: tuple[str, ...]
) -> None:
    assert reached(command, server, *arguments, QUERN_DATA_DIR=str(running))
    assert reached(command, server, *arguments, "--data-dir", str(running))
    assert reached(command, server, *arguments, "--data-dir", str(running), QUERN_SERVER=DEAD, QUERN_SERVER__PORT="9")


def test_a_port_that_somebody_typed_wins_over_another_servers(
    command: Command, server: ScriptedServer, running: Path
) -> None:
    folder = {"QUERN_DATA_DIR": str(running)}
    assert not reached(command, server, "generate", "Hi", QUERN_SERVER__PORT="9", **folder)
    assert reached(command, server, "generate", "Hi", QUERN_SERVER__PORT="0", **folder)


def test_an_address_for_listening_is_translated_for_clients(command: Command, server: ScriptedServer) -> None:
    assert reached(command, server, "generate", "Hi", QUERN_SERVER__HOST="0.0.0.0", QUERN_SERVER__PORT=str(server.port))


def test_a_server_that_has_ended_is_not_looked_for(command: Command, server: ScriptedServer, tmp_path: Path) -> None:
    folder = tmp_path / "data"
    with claimed(folder) as claim:
        claim.announce(server.url)
        left = (folder / "server.json").read_bytes()
    (folder / "server.json").write_bytes(left)
    assert not reached(command, server, "generate", "Hi", QUERN_DATA_DIR=str(folder))
    assert server.received == []


def test_an_empty_variable_names_no_server(command: Command, server: ScriptedServer, running: Path) -> None:
    assert reached(command, server, "generate", "Hi", QUERN_SERVER="", QUERN_DATA_DIR=str(running))


def test_chat_is_continued_with_the_options_that_found_the_server(
    command: Command, server: ScriptedServer, running: Path
) -> None:
    done = command.run("chat", "--data-dir", str(running), stdin=b"Hi\n")
    assert f" --data-dir {running}\n" in done.stderr.decode()
