"""A child process that serves a model: started, listened to, ended and explained."""

from __future__ import annotations

import asyncio
import os
import re
import signal
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress

from quern.engine.served.backend import hangs
from quern.environment import child_environment
from quern.errors import ModelLoadError

REMEMBERED_LINES = 8
LONGEST_LINE = 2**20
LINE_END = re.compile(rb"\r\n|\n|\r(?!$)")
"""Progress bars end theirs with a carriage return; one at the very end may be half of a line's end."""


class ChildProcess:
    """One life of a child, in a session of its own: Ctrl-C is for the server, which lets running turns finish first.

    Its standard input stays open while we live: a child ends when that ends, so it never outlives us. What it writes to
    standard output is for whoever started it (`read_line`), what it writes to standard error are log lines. Processes
    that it starts may share the latter, not the former.
    """

    def __init__(
        self,
        process: asyncio.subprocess.Process,
        log: asyncio.StreamReader,
        pipe: asyncio.BaseTransport,
        on_line: Callable[[str], None],
    ) -> None:
        if process.stdin is None or process.stdout is None:
            msg = "the child has no pipes"
            raise RuntimeError(msg)
        self._process = process
        self._stdin, self._stdout = process.stdin, process.stdout
        self._pipe = pipe
        self._on_line = on_line
        self._last_lines: deque[str] = deque(maxlen=REMEMBERED_LINES)
        self._logs = asyncio.get_running_loop().create_task(self._listen(log))

    @classmethod
    async def start(
        cls, command: Sequence[str], *, on_line: Callable[[str], None], variables: Mapping[str, str]
    ) -> ChildProcess:
        """Start a command; `variables` go before our own environment's. Raises ModelLoadError where it can't be."""
        pipe = asyncio.subprocess.PIPE
        # Of a pipe of asyncio's own, processes that the child has started would keep us from seeing its end.
        reading, writing = os.pipe()
        log = asyncio.StreamReader(limit=LONGEST_LINE)
        transport, _ = await asyncio.get_running_loop().connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(log), os.fdopen(reading, "rb")
        )
        try:
            process = await asyncio.create_subprocess_exec(
                *command,
                stdin=pipe,
                stdout=pipe,
                stderr=writing,
                limit=LONGEST_LINE,
                start_new_session=True,
                env={**child_environment(), **variables},
            )
        except BaseException as error:
            transport.close()
            if not isinstance(error, OSError):
                raise
            msg = f"The inference process can't be started: {error.strerror}. Free some memory, then try again."
            raise ModelLoadError(msg) from error
        finally:
            os.close(writing)
        return cls(process, log, transport, on_line)

    @property
    def pid(self) -> int:
        """Its process id, which is that of its session and group too."""
        return self._process.pid

    @property
    def running(self) -> bool:
        """Whether it has not ended yet."""
        return self._process.returncode is None

    @property
    def last_lines(self) -> Sequence[str]:
        """The last lines of its log."""
        return tuple(self._last_lines)

    def write_line(self, line: bytes) -> None:
        """To its standard input."""
        self._stdin.write(line + b"\n")

    async def read_line(self) -> bytes:
        """From its standard output; empty where that has ended."""
        return await self._stdout.readline()

    async def ended(self) -> int:
        """Wait until it has ended, all that it has started has, and its log is read; its exit code, negative where a
        signal ended it.
        """
        code = await self._process.wait()
        self.kill()  # what it has started, which would hold the log open
        await asyncio.wait([self._logs])
        return code

    def kill(self) -> None:
        """End it and all that it has started: it holds nothing that would need saving."""
        with suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)

    async def stop(self) -> None:
        """End it, and wait until it has."""
        self.kill()
        self._stdin.close()
        await self.ended()

    async def _listen(self, stderr: asyncio.StreamReader) -> None:
        unfinished = b""
        while chunk := await stderr.read(LONGEST_LINE):
            *lines, unfinished = LINE_END.split(unfinished + chunk)
            for line in lines if len(unfinished) < LONGEST_LINE else [*lines, unfinished]:
                self._tell(line)
            unfinished = unfinished if len(unfinished) < LONGEST_LINE else b""
        self._tell(unfinished)
        self._pipe.close()

    def _tell(self, line: bytes) -> None:
        if text := line.decode(errors="replace").rstrip():
            self._last_lines.append(text)
            self._on_line(text)


async def lost(child: ChildProcess, ready: Callable[[], Awaitable[bool]], hung_seconds: float) -> str:
    """Wait until a child has ended, or has answered nothing for so long, not even whether it is `ready`; a sentence
    about it.
    """
    ended = asyncio.ensure_future(child.ended())
    hung = asyncio.ensure_future(hangs(ready, hung_seconds))
    try:
        await asyncio.wait([ended, hung], return_when=asyncio.FIRST_COMPLETED)
        if not ended.done():
            return f"The inference process has answered nothing for {hung_seconds:g} s (engine.hung_seconds)."
        return f"The inference process {how_it_ended(ended.result())}.{last_words(child.last_lines)}"
    finally:
        ended.cancel()
        hung.cancel()
        await asyncio.gather(ended, hung, return_exceptions=True)


def last_words(lines: Sequence[str]) -> str:
    """A child's last lines, to follow a sentence."""
    return " Its last lines:\n  " + "\n  ".join(lines) if lines else ""


def how_it_ended(code: int) -> str:
    """An exit code, negative for a signal, as the end of a sentence."""
    if code >= 0:
        return f"ended with exit code {code}"
    try:
        return f"was ended by {signal.Signals(-code).name}"
    except ValueError:
        return f"was ended by signal {-code}"
