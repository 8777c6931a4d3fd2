"""`quern top` where there is nothing to show."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.unit.cli.command import Command


@pytest.mark.parametrize("flags", [[], ["--once"], ["--json"]])
def test_without_a_server_top_says_so_and_how_to_start_one(command: Command, tmp_path: Path, flags: list[str]) -> None:
    done = command.run("top", *flags, "--data-dir", str(tmp_path))
    assert (done.returncode, done.stdout) == (1, b"")
    assert b"No server runs on" in done.stderr
    assert b"quern serve" in done.stderr
    assert [*tmp_path.iterdir()] == [], "looking leaves nothing behind"
