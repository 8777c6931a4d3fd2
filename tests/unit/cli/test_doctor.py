"""`quern doctor` on this machine: real files, real ports, a real database."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import structlog
from tests.unit.cli.command import Command
from tests.unit.client.scripted_server import Scripted, ScriptedServer
from typer.testing import CliRunner

from quern.cli import facts
from quern.cli.checks import MemoryFacts
from quern.cli.main import build_app
from quern.config_models import EngineSettings
from quern.engine.engine_choice import native_facts
from quern.models.catalog import find
from quern.models.progress import format_bytes
from quern.store.database import Database

MODEL = "qwen2.5-coder-0.5b"
KV_BYTES_PER_TOKEN = 24 * 2 * 2 * 64 * 2  # blocks, keys and values, KV heads, head length, bytes
KV_CACHE = format_bytes(KV_BYTES_PER_TOKEN * EngineSettings().kv_tokens)


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    return tmp_path / "data dir"


@pytest.fixture
def free_port() -> Iterator[int]:
    """A port that nobody else is given while the test runs, and that can be bound."""
    with socket.socket() as placeholder:
        placeholder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        placeholder.bind(("127.0.0.1", 0))
        yield placeholder.getsockname()[1]


@pytest.fixture(autouse=True)
def nothing_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("QUERN_")]:
        monkeypatch.delenv(name)


@pytest.fixture(autouse=True)
def logs_of_the_test_process() -> Iterator[None]:
    """The command makes them quieter, here in this process."""
    root = logging.getLogger()
    handlers, level = root.handlers, root.level
    yield
    structlog.reset_defaults()
    root.handlers = handlers
    root.setLevel(level)


def examine(*arguments: str) -> tuple[int, dict[str, Any]]:
    """Exit code and the checks by name."""
    done = CliRunner().invoke(build_app(["doctor"]), ["doctor", "--json", *arguments])
    report = json.loads(done.stdout)
    assert report["ok"] is (done.exit_code == 0)
    return done.exit_code, {check["name"]: check for check in report["checks"]}


def test_an_empty_machine_is_ready_but_for_the_model(data_dir: Path, free_port: int) -> None:
    code, checks = examine("--data-dir", str(data_dir), "--model", MODEL, "--port", str(free_port))
    assert code == 0
    assert list(checks) == [
        "python", "cpu", "cores", "model", "engine", "memory", "data_dir", "database", "port",
    ]  # fmt: skip
    assert checks["python"]["found"] == f"Python {sys.version.split()[0]}"
    assert checks["model"]["status"] == "warn"
    assert checks["database"]["found"].endswith("will be created at the first start")
    assert f"KV cache {KV_CACHE}" in checks["memory"]["found"]
    assert not data_dir.exists()


def test_a_model_on_disk_is_measured_and_its_checksum_checked(
    data_dir: Path, free_port: int, small_model_path: Path
) -> None:
    folder = data_dir / "models" / MODEL
    folder.mkdir(parents=True)
    (folder / small_model_path.name).symlink_to(small_model_path)
    arguments = ("--data-dir", str(data_dir), "--model", MODEL, "--port", str(free_port))
    code, checks = examine(*arguments, "--verify")
    assert code == 0
    assert "checksum right" in checks["model"]["found"]
    assert f"KV cache {KV_CACHE}" in checks["memory"]["found"]
    _, by_path = examine(*arguments[:2], "--model", str(small_model_path), *arguments[4:])
    assert by_path["memory"]["found"].partition(")")[0] == checks["memory"]["found"].partition(")")[0]


def test_a_model_with_other_bytes_fails_when_its_checksum_is_asked_for(data_dir: Path, free_port: int) -> None:
    entry = find(MODEL)
    path = data_dir / "models" / entry.name / entry.file_name
    path.parent.mkdir(parents=True)
    path.write_bytes(b"GGUF" + bytes(1000))
    code, checks = examine("--data-dir", str(data_dir), "--model", MODEL, "--port", str(free_port), "--verify")
    assert (code, checks["model"]["status"]) == (1, "fail")
    assert "SHA-256" in checks["model"]["advice"]
    assert "memory" not in checks


@pytest.mark.parametrize("name", ["qwen9", "./no-such.gguf"])
def test_a_model_that_does_not_exist_fails_and_the_other_checks_still_run(
    data_dir: Path, free_port: int, name: str
) -> None:
    code, checks = examine("--data-dir", str(data_dir), "--model", name, "--port", str(free_port))
    assert code == 1
    assert {name for name, check in checks.items() if check["status"] == "fail"} == {"model"}


def test_the_engine_that_a_server_would_use_is_told_with_the_reason(
    data_dir: Path, tmp_path: Path, free_port: int
) -> None:
    config = tmp_path / "quern.toml"
    arguments = ("--data-dir", str(data_dir), "--model", MODEL, "--port", str(free_port), "--config", str(config))
    config.write_text('[engine]\nurl = "http://127.0.0.1:1"\n')
    assert examine(*arguments)[1]["engine"]["found"] == "llamacpp: The setting engine.url names a llama-server."
    config.write_text('[engine]\nurl = "http://127.0.0.1:1"\nname = "cpu"\n')
    code, checks = examine(*arguments)
    assert (code, checks["engine"]["status"]) == (1, "fail")
    assert "leave one of the two out" in checks["engine"]["advice"]


def test_servers_elsewhere_are_asked_instead_of_this_machines_memory(
    data_dir: Path, free_port: int, tiny_model_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = f"http://127.0.0.1:{free_port}"
    monkeypatch.setenv("QUERN_ENGINE__REMOTE__URLS", url)
    code, checks = examine("--data-dir", str(data_dir), "--port", "0", "--model", str(tiny_model_path))
    assert code == 1
    assert checks["engine"]["found"].startswith("remote: The setting engine.remote.urls names")
    assert (checks["remote"]["status"], "memory" in checks) == ("fail", False)
    assert f"No server answers at {url}. Start it there" in checks["remote"]["advice"]


def test_a_database_opens_or_is_in_use_or_is_none(data_dir: Path, free_port: int) -> None:
    arguments = ("--data-dir", str(data_dir), "--model", MODEL, "--port", str(free_port))
    file = data_dir / "quern.db"

    async def look_while_it_is_open() -> tuple[int, dict[str, Any]]:
        database = Database(f"sqlite+aiosqlite:///{file}")
        await database.open()
        try:
            return await asyncio.to_thread(examine, *arguments)
        finally:
            await database.close()

    code, checks = asyncio.run(look_while_it_is_open())
    assert (code, checks["database"]["found"]) == (0, f"{file} is in use by a running server")
    assert examine(*arguments)[1]["database"]["found"] == f"{file} opens"
    file.write_text("This is no database, only a text that is long enough to be looked at. " * 100)
    code, checks = examine(*arguments)
    assert (code, checks["database"]["status"]) == (1, "fail")
    assert str(file) in checks["database"]["advice"]


def test_a_database_elsewhere_is_reported_without_its_password(
    command: Command, tmp_path: Path, free_port: int
) -> None:
    config = tmp_path / "quern.toml"
    config.write_text('[store]\nurl = "oracle://someone:s3cret@db.example/quern"\n')
    done = command.run("doctor", "--json", "--config", str(config), "--model", MODEL, "--port", str(free_port))
    assert done.returncode == 1
    assert b"store.url" in done.stdout
    assert b"s3cret" not in done.stdout + done.stderr


def test_a_data_directory_that_cant_be_one_fails(tmp_path: Path, free_port: int) -> None:
    (tmp_path / "file").write_text("not a folder")
    place = tmp_path / "file" / "data"
    code, checks = examine("--data-dir", str(place), "--model", MODEL, "--port", str(free_port))
    assert (code, checks["data_dir"]["status"]) == (1, "fail")


def test_a_port_that_a_quern_serves_is_fine(data_dir: Path, server: ScriptedServer) -> None:
    server.answer("/ready", Scripted((b"{}",), 503, "application/json"), Scripted((b"{}",)))
    server.answer("/v1/models", Scripted((b'{"data": [{"id": "a-model"}]}',), media_type="application/json"))
    arguments = ("--data-dir", str(data_dir), "--model", MODEL, "--port", str(server.port))
    assert examine(*arguments)[1]["port"]["found"].endswith("is starting or stopping")
    code, checks = examine(*arguments)
    assert (code, checks["port"]["found"]) == (0, f"a Quern at 127.0.0.1:{server.port} serves a-model")


def test_a_port_that_something_else_has_fails(data_dir: Path, server: ScriptedServer) -> None:
    code, checks = examine("--data-dir", str(data_dir), "--model", MODEL, "--port", str(server.port))
    assert (code, checks["port"]["status"]) == (1, "fail")
    assert "another program" in checks["port"]["found"]


def test_an_address_that_is_not_this_machines_fails(tmp_path: Path, data_dir: Path) -> None:
    config = tmp_path / "quern.toml"
    config.write_text('[server]\nhost = "192.0.2.1"\nallow_anonymous = true\n')
    code, checks = examine("--data-dir", str(data_dir), "--model", MODEL, "--config", str(config))
    assert (code, checks["port"]["status"]) == (1, "fail")
    assert "192.0.2.1:8001" in checks["port"]["found"]


def test_the_fake_engine_needs_no_model(tmp_path: Path, data_dir: Path, free_port: int) -> None:
    config = tmp_path / "quern.toml"
    config.write_text('[engine]\nname = "fake"\n')
    _, checks = examine("--data-dir", str(data_dir), "--config", str(config), "--port", str(free_port))
    assert list(checks) == ["python", "cpu", "cores", "data_dir", "database", "port"]


def test_settings_that_cant_be_used_are_exit_code_2(command: Command) -> None:
    done = command.run("doctor", "--port", "70000")
    assert (done.returncode, done.stdout) == (2, b"")
    assert b"server.port" in done.stderr


def test_the_report_is_for_people_and_has_no_colours_in_a_pipe(
    command: Command, data_dir: Path, free_port: int
) -> None:
    done = command.run("doctor", "--data-dir", str(data_dir), "--model", MODEL, "--port", str(free_port))
    lines = done.stdout.decode().splitlines()
    assert lines[0].startswith("ok    python    Python 3.")
    assert lines[-1] == "Ready."
    assert "\x1b" not in done.stdout.decode()
    missing = command.run("doctor", "--data-dir", str(data_dir), "--model", "qwen9", "--port", str(free_port))
    assert missing.stdout.decode().splitlines()[-1] == "Not ready: model."
    assert missing.returncode == 1


def test_a_report_that_nobody_reads_to_its_end_ends_quietly(command: Command, data_dir: Path, free_port: int) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    try:
        done = command.run_into(writing, "doctor", "--data-dir", str(data_dir), "--port", str(free_port))
    finally:
        os.close(writing)
    assert done.returncode == 0
    assert done.stderr == b""


@pytest.mark.parametrize(
    ("engine", "head_bytes"), [("auto", 2 * (64 * 1 + 4)), ("llamacpp", 2 * 64 * 2)], ids=["cpu", "llamacpp"]
)
def test_a_kv_cache_of_8_bits_is_reckoned_with_where_the_engine_has_one(
    data_dir: Path, tmp_path: Path, free_port: int, engine: str, head_bytes: int
) -> None:
    config = tmp_path / "quern.toml"
    config.write_text(f'[engine]\nname = "{engine}"\nkv_type = "int8"\nkv_tokens = 100000\n')
    arguments = ("--data-dir", str(data_dir), "--model", MODEL, "--port", str(free_port), "--config", str(config))
    expected = format_bytes(100_000 * 24 * 2 * head_bytes)  # tokens, blocks, KV heads in each
    if engine == "auto" and native_facts().instruction_set is None:
        pytest.skip("the engine cpu can't run on this machine")
    assert f"KV cache {expected}," in examine(*arguments)[1]["memory"]["found"]


def test_no_warning_about_cores_where_the_engine_takes_its_own_default(data_dir: Path, free_port: int) -> None:
    arguments = ("--data-dir", str(data_dir), "--model", MODEL, "--port", str(free_port))
    assert examine(*arguments)[1]["cores"]["status"] == "ok"


def test_a_model_that_the_running_server_holds_needs_no_further_memory(
    data_dir: Path, server: ScriptedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.answer("/ready", Scripted((b"{}",)))
    server.answer(
        "/v1/models", Scripted((f'{{"data": [{{"id": "{MODEL}"}}]}}'.encode(),), media_type="application/json")
    )
    monkeypatch.setattr(facts, "memory_facts", _little_memory)
    arguments = ("--data-dir", str(data_dir), "--port", str(server.port))
    assert examine(*arguments, "--model", MODEL)[1]["memory"]["status"] == "ok"
    assert examine(*arguments, "--model", "qwen2.5-coder-1.5b")[1]["memory"]["status"] == "warn"


def _little_memory(model: int, kv_cache: int, *, served: bool) -> MemoryFacts:
    return MemoryFacts(total=10**12, available=0, model=model, kv_cache=kv_cache, served=served)
