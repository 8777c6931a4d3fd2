"""Fixtures of the models room's tests."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.unit.models.hub import HubServer, Recorder, gguf_bytes

from quern.models import transfer


@pytest.fixture(autouse=True)
def _only_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1,localhost")
    monkeypatch.setattr(transfer, "PAUSE_SECONDS", 0.01)


@pytest.fixture
def hub() -> Iterator[HubServer]:
    with HubServer(gguf_bytes()).running() as server:
        yield server


@pytest.fixture
def second_hub() -> Iterator[HubServer]:
    with HubServer(gguf_bytes()).running() as server:
        yield server


@pytest.fixture
def progress() -> Recorder:
    return Recorder()


@pytest.fixture
def wheelhouse(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that is all that pip knows."""
    folder = tmp_path / "wheelhouse"
    folder.mkdir()
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder
