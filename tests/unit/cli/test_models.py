"""`quern models` and `quern pull`."""

from __future__ import annotations

import json
import os
import pty
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
import typer
from tests.unit.models.hub import ENTRY, HubServer, gguf_bytes
from typer.testing import CliRunner

from quern.cli import models
from quern.errors import ConfigError, ModelDownloadError, ModelNotFound
from quern.models.catalog import CATALOG

app = typer.Typer()
app.command("models")(models.models)
app.command("pull")(models.pull)


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with HubServer(gguf_bytes()).running() as server:
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        yield server


def run(*arguments: str) -> str:
    """What a command writes to standard output. Raises what the command raised."""
    return CliRunner().invoke(app, arguments, catch_exceptions=False).stdout


def test_pull_prints_the_path_and_nothing_else_on_standard_output(hub: HubServer, tmp_path: Path) -> None:
    path = Path(run("pull", ENTRY.name, "--data-dir", str(tmp_path)).removesuffix("\n"))
    assert path == tmp_path / "models" / ENTRY.name / ENTRY.file_name
    assert path.read_bytes() == hub.body


def test_pull_asks_only_the_source_that_was_chosen(hub: HubServer, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="Its sources are: hf, modelscope"):
        run("pull", ENTRY.name, "--source", "pypi", "--data-dir", str(tmp_path))
    hub.status = 503
    with pytest.raises(ModelDownloadError) as caught:
        run("pull", ENTRY.name, "--source", "hf", "--data-dir", str(tmp_path))
    assert "ModelScope" not in str(caught.value)


def test_pull_does_not_take_a_name_that_nothing_has(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFound, match=r"Did you mean"):
        run("pull", "qwen2.5-coder-7", "--data-dir", str(tmp_path))


def test_away_from_a_terminal_each_model_is_one_line_of_tabbed_columns(tmp_path: Path) -> None:
    header, *lines = [line.split("\t") for line in run("models", "--data-dir", str(tmp_path)).splitlines()]
    assert header == ["name", "bytes", "parameters", "licence", "from", "on_disk", "default"]
    assert [line[0] for line in lines] == [entry.name for entry in CATALOG]
    assert [line[0] for line in lines if line[-1] == "yes"] == ["qwen2.5-coder-1.5b"]
    assert {line[5] for line in lines} == {"no"}


@pytest.mark.usefixtures("hub")
def test_a_pulled_model_is_listed_with_its_size_and_origin(tmp_path: Path) -> None:
    run("pull", ENTRY.name, "--data-dir", str(tmp_path))
    listed = {line.split("\t")[0]: line.split("\t") for line in run("models", "--data-dir", str(tmp_path)).splitlines()}
    assert listed[ENTRY.name] == [ENTRY.name, "300000", "7B", "Apache-2.0", "hf", "yes", "no"]


@pytest.mark.usefixtures("hub")
def test_json_tells_everything(tmp_path: Path) -> None:
    path = run("pull", ENTRY.name, "--data-dir", str(tmp_path)).strip()
    config = tmp_path / "quern.toml"
    config.write_text(f'[model]\nname = "{ENTRY.name}"\n')
    rows = json.loads(run("models", "--json", "--data-dir", str(tmp_path), "--config", str(config)))
    by_name = {row["name"]: row for row in rows}
    assert by_name[ENTRY.name] == {
        "name": "qwen2.5-coder-7b",
        "title": "Qwen2.5-Coder 7B Instruct",
        "description": ENTRY.description,
        "parameters": "7B",
        "architecture": "qwen2",
        "quantisation": "Q4_K_M",
        "size": 300_000,
        "size_exact": True,
        "licence": "Apache-2.0",
        "context_length": 32768,
        "sources": ["hf", "modelscope"],
        "on_disk": "yes",
        "path": path,
        "default": True,
    }
    assert by_name["qwen2.5-coder-1.5b"]["default"] is False


def read_all(terminal: int) -> str:
    pieces: list[bytes] = []
    # Linux ends a pseudo-terminal with EIO once its last writer has gone.
    with suppress(OSError):
        while piece := os.read(terminal, 4096):
            pieces.append(piece)
    return b"".join(pieces).decode()


@pytest.mark.parametrize("columns", [80, 120])
def test_a_terminal_gets_a_table_that_fits(tmp_path: Path, columns: int) -> None:
    script = (
        "import sys; from pathlib import Path; from quern.cli.models import models; models(data_dir=Path(sys.argv[1]))"
    )
    main, side = pty.openpty()
    environment = {**os.environ, "COLUMNS": str(columns), "TERM": "xterm", "NO_COLOR": "1"}
    with subprocess.Popen([sys.executable, "-c", script, str(tmp_path)], stdout=side, env=environment) as process:
        os.close(side)
        text = re.sub(r"\x1b\[[0-9;]*m", "", read_all(main))
    os.close(main)
    assert process.returncode == 0
    assert "qwen2.5-coder-1.5b *" in text
    assert "qwen3-coder-30b-a3b" in text
    assert "~18.6 GB" in text
    assert max(len(line) for line in text.splitlines()) <= columns
