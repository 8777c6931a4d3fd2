"""One of two servers behind `remote` dies in the middle of a load: `kill -9`, for real."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import requests

from .conftest import ServerProcess
from .test_faults import serving, until
from .test_resuming import Reader, begin

REPLICA = Path(__file__).with_name("completions_process.py")
LONG: dict[str, Any] = {"max_tokens": 2000, "ignore_eos": True}
LOST = "so this answer was lost. Ask again."
CAN_GO_ON = {"greedy": {**LONG}, "drawn": {**LONG, "temperature": 0.8}}
BEGINS_ANEW = {
    "seeded": {**LONG, "temperature": 0.8, "seed": 5},
    "under a penalty": {**LONG, "presence_penalty": 0.5},
    "under a grammar": {**LONG, "structured_outputs": {"regex": "[a-z ]{3000}"}},
}


class Replica:
    """A server of completions, in a process of its own."""

    def __init__(self, model: Path, port: int = 0) -> None:
        self.process = subprocess.Popen(
            [sys.executable, str(REPLICA), str(model), str(port)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdout is not None
        self.url = self.process.stdout.readline().strip()

    def kill(self) -> None:
        self.process.kill()
        self.process.communicate()


@contextmanager
def two_replicas(model: Path) -> Generator[list[Replica]]:
    with ExitStack() as stack:
        replicas: list[Replica] = []
        for _ in range(2):
            replicas.append(Replica(model))
            stack.callback(replicas[-1].kill)
        yield replicas


def turn(server: ServerProcess, turn_id: str) -> dict[str, Any]:
    return requests.get(f"{server.url}/v1/turns/{turn_id}", timeout=10).json()


def ended(server: ServerProcess, *turn_ids: str) -> list[dict[str, Any]]:
    for turn_id in turn_ids:
        Reader(turn_id).read(server, 100_000)
    return [turn(server, turn_id) for turn_id in turn_ids]


def text_of(reader: Reader) -> str:
    return "".join(told.get("text", "") for _, told in reader.told)


def question(number: int) -> dict[str, Any]:
    """Each another one: what is asked again within a moment gets the turn that is there."""
    return {"messages": [{"role": "user", "content": f"Write a sort, number {number}."}]}


def writing(server: ServerProcess, number: int, **fields: Any) -> Reader:
    """The reader of a turn that has begun to write."""
    reader = Reader(begin(server, **question(number), **fields))
    reader.read(server, 3)
    assert len(reader.told) == 3, turn(server, reader.turn_id)["error"]
    return reader


def test_a_killed_replica_costs_no_finished_turn_and_what_had_not_begun_moves(
    tmp_path: Path, tiny_model_path: Path
) -> None:
    with (
        two_replicas(tiny_model_path) as replicas,
        serving(
            tmp_path,
            "--model",
            str(tiny_model_path),
            "--engine",
            "remote",
            QUERN_ENGINE__REMOTE__URLS=",".join(replica.url for replica in replicas),
        ) as server,
    ):
        finished = [begin(server, **question(number), max_tokens=20) for number in range(4)]
        before = ended(server, *finished)
        assert {one["state"] for one in before} == {"completed"}
        # One after the other, so that each replica has one of each kind.
        kinds = [*CAN_GO_ON, *BEGINS_ANEW]
        pairs = {kind: [writing(server, n, **(CAN_GO_ON | BEGINS_ANEW)[kind]) for n in range(2)] for kind in kinds}
        dying = replicas[0]
        dying.process.send_signal(signal.SIGSTOP)
        unbegun = [begin(server, **question(number), max_tokens=20) for number in range(4, 8)]
        dying.kill()

        for kind, readers in pairs.items():
            for reader in readers:
                reader.read(server, 100_000)
            states = [reader.ended for reader in readers]
            if kind in CAN_GO_ON:
                assert states == ["completed"] * 2, kind
                continue
            assert sorted(states) == ["completed", "failed"], kind
            (lost,) = [reader for reader in readers if reader.ended == "failed"]
            assert LOST in turn(server, lost.turn_id)["error"]
        assert {one["state"] for one in ended(server, *unbegun)} == {"completed"}
        assert [turn(server, turn_id) for turn_id in finished] == before
        failures = [line for line in server.log().splitlines() if "remote_server_failed" in line]
        assert any(" tokens=0 " in line for line in failures), "nothing waited at the replica that died"
        assert len(failures) > len(kinds)

        for number, reader in enumerate(pairs["greedy"]):
            undisturbed = writing(server, number, **CAN_GO_ON["greedy"])
            undisturbed.read(server, 100_000)
            assert text_of(undisturbed) == text_of(reader)

        replicas[0] = Replica(tiny_model_path, int(dying.url.rpartition(":")[2]))
        try:
            until(lambda: "remote_server_is_back" in server.log(), "the replica that is there again")
        finally:
            replicas[0].kill()
        assert ended(server, begin(server, **question(9), max_tokens=20))[0]["state"] == "completed"
