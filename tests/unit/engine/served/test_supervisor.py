"""A server's life with a backend that does as it is told."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from unittest.mock import Mock

import pytest

from quern.engine.base import EngineState
from quern.engine.served import supervisor
from quern.engine.served.supervisor import Supervisor
from quern.errors import ModelLoadError


@dataclass(frozen=True)
class Connected:
    device: str = "device"


CONNECTED = Connected()


class ScriptedBackend:
    """Fails `failures` times, is ready at the next start, and is lost when told."""

    def __init__(self) -> None:
        self.failures = 0
        self.stopped = 0
        self.gone = asyncio.Event()

    @property
    def expected_load_seconds(self) -> float:
        return 7.0

    def progress(self) -> float:
        return 0.0

    async def start(self) -> Connected:
        self.gone.clear()
        if self.failures:
            self.failures -= 1
            msg = "no such file"
            raise ModelLoadError(msg)
        return CONNECTED

    async def lost(self) -> str:
        await self.gone.wait()
        return "told so"

    async def stop(self) -> None:
        self.stopped += 1


class Life:
    """A supervisor and everything it said."""

    def __init__(self) -> None:
        self.backend = ScriptedBackend()
        self.said: list[str] = []
        self.silent = 0.0
        self.supervisor = Supervisor(
            self.backend,
            on_ready=lambda _connected: self.said.append("ready"),
            on_lost=lambda: self.said.append("lost"),
            on_failed=lambda error: self.said.append(f"failed: {error}"),
            silent_seconds=lambda: self.silent,
            most_silent=0.02,
        )

    async def until(self, said: str, times: int = 1) -> None:
        async with asyncio.timeout(5):
            while self.said.count(said) < times:
                await asyncio.sleep(0)


@pytest.fixture
async def life(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Life]:
    life = Life()
    monkeypatch.setattr(supervisor, "FIRST_DELAY_SECONDS", 0.001)
    yield life
    await life.supervisor.close()


async def test_a_lost_server_is_started_again_and_again(life: Life) -> None:
    await life.supervisor.start()
    for times in (2, 3):
        life.backend.gone.set()
        await life.until("ready", times)
    assert life.said == ["ready", "lost", "ready", "lost", "ready"]
    assert life.supervisor.state is EngineState.READY


async def test_a_server_that_does_nothing_with_its_work_is_as_good_as_lost(life: Life) -> None:
    await life.supervisor.start()
    await asyncio.sleep(0.05)
    life.silent = 0.03
    await life.until("lost")
    life.silent = 0.0
    await life.until("ready", 2)
    await asyncio.sleep(0.05)
    assert life.said == ["ready", "lost", "ready"]


async def test_while_it_restarts_the_remaining_time_is_told(life: Life, monkeypatch: pytest.MonkeyPatch) -> None:
    assert life.supervisor.remaining == 0
    await life.supervisor.start()
    assert (life.supervisor.remaining, life.supervisor.progress) == (0, 1)
    monkeypatch.setattr(supervisor, "FIRST_DELAY_SECONDS", 30)
    life.backend.gone.set()
    await life.until("lost")
    monkeypatch.undo()
    await asyncio.sleep(0)
    assert life.supervisor.state is EngineState.RESTARTING
    assert life.supervisor.remaining >= 1


async def test_the_first_load_that_fails_is_raised_and_leaves_nothing_behind(life: Life) -> None:
    life.backend.failures = 1
    with pytest.raises(ModelLoadError):
        await life.supervisor.start()
    assert life.backend.stopped
    assert life.supervisor.state is EngineState.CLOSED


async def test_a_restart_that_fails_is_told_and_tried_again(life: Life) -> None:
    await life.supervisor.start()
    life.backend.failures = 2
    life.backend.gone.set()
    await life.until("ready", 2)
    assert life.said == ["ready", "lost", "failed: no such file", "failed: no such file", "ready"]


async def test_the_delay_doubles_from_one_try_to_the_next_up_to_a_limit(
    life: Life, monkeypatch: pytest.MonkeyPatch
) -> None:
    slept: list[float] = []
    really_sleep = asyncio.sleep

    async def sleep(seconds: float) -> None:
        slept.append(seconds)
        await really_sleep(0)

    monkeypatch.setattr(supervisor, "FIRST_DELAY_SECONDS", 0.5)
    monkeypatch.setattr(supervisor, "LONGEST_DELAY_SECONDS", 3.0)
    await life.supervisor.start()
    monkeypatch.setattr(supervisor.asyncio, "sleep", sleep)
    life.backend.failures = 4
    life.backend.gone.set()
    async with asyncio.timeout(5):
        while life.said.count("ready") < 2:
            await really_sleep(0)
    assert slept == [0.5, 1.0, 2.0, 3.0, 3.0]


async def test_a_wrong_server_is_let_go_of(life: Life) -> None:
    def refuse(_connected: Connected) -> None:
        msg = "another model"
        raise ModelLoadError(msg)

    supervisor = Supervisor(
        life.backend, on_ready=refuse, on_lost=Mock(), on_failed=Mock(), silent_seconds=lambda: 0.0, most_silent=60
    )
    with pytest.raises(ModelLoadError, match="another model"):
        await supervisor.start()
    assert life.backend.stopped


async def test_closing_ends_the_restarts(life: Life, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor, "FIRST_DELAY_SECONDS", 30)
    await life.supervisor.start()
    life.backend.gone.set()
    await life.until("lost")
    async with asyncio.timeout(5):
        await life.supervisor.close()
    assert life.supervisor.state is EngineState.CLOSED
    assert life.said == ["ready", "lost"]
