"""A chat template in a child process, because it is a program that came with the model.

Jinja's sandbox keeps a template from reaching Python, but not from looping for ever or filling the memory, and nothing
inside one process stops that for sure. So a model's template runs in a process of its own, without secrets in its
environment, with little memory and with a deadline. The process stays for all requests.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import threading
import weakref
from collections.abc import Iterable, Mapping, Sequence
from typing import IO

import structlog

from quern.config import child_environment
from quern.errors import InvalidRequest, ModelError
from quern.prompt.template import MOST_OUTPUT, Json

log = structlog.get_logger(__name__)

SECONDS = 10.0
"""For one prompt: a template needs milliseconds, the rest is for a machine that is busy with inference."""

MOST_REPLY = 12 * MOST_OUTPUT  # JSON writes a character beyond the BMP as twelve bytes
INHERITED = ("HOME", "LANG", "LC_ALL", "LD_LIBRARY_PATH", "PATH", "PYTHONHOME", "PYTHONPATH", "SYSTEMROOT", "TZ")
ERRORS = {"InvalidRequest": InvalidRequest, "ModelError": ModelError}


class IsolatedTemplate:
    """A ChatTemplate that can't hang or fill the memory. Safe to use from several threads, one prompt at a time.

    `variables` and `special` as for an InProcessTemplate, `seconds` for each prompt. Raises ModelError where the
    template can't be parsed.
    """

    def __init__(
        self, source: str, variables: Mapping[str, str], special: Iterable[str] = (), *, seconds: float = SECONDS
    ) -> None:
        self._opening = json.dumps({"source": source, "variables": dict(variables), "special": list(special)})
        self._seconds = seconds
        self._lock = threading.Lock()
        self._worker = _Worker(self._opening, seconds)

    def render(self, messages: Sequence[Json], tools: Sequence[Json] = ()) -> str:
        """See ChatTemplate."""
        request = json.dumps({"messages": list(messages), "tools": list(tools)})
        with self._lock:
            if not self._worker.alive:
                log.warning("chat_template_worker_restarts")
                self._worker = _Worker(self._opening, self._seconds)
            return self._worker.ask(request)

    def close(self) -> None:
        """End the child process."""
        with self._lock:
            self._worker.end()


class _Worker:
    """One child process and the conversation with it."""

    def __init__(self, opening: str, seconds: float) -> None:
        self._seconds = seconds
        self._process = _start()
        self.end = weakref.finalize(self, _end, self._process)
        self.ask(opening)

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    def ask(self, request: str) -> str:
        """Send one line, return the text of the reply. Raises what the worker raised, and ModelError without a reply;
        the process is gone then.
        """
        late = threading.Event()
        watchdog = threading.Timer(self._seconds, _expire, (self._process, late))
        watchdog.start()
        try:
            reply = self._exchange(request.encode() + b"\n")
        finally:
            watchdog.cancel()
            watchdog.join()
        if late.is_set():
            self.end()
            raise ModelError(
                f"The model's chat template did not finish within {self._seconds:g} seconds and was stopped; nothing "
                f"was generated. If this happens again, use another file of the model."
            )
        if not reply.endswith(b"\n"):
            self.end()
            raise ModelError(
                "The process that renders the model's chat template ended unexpectedly; nothing was generated. Try "
                "again; if it happens again, free some memory or use another file of the model."
            )
        return _text(reply)

    def _exchange(self, request: bytes) -> bytes:
        stdin, stdout = _pipes(self._process)
        try:
            stdin.write(request)
            stdin.flush()
        except OSError:
            return b""
        return stdout.readline(MOST_REPLY)


def _start() -> subprocess.Popen[bytes]:
    try:
        return subprocess.Popen(
            # -P: a file in the working directory must not pass for a module of the standard library.
            [sys.executable, "-P", "-m", "quern.prompt.template_worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={name: value for name, value in child_environment().items() if name in INHERITED},
            start_new_session=True,  # Ctrl-C is for the server, which still needs its templates while it drains
        )
    except OSError as error:
        raise ModelError(
            f"The process that renders the model's chat template can't be started ({error.strerror}). Free some memory "
            f"and try again."
        ) from error


def _pipes(process: subprocess.Popen[bytes]) -> tuple[IO[bytes], IO[bytes]]:
    if process.stdin is None or process.stdout is None:
        msg = "the worker was started without pipes"
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


def _text(reply: bytes) -> str:
    message = json.loads(reply)
    if "error" in message:
        raise ERRORS[message["error"]](message["message"])
    return message["text"]
