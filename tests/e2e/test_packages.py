"""What `make wheel` builds, installed as on another machine: the wheel with the engine `cpu`, the source distribution
where nothing can be compiled.
"""

from __future__ import annotations

import os
import subprocess
import venv
from collections.abc import Callable, Mapping
from pathlib import Path

import pydantic
import pytest
import requests

from .conftest import ServerProcess

ROOT = Path(__file__).parents[2]
DataDirWithModel = Callable[[Path], Path]
SMALL_MODEL = "qwen2.5-coder-0.5b"
NOTHING_COMPILES = {"CC": "false", "CXX": "false"}


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the wheel and the source distribution."""
    folder = tmp_path_factory.mktemp("dist")
    _run("make", "--directory", str(ROOT), "wheel", f"DIST={folder}")
    return folder


def _run(*command: str, **environment: str) -> str:
    done = subprocess.run(
        command, check=False, capture_output=True, text=True, timeout=900, env={**os.environ, **environment}
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def _installed(folder: Path, package: Path, environment: Mapping[str, str]) -> Path:
    """A new virtual environment's `quern`, with the package in it. What it depends on it takes from this one."""
    venv.create(folder, with_pip=True)
    python = folder / "bin" / "python"
    site = Path(_run(str(python), "-c", "import sysconfig; print(sysconfig.get_path('purelib'))").strip())
    dependencies = Path(pydantic.__file__).parents[1]
    (site / "dependencies.pth").write_text(f"{dependencies}\n")
    _run(str(python), "-m", "pip", "install", "--no-deps", "--no-build-isolation", str(package), **environment)
    return folder / "bin" / "quern"


def _doctor(quern: Path, data_dir: Path) -> str:
    return _run(str(quern), "doctor", QUERN_DATA_DIR=str(data_dir), QUERN_MODEL__NAME=SMALL_MODEL)


def _answers(quern: Path, data_dir: Path, engine: str) -> None:
    server = ServerProcess(data_dir, "--model", SMALL_MODEL, command=str(quern)).wait_until_ready()
    try:
        models = requests.get(f"{server.url}/v1/models", timeout=60).json()["data"]
        assert models[0]["engine"] == engine
        body = {"messages": [{"role": "user", "content": "Say hi."}], "max_tokens": 4}
        assert requests.post(f"{server.url}/v1/chat/completions", json=body, timeout=300).status_code == 200
    finally:
        server.stop()


def test_the_wheel_serves_with_the_engine_cpu_where_it_was_not_built(
    packages: Path, tmp_path: Path, data_dir_with_model: DataDirWithModel
) -> None:
    [wheel] = packages.glob("*.whl")
    assert "manylinux" in wheel.name
    quern = _installed(tmp_path / "venv", wheel, {})
    data_dir_with_model(tmp_path)
    assert "ok    engine    cpu" in _doctor(quern, tmp_path)
    _answers(quern, tmp_path, "cpu")


def test_the_source_distribution_installs_where_nothing_compiles_and_serves_with_llamacpp(
    packages: Path, tmp_path: Path, data_dir_with_model: DataDirWithModel
) -> None:
    [source] = packages.glob("*.tar.gz")
    quern = _installed(tmp_path / "venv", source, NOTHING_COMPILES)
    data_dir_with_model(tmp_path)
    assert "engine    llamacpp" in _doctor(quern, tmp_path)
    _answers(quern, tmp_path, "llamacpp")
