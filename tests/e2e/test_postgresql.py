"""A server whose conversations are on PostgreSQL, killed while a turn runs."""

from __future__ import annotations

import json
from pathlib import Path

import requests
from tests.postgresql import PostgreSQL

from .conftest import ServerProcess
from .test_faults import until
from .test_status_and_stop import run

PASSWORD = "hunter2"
LONG = " ".join(map(str, range(3000)))


def test_a_killed_server_finds_everything_on_postgresql_again(postgresql: PostgreSQL, tmp_path: Path) -> None:
    name = postgresql.new_database()
    store = {"QUERN_STORE__URL": postgresql.url(name, password=PASSWORD), "QUERN_STORE__LEASE_SECONDS": "1"}
    server = ServerProcess(tmp_path, "--engine", "fake", **store).wait_until_ready()
    key = run("keys", "create", "ann", folder=tmp_path).stdout.strip()
    session = requests.Session()
    session.headers["authorization"] = f"Bearer {key}"
    chat = {"prompt": "Say what I say."}
    first = session.post(f"{server.url}/v1/code/chat_stream", data=chat, timeout=60)
    conversation_id = first.text.partition("\n")[0].removeprefix("conversation_id:").strip()
    assert "Say what I say." in first.text

    more = {"prompt": LONG, "conversation_id": conversation_id, "max_tokens": 14500}
    with session.post(f"{server.url}/v1/code/chat_stream", data=more, stream=True, timeout=60) as second:
        seen = ""
        for chunk in second.iter_content(None):
            seen += chunk.decode()
            if len(seen) > 300:
                break
        server.wait_for(lambda _: _saved(postgresql, name) > 300)
        server.kill()
    again = ServerProcess(tmp_path, "--engine", "fake", **store).wait_until_ready()
    try:
        items = session.get(f"{again.url}/v1/conversations/{conversation_id}/items", timeout=60).json()["data"]
        assert [item["role"] for item in items] == ["user", "assistant", "user"]
        turns = until(lambda: _ended(session, again.url), "the end of what the killed server's lease covered")
        assert [turn["state"] for turn in turns] == ["interrupted", "completed"]
        turn = f"{again.url}/v1/turns/{turns[0]['id']}"
        session.post(f"{turn}/continue", timeout=60).raise_for_status()
        assert session.get(f"{turn}/events", timeout=60).ok, "which is over when the turn is"
        items = session.get(f"{again.url}/v1/conversations/{conversation_id}/items", timeout=60).json()["data"]
        assert [item["role"] for item in items] == ["assistant", "user", "assistant", "user"], "the newest first"
        assert " ".join(map(str, range(50))) in str(items[0]["content"])
        status = run("status", folder=tmp_path)
        assert (status.returncode, again.url in status.stdout) == (0, True), status.stderr
        keys = json.loads(run("keys", "list", "--json", folder=tmp_path).stdout)
        assert [one["name"] for one in keys] == ["ann"]
        [used] = json.loads(run("usage", "--json", folder=tmp_path).stdout)
        assert (used["key"], used["requests"]) == ("ann", 2)
    finally:
        assert again.stop() == 0
    assert PASSWORD not in server.log() + again.log()
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith("quern.db")] == []


def _ended(session: requests.Session, url: str) -> list[dict[str, str]]:
    """The turns, once none runs."""
    turns = session.get(f"{url}/v1/turns", timeout=60).json()["data"]
    return [] if any(turn["state"] in {"queued", "running"} for turn in turns) else turns


def _saved(postgresql: PostgreSQL, name: str) -> int:
    """How many characters of unfinished turns are in the database."""
    return int(postgresql.execute("SELECT coalesce(sum(length(text)), 0) FROM turn_events", name)[0][0])
