"""Fixtures of the tests of environments."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from tests.unit.engine.environments.tiny_wheels import Recorder, build_wheel


@pytest.fixture
def progress() -> Recorder:
    return Recorder()


@pytest.fixture
def wheelhouse(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a tiny package that is all that pip knows."""
    folder = tmp_path / "wheelhouse"
    folder.mkdir()
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    build_wheel(folder, "tiny-engine", "1.0")
    return folder
