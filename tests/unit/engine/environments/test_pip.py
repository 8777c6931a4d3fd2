"""What is read from pip's lines."""

from __future__ import annotations

import re

import pytest

from quern.engine.environments.pip import PipLog


def read(*lines: str) -> PipLog:
    log = PipLog()
    for line in lines:
        log.read(line)
    return log


def test_a_download_is_a_phase_with_its_bytes() -> None:
    log = read(
        "Collecting torch==2.13.0",
        "  Downloading https://index.example/torch-2.13.0-cp311-cp311-manylinux_2_28_x86_64.whl (900.0 MB)",
        "Progress 0 of 900000000",
        "Progress 450000000 of 900000000",
    )
    assert (log.phase, log.done, log.total) == ("Downloading torch-2.13.0", 450_000_000, 900_000_000)


def test_unpacking_has_no_bytes_of_the_download_before() -> None:
    log = read("Progress 5 of 10", "Installing collected packages: a, b, c")
    assert (log.phase, log.done, log.total) == ("Unpacking 3 packages", 0, None)


@pytest.mark.parametrize(
    ("lines", "reason"),
    [
        (
            ["Collecting a", "ERROR: first", "ERROR: No matching distribution found for a==1"],
            "No matching distribution",
        ),
        (["WARNING: Retrying (…) after connection broken by '…'", "ERROR: no a"], "a package index could not"),
        (["ERROR: Could not install: [Errno 28] No space left on device"], "the disk became full"),
        ([], "pip failed without saying why"),
    ],
)
def test_the_reason_of_a_failure_is_what_pip_said_last(lines: list[str], reason: str) -> None:
    assert re.search(reason, read(*lines).reason())
