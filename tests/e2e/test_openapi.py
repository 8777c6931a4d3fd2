"""The server does what its OpenAPI document says, whatever is sent: schemathesis writes the requests.

`make fuzz-api SECONDS=3600` sends others for longer.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from .conftest import ServerProcess

SECONDS = os.environ.get("FUZZ_API_SECONDS", "20")
RANDOM = "FUZZ_API_SECONDS" in os.environ
CHECKS = "not_a_server_error,status_code_conformance,content_type_conformance"
RUN = "from schemathesis.cli import schemathesis; schemathesis()"


def test_no_request_is_answered_with_a_server_error_or_a_status_that_is_not_documented(tmp_path: Path) -> None:
    options = [
        *("--checks", CHECKS, "--phases", "examples,coverage,fuzzing", "--max-time", SECONDS, "--no-color"),
        *(
            "--max-examples",
            "1000" if RANDOM else "5",
            "--warnings",
            "off",
            "--no-shrink",
            "--suppress-health-check",
            "all",
        ),
        *([] if RANDOM else ["--generation-deterministic"]),
    ]
    server = ServerProcess(tmp_path, "--engine", "fake", QUERN_TURNS__MAX_QUEUED="1000").wait_until_ready()
    try:
        run = subprocess.run(
            [sys.executable, "-c", RUN, "run", f"{server.url}/openapi.json", *options],
            check=False,
            capture_output=True,
            text=True,
            cwd=tmp_path,
            timeout=int(SECONDS) + 240,
        )
    finally:
        server.stop()
    lines = [line[:500] for line in (run.stdout + run.stderr).splitlines()]
    assert run.returncode == 0, "\n".join(lines[-200:])
    assert "Traceback" not in server.log()
