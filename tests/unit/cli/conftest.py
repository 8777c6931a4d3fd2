"""The server that the commands' tests talk to, and the command itself as a process of its own."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.unit.cli.command import Command
from tests.unit.client.scripted_server import ScriptedServer


@pytest.fixture
def server() -> Iterator[ScriptedServer]:
    with ScriptedServer().running() as running:
        yield running


@pytest.fixture
def command(tmp_path: Path) -> Command:
    """`quern` with nothing of ours in its environment and its files in a folder of the test's."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("QUERN_", "XDG_"))}
    places = {f"XDG_{kind}_HOME": str(tmp_path / kind.lower()) for kind in ("DATA", "STATE", "CONFIG", "CACHE")}
    return Command({**kept, **places, "PROMPT_TOOLKIT_NO_CPR": "1", "TERM": "xterm", "COLUMNS": "100"})
