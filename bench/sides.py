"""The two sides of a comparison, each in a process of its own: our engine, and llama.cpp as `make peers` builds it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from code_prompts import CodeTokens
from workloads import STEP_TOKENS, Speeds, Workload

LLAMA_CPP = Path(__file__).parents[1] / "build" / "peers" / "llama.cpp" / "bin"
CELL_PADDING = 256  # llama.cpp rounds a sequence's context up to this many tokens


@dataclass(frozen=True, slots=True)
class Run:
    """What one process measured. `speeds` has one entry for each workload.

    `peak_bytes` is its most resident memory, mapped files included; `load_seconds` its life without the workloads:
    start, load, warm-up and end. `facts` is what our side says of its load.
    """

    speeds: list[Speeds]
    peak_bytes: int
    load_seconds: float
    facts: dict[str, Any]


def llama_binary(name: str) -> Path:
    """A program of llama.cpp's. Raises FileNotFoundError where it has not been built."""
    path = LLAMA_CPP / name
    if not path.exists():
        msg = f"There is no {path}. Build llama.cpp first: make peers"
        raise FileNotFoundError(msg)
    return path


def measure_llama_cpp(model: Path, workloads: Sequence[Workload], threads: int) -> Run:
    """Run `llama-batched-bench`, once for workloads that differ in their number of sequences only.

    Its prompts are random tokens, and it draws nothing from the logits. Raises RuntimeError where it fails.
    """
    shapes = {(work.prompt, work.generated) for work in workloads}
    if len(shapes) != 1:
        msg = f"one run of llama-batched-bench measures one length of prompt and answer, not {sorted(shapes)}"
        raise ValueError(msg)
    ((prompt, generated),) = shapes
    most = max(work.sequences for work in workloads)
    cells = -(-(prompt + generated) // CELL_PADDING) * CELL_PADDING
    lines, peak, seconds = _finish(
        [
            *(str(llama_binary("llama-batched-bench")), "-m", str(model), "--output-format", "jsonl"),
            *("-c", str(most * cells), "-b", "2048", "-ub", str(STEP_TOKENS)),
            *("-npp", str(prompt), "-ntg", str(generated)),
            *("-npl", ",".join(str(work.sequences) for work in workloads)),
            *("-t", str(threads), "-tb", str(threads)),
        ]
    )
    if len(lines) != len(workloads):
        msg = f"llama-batched-bench measured {len(lines)} of {len(workloads)} workloads"
        raise RuntimeError(msg)
    speeds = [Speeds(line["speed_pp"], line["speed_tg"]) for line in lines]
    return Run(speeds, peak, seconds - sum(line["t"] for line in lines), {})


def measure_quern(
    model: Path, workloads: Sequence[Workload], threads: int, code: CodeTokens, kv_type: str = "bf16"
) -> Run:
    """Run `native_run.py`: real code as prompts, greedy sampling. Raises RuntimeError where it fails."""
    job = {
        "model": str(model),
        "threads": threads,
        "kv_type": kv_type,
        "workloads": [
            {"prompts": code.prompts(work.sequences, work.prompt), "generated": work.generated} for work in workloads
        ],
    }
    script = Path(__file__).with_name("native_run.py")
    (facts, *lines), _, seconds = _finish([sys.executable, str(script)], json.dumps(job))
    speeds = [
        Speeds(
            work.sequences * work.prompt / line["prefill_seconds"],
            work.sequences * work.generated / line["decode_seconds"],
        )
        for work, line in zip(workloads, lines, strict=True)
    ]
    computing = sum(line["prefill_seconds"] + line["decode_seconds"] for line in lines)
    return Run(speeds, lines[-1]["peak_bytes"], seconds - computing, facts)


def _finish(command: list[str], given: str = "") -> tuple[list[dict[str, Any]], int, float]:
    """Run to the end; the JSON lines it printed, its peak resident memory in bytes, its seconds."""
    started = time.monotonic()
    with tempfile.TemporaryFile("w+") as stdin, tempfile.TemporaryFile("w+") as errors:
        stdin.write(given)
        stdin.seek(0)
        process = subprocess.Popen(command, stdin=stdin, stdout=subprocess.PIPE, stderr=errors, text=True)
        if process.stdout is None:
            raise RuntimeError("the process has no output")
        with process.stdout as output:
            lines = [json.loads(line) for line in output if line.startswith("{")]
        # `wait` would throw away what the kernel counted.
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            raise RuntimeError(_failure(command, process.returncode, errors))
    return lines, usage.ru_maxrss * 1024, time.monotonic() - started


def _failure(command: list[str], code: int, errors: IO[str]) -> str:
    errors.seek(0)
    return f"{' '.join(command)} ended with {code}:\n{errors.read()[-2000:]}"
