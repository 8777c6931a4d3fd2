"""A reader that loses its connection again and again, once to a killed server, gets what it would have got."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
import requests

from .conftest import ServerProcess, StartServer

QUESTION = [{"role": "user", "content": "Write a file sort.py with a merge sort in Python, with comments in Chinese."}]
TOOL = {
    "type": "function",
    "function": {
        "name": "write_file",
        "description": "Write a file.",
        "parameters": {
            "type": "object",
            "properties": {"path": {"type": "string"}, "text": {"type": "string"}},
            "required": ["path", "text"],
        },
    },
}
SCHEMA = {
    "type": "object",
    "properties": {"name": {"type": "string"}, "steps": {"type": "array", "items": {"type": "string"}, "minItems": 5}},
    "required": ["name", "steps"],
    "additionalProperties": False,
}
KINDS: dict[str, dict[str, Any]] = {
    "prose": {},
    "seeded": {"temperature": 0.9, "seed": 5, "presence_penalty": 0.4},
    "unseeded": {"temperature": 0.9, "ignore_eos": True},  # it would sometimes end before the last cut
    "a call": {"tools": [TOOL], "tool_choice": "required"},
    "a schema": {"response_format": {"type": "json_schema", "json_schema": {"name": "plan", "schema": SCHEMA}}},
}
CUTS = 10


def begin(server: ServerProcess, **fields: Any) -> str:
    """Ask, and leave; the turn goes on."""
    body = {"messages": QUESTION, "max_tokens": 120, "temperature": 0, "stream": True, **fields}
    headers = {"x-quern-on-disconnect": "finish"}
    with requests.post(
        f"{server.url}/v1/chat/completions", json=body, headers=headers, stream=True, timeout=60
    ) as answer:
        assert answer.status_code == 200, answer.text
        return answer.headers["x-quern-turn-id"]


class Reader:
    """Follows a turn and takes it up where it was, wherever the server is by then."""

    def __init__(self, turn_id: str) -> None:
        self.turn_id = turn_id
        self.last = "0"
        self.told: list[tuple[str, Any]] = []
        self.ended = ""

    def read(self, server: ServerProcess, most: int) -> None:
        """Read at most so many events, then lose the connection."""
        url, left = f"{server.url}/v1/turns/{self.turn_id}/events", most
        with requests.get(url, headers={"last-event-id": self.last}, stream=True, timeout=120) as answer:
            assert answer.status_code == 200, answer.text
            fields: dict[str, str] = {}
            for line in answer.iter_lines(chunk_size=1, decode_unicode=True):
                if line:
                    name, _, value = str(line).partition(": ")
                    fields[name] = value
                    continue
                left -= self._take(fields)
                fields = {}
                if self.ended or not left:
                    return

    def _take(self, fields: dict[str, str]) -> bool:
        if "id" not in fields:
            return False
        self.last = fields["id"]
        data = json.loads(fields["data"])
        if fields["event"] == "ended":
            self.ended = data["state"]
            return False
        self.told.append((fields["event"], {name: value for name, value in data.items() if name != "call_id"}))
        return True


def undisturbed(server: ServerProcess, *kinds: str) -> dict[str, Reader]:
    """What readers get that nothing happens to."""
    readers = {kind: Reader(begin(server, **KINDS[kind])) for kind in kinds}
    for reader in readers.values():
        reader.read(server, 10_000)
    return readers


def test_ten_lost_connections_change_nothing_whatever_the_engine(server: ServerProcess) -> None:
    disturbed = {kind: Reader(begin(server, **fields)) for kind, fields in KINDS.items()}
    for _ in range(CUTS):
        for reader in disturbed.values():
            reader.read(server, 2)
    for kind, reader in disturbed.items():
        reader.read(server, 10_000)
        again = Reader(reader.turn_id)
        again.read(server, 10_000)
        assert (reader.ended, again.ended) == ("completed", "completed"), kind
        assert len(reader.told) > CUTS * 2, kind
        assert reader.told == again.told, kind


def test_ten_lost_connections_and_a_killed_server_change_nothing(
    start_server: StartServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of none of the kinds, all of which are written at the same time."""
    monkeypatch.setenv("QUERN_TURNS__RESUME_INTERRUPTED", "all")
    server = start_server()
    disturbed = {kind: Reader(begin(server, **fields)) for kind, fields in KINDS.items()}
    for cut in range(CUTS):
        for reader in disturbed.values():
            reader.read(server, 2)
        if cut == CUTS // 2:
            server.kill()
            server = start_server()
            for reader in disturbed.values():
                wait_until_it_goes_on(server, reader.turn_id)
    again = {kind: Reader(reader.turn_id) for kind, reader in disturbed.items()}
    for reader in (*disturbed.values(), *again.values()):
        reader.read(server, 10_000)
    for kind, reader in disturbed.items():
        assert reader.ended == "completed", kind
        assert len(reader.told) > CUTS * 2, kind
        assert reader.told == again[kind].told, kind
    for kind, reader in undisturbed(server, *(KINDS.keys() - {"unseeded"})).items():
        assert disturbed[kind].told == reader.told, kind


def wait_until_it_goes_on(server: ServerProcess, turn_id: str) -> None:
    deadline = time.monotonic() + 60
    while requests.get(f"{server.url}/v1/turns/{turn_id}", timeout=5).json()["state"] == "interrupted":
        assert time.monotonic() < deadline, "it does not go on"
        time.sleep(0.05)
