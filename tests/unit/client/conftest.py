"""The server that the client's tests talk to."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from tests.unit.client.scripted_server import ScriptedServer


@pytest.fixture
def server() -> Iterator[ScriptedServer]:
    with ScriptedServer().running() as running:
        yield running
