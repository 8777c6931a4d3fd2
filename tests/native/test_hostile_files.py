"""Damaged model files: a sentence for each, never a crash, never much memory."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
ROUNDS = 4000


def test_thousands_of_damaged_files_are_refused_or_read(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.native.fuzz", str(tmp_path), "--rounds", str(ROUNDS), "--seed", "1"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=250, check=False)
    assert done.returncode == 0, f"{done.returncode}: {done.stdout}{done.stderr}"
    truncated, truncated_refused, mutated, mutated_refused = map(int, re.findall(r"\d+", done.stdout))
    assert truncated == truncated_refused > 3000
    # Some mutations do no harm, such as one in the vocabulary; were these all of them, the fuzzer would be broken.
    assert mutated == ROUNDS
    assert ROUNDS // 2 < mutated_refused < ROUNDS


def test_memory_is_limited_where_files_are_damaged(tmp_path: Path) -> None:
    program = "import sys; from tests.native import fuzz; fuzz.limit_memory(); bytearray(fuzz.MEMORY + 2**20)"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False)
    assert "MemoryError" in done.stderr
