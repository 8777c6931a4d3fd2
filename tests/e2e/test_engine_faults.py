"""Faults of a real engine, made for real: a thread that stands, a thread that ends, a step that finds no memory."""

from __future__ import annotations

import resource
import signal
import sys
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest
import requests

from .conftest import ServerProcess, StartServer, chat
from .stopped_threads import busiest_thread, standing
from .test_faults import serving, until
from .test_survival import Reader

LONG = {"prompt": "Count from 1 to 3000.", "max_tokens": 3000, "temperature": 0}
FEW_SECONDS = "2"


def reading(server: ServerProcess) -> Reader:
    reader = Reader(server.url, **LONG)
    reader.start()
    return reader.wait_for_text()


def is_served(server: ServerProcess) -> None:
    """Whatever was: a new turn is written to its end."""
    until(lambda: requests.get(f"{server.url}/ready", timeout=5).json()["status"] == "ready", "an engine that is ready")
    assert chat(server.url, "hello", max_tokens=4)[1]


def state_of(server: ServerProcess, reader: Reader) -> str:
    answer = requests.get(f"{server.url}/v1/conversations/{reader.conversation_id}", timeout=10).json()
    return answer["turns"][0]["state"]


def test_an_inference_process_that_answers_and_does_nothing_is_started_anew(
    start_server: StartServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("QUERN_ENGINE__STUCK_SECONDS", FEW_SECONDS)
    server = start_server("--engine", "llamacpp")
    reader = reading(server)
    child = max(server.children(), key=lambda one: one.cpu_times().user)
    with standing(busiest_thread(child.pid)):  # others answer that all is well
        reader.join(60)
        assert reader.error is not None, "the turn fails while the process stands"
        until(lambda: not child.is_running() or child.status() == psutil.STATUS_ZOMBIE, "the end of who stands")
    is_served(server)
    assert state_of(server, reader) == "failed"


def test_a_step_that_stands_fails_its_turns_and_takes_none_until_it_goes_on(
    start_server: StartServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("QUERN_ENGINE__STUCK_SECONDS", FEW_SECONDS)
    server = start_server("--engine", "cpu")
    reader = reading(server)
    with standing_in_native_code(server):
        reader.join(60)
        assert reader.error is not None
        assert requests.get(f"{server.url}/ready", timeout=5).json()["status"] == "stuck"
        refused = requests.post(f"{server.url}/v1/code/generate", data={"prompt": "hello"}, timeout=30)
        assert refused.status_code == 503
        assert state_of(server, reader) == "failed"
    is_served(server)
    assert "engine_goes_on" in server.log()


@contextmanager
def standing_in_native_code(server: ServerProcess) -> Generator[None]:
    """The engine's thread stands, and not with Python's lock in its hand, where nobody would be served at all."""
    for _ in range(50):
        with standing(busiest_thread(server.process.pid)):
            if answers(server):
                yield
                return
    pytest.fail("whenever the thread stood, it held Python's lock")


def answers(server: ServerProcess) -> bool:
    try:
        return requests.get(f"{server.url}/health", timeout=0.5).ok
    except requests.RequestException:
        return False


ENDING = """
import ctypes, signal, threading
from quern.cli.main import run

def end_the_engines_thread(*_):
    for thread in threading.enumerate():
        if thread.name == "quern-cpu-engine":
            ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread.ident), ctypes.py_object(SystemExit))

signal.signal(signal.SIGUSR2, end_the_engines_thread)
run()
"""


def test_a_thread_that_ends_fails_its_turns_and_another_one_loads_the_model(
    tmp_path: Path, tiny_model_path: Path
) -> None:
    tiny = ("--model", str(tiny_model_path), "--engine", "cpu")
    with serving(tmp_path, *tiny, command=ENDING, before=(sys.executable, "-c")) as server:
        reader = reading(server)
        server.process.send_signal(signal.SIGUSR2)
        reader.join(60)
        assert reader.error is not None
        is_served(server)
        assert state_of(server, reader) == "failed"


def test_a_step_that_finds_no_memory_fails_its_turn_and_with_memory_the_next_one_is_served(
    start_server: StartServer,
) -> None:
    server = start_server("--engine", "cpu")
    for number in range(8):  # whatever is made at a first use is there by then
        chat(server.url, f"hello {number}", max_tokens=4)
    used = psutil.Process(server.process.pid).memory_info().data
    resource.prlimit(server.process.pid, resource.RLIMIT_DATA, (used + 2 * 2**20, resource.RLIM_INFINITY))
    failed = requests.post(
        f"{server.url}/v1/code/generate", data={"prompt": "word " * 2000, "max_tokens": 4}, timeout=60
    )
    assert failed.status_code == 500, failed.text
    assert "The engine failed while it computed this answer" in failed.text
    assert "MemoryError" in server.log()
    resource.prlimit(server.process.pid, resource.RLIMIT_DATA, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    is_served(server)
