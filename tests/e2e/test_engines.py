"""The engines whose model runs in another process, killed for real: that process, and then the server itself."""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest
import requests

from .conftest import START_SECONDS, ServerProcess
from .real_engines import OF_FLOATS, Surroundings, serve_options, surroundings
from .real_engines import START_SECONDS as LONG_START_SECONDS
from .test_faults import until
from .test_resuming import KINDS, Reader, begin, wait_until_it_goes_on

PROSE, SEEDED = {**KINDS["prose"], "max_tokens": 60, "ignore_eos": True}, KINDS["seeded"]

pytestmark = pytest.mark.engines


@dataclass
class Killable:
    """A server with an engine, which can be started again. `ready_seconds`: it takes so long at most."""

    engine: str
    folder: Path
    around: Surroundings
    server: ServerProcess

    @property
    def ready_seconds(self) -> float:
        return LONG_START_SECONDS if self.engine in OF_FLOATS else START_SECONDS

    @classmethod
    def start(cls, engine: str, folder: Path, around: Surroundings) -> Killable:
        settings = {"QUERN_TURNS__RESUME_INTERRUPTED": "all", **around.settings}
        killable = cls(engine, folder, around, ServerProcess(folder, *serve_options(engine), **settings))
        killable.server.wait_until_ready(killable.ready_seconds)
        return killable

    def kill_engine(self) -> None:
        """kill -9: the process that computes, which is the largest one; of servers elsewhere, one."""
        if self.around.elsewhere:
            self.around.elsewhere[0].kill()
        else:
            max(self.server.children(), key=lambda child: child.memory_info().rss).kill()


@pytest.fixture(params=["llamacpp", "transformers", "vllm", "remote"])
def killable(
    request: pytest.FixtureRequest, tmp_path: Path, data_dir_with_model: Callable[[Path], Path]
) -> Generator[Killable]:
    data_dir_with_model(tmp_path)
    with surroundings(request.param, tmp_path) as around:
        killable = Killable.start(request.param, tmp_path, around)
        try:
            yield killable
        finally:
            killable.server.stop()


def writing(server: ServerProcess, text: str, fields: dict[str, Any]) -> Reader:
    reader = Reader(begin(server, messages=[{"role": "user", "content": text}], **fields))
    reader.read(server, 5)
    assert len(reader.told) == 5
    return reader


def turn(server: ServerProcess, turn_id: str) -> dict[str, Any]:
    return requests.get(f"{server.url}/v1/turns/{turn_id}", timeout=10).json()


def test_killed_engines_and_servers_lose_nothing_that_was_told_and_what_can_go_on_does(killable: Killable) -> None:
    server = killable.server
    done = writing(server, "Say hello.", {"max_tokens": 30, "ignore_eos": True})
    done.read(server, 10_000)
    before = turn(server, done.turn_id)
    assert before["state"] == "completed"

    # The process that computes.
    prose = writing(server, "Count from 1 to 100.", PROSE)
    killable.kill_engine()
    prose.read(server, 10_000)
    if killable.around.elsewhere:
        assert prose.ended == "completed", "the other one goes on"
    else:
        assert prose.ended == "failed"
        assert str(turn(server, prose.turn_id)["error"]).endswith(".")
        until(lambda: "engine_lost" in server.log(), "the news of it")
        server.wait_for(lambda stats: stats["status"] == "ready", killable.ready_seconds)
        answer = requests.post(f"{server.url}/v1/turns/{prose.turn_id}/continue", json={}, timeout=60)
        assert answer.status_code == 200, answer.text
    whole = Reader(prose.turn_id)
    whole.read(server, 10_000)
    assert whole.ended == "completed"
    assert whole.told[: len(prose.told)] == prose.told

    # The server itself.
    prose, seeded = writing(server, "Count from 1 to 200.", PROSE), writing(server, "A poem.", SEEDED)
    children = server.children()
    server.kill()
    _, alive = psutil.wait_procs(children, timeout=20)
    assert not alive, "no process outlives the server"
    killable.server = server = Killable.start(killable.engine, killable.folder, killable.around).server
    wait_until_it_goes_on(server, prose.turn_id)
    prose.read(server, 10_000)
    again = Reader(prose.turn_id)
    again.read(server, 10_000)
    assert (prose.ended, again.told) == ("completed", prose.told)
    assert turn(server, seeded.turn_id)["state"] == "interrupted"
    refused = requests.post(f"{server.url}/v1/turns/{seeded.turn_id}/continue", json={}, timeout=60)
    assert (refused.status_code, "drawn with a seed" in refused.text) == (400, True)
    assert turn(server, done.turn_id)["usage"] == before["usage"]
    again = Reader(done.turn_id)
    again.read(server, 10_000)
    assert (again.ended, again.told) == ("completed", done.told)
