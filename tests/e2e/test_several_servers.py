"""Two servers on one PostgreSQL, one of them killed: its readers go on at the other, and get one whole answer."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from tests.postgresql import PostgreSQL

from .conftest import ServerProcess, chat
from .test_resuming import KINDS, Reader, begin

ASKED: dict[str, dict[str, Any]] = {
    "prose": {"ignore_eos": True},
    "seeded": {**KINDS["seeded"], "ignore_eos": True},
    "a call": KINDS["a call"],
}


@contextmanager
def two_servers(folder: Path, model: Path, database_url: str) -> Generator[tuple[ServerProcess, ServerProcess]]:
    settings = {
        "QUERN_STORE__URL": database_url,
        "QUERN_STORE__LEASE_SECONDS": "2",
        "QUERN_TURNS__RESUME_INTERRUPTED": "all",
    }
    with ExitStack() as stack:
        servers: list[ServerProcess] = []
        for name in ("one", "two"):
            (folder / name).mkdir()
            server = ServerProcess(folder / name, "--model", str(model), "--engine", "cpu", **settings)
            stack.callback(server.stop)
            servers.append(server)
        for server in servers:
            server.wait_until_ready()
        yield servers[0], servers[1]


def test_readers_of_a_killed_server_go_on_at_the_other_and_get_what_undisturbed_ones_got(
    tmp_path: Path, tiny_model_path: Path, postgresql: PostgreSQL
) -> None:
    url = postgresql.url(postgresql.new_database())
    with two_servers(tmp_path, tiny_model_path, url) as (one, other):
        conversation_id, said, _ = chat(one.url, "hello", max_tokens=8)
        wanted = {kind: Reader(begin(other, **fields)) for kind, fields in ASKED.items()}
        for reader in wanted.values():
            reader.read(other, 10_000)
        disturbed = {kind: Reader(begin(one, **fields)) for kind, fields in ASKED.items()}
        for reader in disturbed.values():
            reader.read(one, 3)
            reader.read(other, 2)
        one.kill()
        for kind, reader in disturbed.items():
            reader.read(other, 10_000)
            assert reader.ended == "completed", kind
            assert reader.told == wanted[kind].told, kind
        assert chat(other.url, "and now?", conversation_id, max_tokens=4)[1]
        assert said
