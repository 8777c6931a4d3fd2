"""A Python process of our own that answers lines with lines, for what came with a model or a request: work that nothing
inside one process stops for sure.
"""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
import threading
import weakref
from typing import IO

from quern.environment import child_environment

END_SECONDS = 1.0
"""Within this a process has ended that has closed its standard output."""

INHERITED = ("HOME", "LANG", "LC_ALL", "LD_LIBRARY_PATH", "PATH", "PYTHONHOME", "PYTHONPATH", "SYSTEMROOT", "TZ")


OUTSIDE = frozenset(-number for number in (signal.SIGHUP, signal.SIGINT, signal.SIGKILL, signal.SIGTERM))
"""Exit codes of processes that somebody else has ended; what exceeds its own limits ends otherwise."""


class EndedFromOutside(EOFError):
    """Somebody ended the process, which says nothing of what it was asked."""


class LineProcess:
    """A child process that runs a module, with a deadline for each reply of at most `most_reply` bytes.

    `quiet`: what it writes to standard error is not for people. Raises OSError where it can't be started.
    """

    def __init__(self, module: str, *arguments: str, most_reply: int, quiet: bool = False) -> None:
        self._most_reply = most_reply
        self._process = subprocess.Popen(
            # -P: a file in the working directory must not pass for a module of the standard library.
            [sys.executable, "-P", "-m", module, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL if quiet else None,
            env={name: value for name, value in child_environment().items() if name in INHERITED},
            start_new_session=True,  # Ctrl-C is for the server, which still needs it while it drains
        )
        self.end = weakref.finalize(self, _end, self._process)

    @property
    def alive(self) -> bool:
        """Whether it can be asked."""
        return self.end.alive and self._process.poll() is None

    def ask(self, request: bytes, seconds: float) -> bytes:
        """Send a line, without its end; return the reply.

        Raises TimeoutError where that takes longer, EOFError where the process ends over it, EndedFromOutside where it
        is ended: in all cases it is gone.
        """
        late = threading.Event()
        watchdog = threading.Timer(seconds, _expire, (self._process, late))
        watchdog.start()
        try:
            reply = self._exchange(request + b"\n")
        finally:
            watchdog.cancel()
            watchdog.join()
        if not late.is_set() and reply.endswith(b"\n"):
            return reply
        # An end of its own may just be under way.
        code = None if late.is_set() else self._exit_code()
        self.end()
        if late.is_set():
            raise TimeoutError
        raise EndedFromOutside if code in OUTSIDE else EOFError

    def _exit_code(self) -> int | None:
        try:
            return self._process.wait(END_SECONDS)
        except subprocess.TimeoutExpired:
            return None

    def _exchange(self, line: bytes) -> bytes:
        stdin, stdout = _pipes(self._process)
        try:
            stdin.write(line)
            stdin.flush()
            return stdout.readline(self._most_reply)
        except (OSError, ValueError):  # it has ended, or another thread ends it
            return b""


def _pipes(process: subprocess.Popen[bytes]) -> tuple[IO[bytes], IO[bytes]]:
    if process.stdin is None or process.stdout is None:
        msg = "the process was started without pipes"
        raise RuntimeError(msg)
    return process.stdin, process.stdout


def _expire(process: subprocess.Popen[bytes], late: threading.Event) -> None:
    late.set()
    process.kill()


def _end(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.wait()
    for pipe in _pipes(process):
        with contextlib.suppress(OSError):  # closing flushes what a dead reader left
            pipe.close()
