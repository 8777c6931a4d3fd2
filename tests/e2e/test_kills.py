"""`kill -9` in the middle of a load of all dialects: what is whole stays whole, and what is not goes on as if nothing
had happened.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from .conftest import ONE_THREAD

KILLS = Path(__file__).parents[2] / "bench" / "kills.py"


def test_after_each_kill_whole_turns_are_whole_and_the_others_go_on_to_what_they_would_have_been(
    small_model_path: Path,
) -> None:
    settings = [f"{name}={value}" for name, value in ONE_THREAD.items()]
    options = ["--kills", "2", "--seconds", "3", "--topics", "1", "--models-dir", str(small_model_path.parents[1])]
    command = ["env", *settings, sys.executable, str(KILLS), *options]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert " 0 faults" in done.stdout
