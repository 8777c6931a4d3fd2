"""A server's output with readers that don't read, have gone, or have no room: real pipes and devices."""

from __future__ import annotations

import fcntl
import os
import threading
from pathlib import Path

import pytest

from quern.obs.output import Output

LINES = [f"line {number} …\n" for number in range(50_000)]
WAIT_SECONDS = 20


def test_everything_is_written_in_order_before_the_end(tmp_path: Path) -> None:
    with (tmp_path / "log").open("wb") as file:
        output = Output(file.fileno(), most=len(LINES) + 1)
        for line in LINES:
            output.write(line)
        output.close(WAIT_SECONDS)
    assert (tmp_path / "log").read_text(encoding="utf-8") == "".join(LINES)


def test_a_reader_that_does_not_read_is_waited_for_by_nobody_and_told_of_what_is_missing() -> None:
    ours, theirs = os.pipe()
    full = fcntl.fcntl(theirs, fcntl.F_GETPIPE_SZ)
    os.write(theirs, b"." * full)
    output = Output(theirs, most=100)
    for line in LINES:
        output.write(line)
    output.close(0.05)
    with os.fdopen(ours, encoding="utf-8") as reader:
        reader.read(full)
        seen = [reader.readline()]
        while "missing" not in seen[-1]:
            seen.append(reader.readline())
    assert seen[:-1] == LINES[: len(seen) - 1], "what came first is whole"
    assert len(seen) in {101, 102}
    assert seen[-1] == f"{len(LINES) - len(seen) + 1} lines are missing here: nobody read them for too long.\n"
    os.close(theirs)


def test_a_reader_that_has_gone_is_no_error() -> None:
    ours, theirs = os.pipe()
    os.close(ours)
    output = Output(theirs)
    output.write("nobody reads this\n")
    output.close(WAIT_SECONDS)
    os.close(theirs)


def test_a_full_disk_is_no_error_and_costs_what_finds_no_room_only() -> None:
    full = os.open("/dev/full", os.O_WRONLY)
    output = Output(full)
    output.write("lost\n")
    output.close(WAIT_SECONDS)
    os.close(full)


@pytest.mark.parametrize("text", ["冒泡 🫧\n", "half a character: \ud83e\n"])
def test_any_text_can_be_written(text: str) -> None:
    ours, theirs = os.pipe()
    output = Output(theirs)
    output.write(text)
    output.close(WAIT_SECONDS)
    os.close(theirs)
    with os.fdopen(ours, "rb") as reader:
        assert reader.read() == text.encode("utf-8", errors="backslashreplace")


def test_it_leaves_no_thread() -> None:
    ours, theirs = os.pipe()
    Output(theirs).close(WAIT_SECONDS)
    assert not [thread for thread in threading.enumerate() if thread.name == f"quern-output-{theirs}"]
    os.close(ours)
    os.close(theirs)
