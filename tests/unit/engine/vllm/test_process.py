"""vLLM's life, with a program in its place that is started as it is."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
import structlog.testing

from quern.config_models import EngineSettings
from quern.engine.vllm.process import VllmProcess, explain
from quern.errors import ModelLoadError
from quern.modelfiles.description import ModelFacts

PROGRAM = Path(__file__).parent / "fake_vllm.py"
FACTS = ModelFacts("qwen2", "small", "BF16", 4096, 1000, 2, (1,), 32, 32)


@pytest.fixture
def command(tmp_path: Path) -> Path:
    """A program that needs no environment."""
    path = tmp_path / "serve-vllm"
    path.write_text(f'#!/bin/sh\nexec {sys.executable} {PROGRAM} "$@"\n')
    path.chmod(0o755)
    return path


def vllm(tmp_path: Path, command: Path, **behaviour: Any) -> VllmProcess:
    model = tmp_path / "model"
    model.mkdir(exist_ok=True)
    (model / "behaviour").write_text(json.dumps(behaviour))
    settings = EngineSettings.model_validate({"vllm": {"command": str(command)}, "hung_seconds": 60})
    return VllmProcess(model, served_name="small", facts=FACTS, settings=settings, engines_dir=tmp_path)


def pids(tmp_path: Path) -> list[int]:
    return json.loads((tmp_path / "model" / "pids").read_text())


async def gone(processes: list[int]) -> None:
    async with asyncio.timeout(20):
        while any(_runs(pid) for pid in processes):
            await asyncio.sleep(0.02)


def _runs(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


async def test_it_is_ready_once_it_answers_and_says_what_it_holds(tmp_path: Path, command: Path) -> None:
    process = vllm(tmp_path, command)
    with structlog.testing.capture_logs() as logs:
        connected = await process.start()
    facts = connected.facts
    assert (facts.model, facts.context_length, facts.kv_tokens) == ("small", 512, 1600)
    assert process.progress() == 1.0
    phases = [entry["phase"] for entry in logs if entry["event"] == "vllm_loading"]
    assert phases == ["starting", "initialising", "reading weights"]
    (warning,) = [entry for entry in logs if entry.get("line") == "A warning."]
    assert warning["log_level"] == "info"
    await process.stop()
    await gone(pids(tmp_path))


async def test_its_socket_is_in_a_folder_that_nobody_else_can_enter_and_goes_with_it(
    tmp_path: Path, command: Path
) -> None:
    process = vllm(tmp_path, command)
    await process.start()
    own = psutil.Process(pids(tmp_path)[0]).cmdline()
    folder = Path(own[own.index("--uds") + 1]).parent
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert not psutil.Process(pids(tmp_path)[0]).net_connections("inet")
    await process.stop()
    assert not folder.exists()


async def test_where_it_dies_it_is_lost_and_all_of_its_processes_end(tmp_path: Path, command: Path) -> None:
    process = vllm(tmp_path, command)
    await process.start()
    losing = asyncio.ensure_future(process.lost())
    os.kill(pids(tmp_path)[0], signal.SIGKILL)
    assert "SIGKILL" in await losing
    await process.stop()
    await gone(pids(tmp_path))


async def test_a_load_that_is_cancelled_leaves_nothing(tmp_path: Path, command: Path) -> None:
    process = vllm(tmp_path, command)
    loading = asyncio.ensure_future(process.start())
    async with asyncio.timeout(20):
        while process.pid is None:
            await asyncio.sleep(0.01)
    keeper = process.pid
    loading.cancel()
    await asyncio.wait([loading])
    assert loading.cancelled()
    await gone([keeper])


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        (["(EngineCore pid=8) ERROR 11-28 16:50:20 [x.py:1] CUDA out of memory. Tried"], r"kv_cache_dtype.*fp8"),
        (["ModuleNotFoundError: No module named 'vllm'"], "quern engines install vllm"),
        (["api_server.py: error: unrecognized arguments: --bad"], r"--bad.*engine\.vllm\.arguments"),
        (["Something else"], "Its last lines:(.|\n)*Something else"),
    ],
)
async def test_a_load_that_fails_is_told_in_its_words_with_what_to_do(
    tmp_path: Path, command: Path, lines: list[str], words: str
) -> None:
    process = vllm(tmp_path, command, lines=lines, exit=1)
    with pytest.raises(ModelLoadError, match=words) as error:
        await process.start()
    assert "exit code 1" in str(error.value)
    assert process.pid is None


def test_a_signal_is_named() -> None:
    assert "was ended by SIGKILL" in explain(-signal.SIGKILL, "", [], Path("/m"))


PARENT = """
import asyncio, sys
from pathlib import Path
sys.path.insert(0, sys.argv[3])
from tests.unit.engine.vllm.test_process import vllm

async def main():
    process = vllm(Path(sys.argv[1]), Path(sys.argv[2]))
    await process.start()
    print("ready", process.pid, flush=True)
    await asyncio.sleep(60)

asyncio.run(main())
"""


async def test_it_never_outlives_its_parent_not_even_after_kill_9(tmp_path: Path, command: Path) -> None:
    root = str(Path(__file__).parents[4])
    parent = await asyncio.create_subprocess_exec(
        sys.executable, "-c", PARENT, str(tmp_path), str(command), root, stdout=subprocess.PIPE
    )
    assert parent.stdout is not None
    keeper = await _line(parent.stdout, lambda line: line.startswith(b"ready"))
    parent.kill()
    await parent.wait()
    await gone([int(keeper.split()[1]), *pids(tmp_path)])


async def _line(stream: asyncio.StreamReader, wanted: Callable[[bytes], bool]) -> bytes:
    while not wanted(line := await stream.readline()):
        assert line, "the parent has ended"
    return line
