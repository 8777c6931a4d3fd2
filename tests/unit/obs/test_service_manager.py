"""What is said to systemd, at a real datagram socket; and when the watchdog is left to starve."""

from __future__ import annotations

import asyncio
import os
import socket
import threading
import time
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest
from structlog.testing import capture_logs
from tests.unit.engine.cpu.scripted import ScriptedModel
from tests.unit.engine.cpu.test_engine import PROMPT, cpu_engine, request

from quern.engine.cpu.engine import CpuEngine
from quern.engine.cpu.sequence import Part
from quern.engine.fake import FakeEngine
from quern.obs.service_manager import ServiceManager

MOST_SILENT = 0.3


class Receiver:
    """systemd's end."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.managers: list[ServiceManager] = []
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.setblocking(False)
        self.socket.bind(str(path))

    def all(self) -> list[list[str]]:
        messages: list[list[str]] = []
        with suppress(BlockingIOError):
            while True:
                messages.append(self.socket.recv(65536).decode().split("\n"))
        return messages

    def manager(self, clock: Callable[[], float] = time.monotonic, **variables: str) -> ServiceManager:
        self.managers.append(ServiceManager({"NOTIFY_SOCKET": str(self.path), **variables}, clock))
        return self.managers[-1]


@pytest.fixture
def receiver(tmp_path: Path) -> Iterator[Receiver]:
    receiver = Receiver(tmp_path / "notify")
    yield receiver
    for manager in receiver.managers:
        manager.close()
    receiver.socket.close()


def test_each_state_is_one_message(receiver: Receiver) -> None:
    manager = receiver.manager(lambda: 12.5)
    manager.progress("Loading\nREADY=1")
    manager.ready("Serving")
    manager.reloading()
    manager.stopping("Stopping", 60)
    assert receiver.all() == [
        ["STATUS=Loading READY=1", "EXTEND_TIMEOUT_USEC=120000000"],
        ["READY=1", "STATUS=Serving"],
        ["RELOADING=1", "MONOTONIC_USEC=12500000", "STATUS=Reading the settings anew"],
        ["STOPPING=1", "STATUS=Stopping", "EXTEND_TIMEOUT_USEC=60000000"],
    ]


def test_progress_is_told_once_a_second_at_most(receiver: Receiver) -> None:
    now = 0.0
    manager = receiver.manager(lambda: now)
    for step in range(30):
        now = step / 10
        manager.progress(f"{step}")
    assert [message[0] for message in receiver.all()] == ["STATUS=0", "STATUS=10", "STATUS=20"]


def test_without_a_manager_nothing_happens() -> None:
    manager = ServiceManager({})
    manager.progress("x")
    manager.ready("x")
    manager.stopping("x", 1)
    assert (manager.watchdog_seconds, manager.listeners()) == (None, [])


def test_a_manager_that_does_not_read_holds_nothing_up(receiver: Receiver) -> None:
    manager = receiver.manager()
    with capture_logs() as lines:
        for _ in range(10_000):
            manager.ready("x")
    assert {line["event"] for line in lines} <= {"service_manager_not_told"}
    assert lines
    assert receiver.all()


@asynccontextmanager
async def fed(receiver: Receiver, engine: CpuEngine | FakeEngine) -> AsyncGenerator[None]:
    manager = receiver.manager(WATCHDOG_USEC="40000", WATCHDOG_PID=str(os.getpid()))
    feeding = manager.feed_watchdog(lambda: engine.stats().silent_seconds, MOST_SILENT)
    task = asyncio.ensure_future(feeding)
    try:
        yield
    finally:
        task.cancel()


async def _is_fed(receiver: Receiver) -> bool:
    """Whether the watchdog is fed from now on, in five times its time."""
    receiver.all()
    await asyncio.sleep(0.2)
    return ["WATCHDOG=1"] in receiver.all()


async def test_a_stuck_engine_starves_the_watchdog_until_it_goes_on(receiver: Receiver) -> None:
    engine = FakeEngine()
    await engine.start()
    async with fed(receiver, engine):
        assert await _is_fed(receiver)
        engine.silent_seconds = MOST_SILENT + 1
        with capture_logs() as lines:
            assert not await _is_fed(receiver)
        assert [line["event"] for line in lines] == ["engine_stuck"]
        engine.silent_seconds = MOST_SILENT
        assert await _is_fed(receiver)
    await engine.close()


async def test_a_step_of_our_engine_that_does_not_end_starves_it_and_a_waiting_engine_never_does(
    receiver: Receiver,
) -> None:
    begun, may_end = threading.Event(), threading.Event()

    def hold(_: Sequence[Part]) -> None:
        begun.set()
        assert may_end.wait(30)

    engine = cpu_engine(ScriptedModel(before_step=hold))
    await engine.start()
    async with fed(receiver, engine):
        await asyncio.sleep(MOST_SILENT + 0.1)
        assert await _is_fed(receiver), "an engine without work is not stuck"
        running = asyncio.ensure_future(_all(engine))
        assert await asyncio.to_thread(begun.wait, 30)
        while engine.stats().silent_seconds <= MOST_SILENT:
            await asyncio.sleep(0.02)
        assert not await _is_fed(receiver)
        may_end.set()
        await running
        assert await _is_fed(receiver)
    await engine.close()


async def _all(engine: CpuEngine) -> int:
    return len([event async for event in engine.generate(request(prompt=PROMPT))])


def test_the_variables_for_another_process_are_not_for_this_one(receiver: Receiver) -> None:
    assert receiver.manager(WATCHDOG_USEC="1000000").watchdog_seconds == 1
    assert receiver.manager(WATCHDOG_USEC="1000000", WATCHDOG_PID="1").watchdog_seconds is None
    for text in ("", "0", "-1", "x", "1.5"):
        assert receiver.manager(WATCHDOG_USEC=text).watchdog_seconds is None
    for pid, count in (("1", "1"), (str(os.getpid()), "x"), (str(os.getpid()), ""), ("", "1")):
        assert receiver.manager(LISTEN_PID=pid, LISTEN_FDS=count).listeners() == []
