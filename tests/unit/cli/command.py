"""The installed `quern` command as a real process: with pipes, or at a terminal."""

from __future__ import annotations

import os
import pty
import select
import subprocess
import sys
import time
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

QUERN = str(Path(sys.executable).with_name("quern"))
PATIENCE_SECONDS = 60.0
PROMPT_SHOWN = "\x1b[?2004h"
AT_THIS_TERMINAL = (
    "import fcntl, os, sys, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); os.execv(sys.argv[1], sys.argv[1:])"
)


@dataclass(frozen=True)
class Command:
    environment: dict[str, str]

    def run(self, *arguments: str, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
        return subprocess.run(
            [QUERN, *arguments],
            input=stdin,
            capture_output=True,
            env=self.environment,
            timeout=PATIENCE_SECONDS,
            check=False,
        )

    def run_into(self, output: int, *arguments: str) -> subprocess.CompletedProcess[bytes]:
        """Run with standard output on the file descriptor `output`."""
        return subprocess.run(
            [QUERN, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.PIPE,
            env=self.environment,
            timeout=PATIENCE_SECONDS,
            check=False,
        )

    @contextmanager
    def started(self, *arguments: str) -> Generator[subprocess.Popen[bytes]]:
        with subprocess.Popen(
            [QUERN, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=self.environment,
        ) as process:
            try:
                yield process
            finally:
                process.kill()

    @contextmanager
    def at_terminal(self, *arguments: str) -> Generator[Terminal]:
        master, slave = pty.openpty()
        with subprocess.Popen(
            [sys.executable, "-c", AT_THIS_TERMINAL, QUERN, *arguments],
            stdin=slave,
            stdout=slave,
            stderr=slave,
            env=self.environment,
            start_new_session=True,
        ) as process:
            os.close(slave)
            try:
                yield Terminal(master, process)
            finally:
                process.kill()
                os.close(master)


class Terminal:
    """The person's side of a terminal: types, and reads what appears."""

    def __init__(self, master: int, process: subprocess.Popen[bytes]) -> None:
        self._master = master
        self._process = process
        self._seen = ""

    def type(self, keys: str) -> None:
        os.write(self._master, keys.encode())

    def expect(self, text: str) -> str:
        """Everything up to `text`, which must appear after what was expected before."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while text not in self._seen:
            readable, _, _ = select.select([self._master], [], [], max(0, deadline - time.monotonic()))
            assert readable, f"{text!r} did not appear; there was {self._seen!r}"
            try:
                self._seen += os.read(self._master, 65536).decode()
            except OSError as error:
                raise AssertionError(f"{text!r} did not appear before the end; there was {self._seen!r}") from error
        before, _, self._seen = self._seen.partition(text)
        return before

    def expect_prompt(self) -> str:
        return self.expect(PROMPT_SHOWN)

    def expect_end(self) -> int:
        """Wait for the process to end and return its exit code."""
        return self._process.wait(PATIENCE_SECONDS)
