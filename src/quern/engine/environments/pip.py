"""pip, run for another environment, with its progress told while it runs.

It is Quern's own pip: what an environment's interpreter brings may be years older. Source of the lines that it writes:
pip's `--progress-bar=raw` ("Progress DONE of TOTAL"), and its log of what it does.
"""

from __future__ import annotations

import re
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import IO, Protocol

from quern.environment import child_environment

POLL_SECONDS = 0.5
REMEMBERED_LINES = 30

_DOWNLOADING = re.compile(r"\s*Downloading (?P<file>\S+)")
_PROGRESS = re.compile(r"Progress (?P<done>\d+) of (?P<total>\d+)")


class PipFailed(Exception):
    """pip ended with a failure; `str()` is the reason, for a person."""


class Progress(Protocol):
    """Who hears how far pip is; see `install.py`."""

    def advance(self, phase: str, done: int, total: int | None) -> None:
        """`done` of `total` bytes of a phase."""
        ...


@dataclass(slots=True)
class PipLog:
    """What pip has written so far, as a phase and how far it is."""

    phase: str = "Choosing versions"
    done: int = 0
    total: int | None = None
    lines: deque[str] = field(default_factory=lambda: deque[str](maxlen=REMEMBERED_LINES))

    def read(self, line: str) -> None:
        """Take in one line."""
        if found := _PROGRESS.match(line):
            self.done, self.total = int(found["done"]), int(found["total"])
            return
        self.lines.append(line)
        if found := _DOWNLOADING.match(line):
            name = found["file"].rsplit("/", 1)[-1].removesuffix(".metadata")
            self._begin(f"Downloading {'-'.join(name.split('-')[:2])}")
        elif line.startswith("Installing collected packages: "):
            packages = line.count(",") + 1
            self._begin(f"Unpacking {packages} {'package' if packages == 1 else 'packages'}")

    def reason(self) -> str:
        """Why pip failed."""
        text = "\n".join(self.lines)
        errors = [line.removeprefix("ERROR: ") for line in self.lines if line.startswith("ERROR: ")]
        if "No space left on device" in text:
            return "the disk became full"
        if "connection broken by" in text:
            return f"a package index could not be reached ({errors[-1] if errors else 'no other has the package'})"
        return errors[-1].rstrip(".") if errors else "pip failed without saying why"

    def _begin(self, phase: str) -> None:
        self.phase, self.done, self.total = phase, 0, None


def run_pip(environment: Path, arguments: Sequence[str], *, temporary: Path, progress: Progress) -> None:
    """Run one pip command on the environment in the folder `environment`, with `temporary` for what it downloads.

    Raises PipFailed. pip never outlives the call.
    """
    command = [sys.executable, "-P", "-m", "pip", "--python", str(environment / "bin" / "python"), arguments[0]]
    command += ["--disable-pip-version-check", "--no-input"]
    command += ["--progress-bar=raw"] if arguments[0] == "install" else []
    with subprocess.Popen(
        [*command, *arguments[1:]],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env=child_environment() | {"TMPDIR": str(temporary), "PYTHONUNBUFFERED": "1"},
        encoding="utf-8",
        errors="replace",
    ) as pip:
        lines: SimpleQueue[str | None] = SimpleQueue()
        reader = threading.Thread(target=_pass_on, args=(pip.stdout, lines), daemon=True)
        reader.start()
        try:
            log = _follow(lines, progress)
            pip.wait()
        finally:
            pip.kill()
            reader.join()
    if pip.returncode != 0:
        raise PipFailed(log.reason())


def _follow(lines: SimpleQueue[str | None], progress: Progress) -> PipLog:
    """Read what pip writes to its end, and tell of it, now and then also where nothing is written."""
    log = PipLog()
    while True:
        try:
            line = lines.get(timeout=POLL_SECONDS)
        except Empty:
            progress.advance(log.phase, log.done, log.total)
            continue
        if line is None:
            return log
        log.read(line.rstrip("\n"))
        progress.advance(log.phase, log.done, log.total)


def _pass_on(source: IO[str] | None, lines: SimpleQueue[str | None]) -> None:
    try:
        for line in source or ():
            lines.put(line)
    finally:
        lines.put(None)
