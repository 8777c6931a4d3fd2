"""What the commands that talk to a server share: the prompt's bytes, the answer's way to the screen."""

from __future__ import annotations

import signal
import sys
from collections.abc import Generator
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import Self, TextIO

from rich.console import Console

from quern.errors import ConfigError

IN_A_PIPE = 2000
"""Columns of a table that no terminal shows: what is printed takes as many as it needs."""

CTRL_C_WAITS_SECONDS = 0.25
"""How long after Ctrl-C an answer may still go on."""

_KEPT = {ord("\n"), ord("\t")}
_VISIBLE_CONTROLS = {
    code: chr(0x2400 + code) if code < 0x20 else "\N{REPLACEMENT CHARACTER}"
    for code in (*range(0x20), *range(0x7F, 0xA0))
    if code not in _KEPT
}


class AnswerWriter:
    """Writes an answer piece by piece; a context manager that ends the last line.

    On a terminal, control characters are shown as symbols, because a model could be talked into writing escape
    sequences that change the terminal. Anywhere else the bytes are exactly the answer's.
    """

    def __init__(self, out: TextIO) -> None:
        self._out = out
        self._screen = out.isatty()
        self._last = "\n"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._last != "\n":
            self.write("\n")

    def write(self, text: str) -> None:
        """Show `text` at once; it is not empty."""
        self._last = text[-1]
        self._out.write(text.translate(_VISIBLE_CONTROLS) if self._screen else text)
        self._out.flush()


def _only_wake_up(_signal: int, _frame: FrameType | None) -> None:
    """A handler that does nothing; the system call that it interrupts is what matters."""


@contextmanager
def noticing_ctrl_c() -> Generator[None]:
    """Ctrl-C raises KeyboardInterrupt within a moment, whatever is waited for; for the main thread.

    A signal that comes just before the process waits for the network is otherwise noticed when something arrives, and
    from a server that is silent nothing does.
    """
    before = signal.signal(signal.SIGALRM, _only_wake_up)
    signal.setitimer(signal.ITIMER_REAL, CTRL_C_WAITS_SECONDS, CTRL_C_WAITS_SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def read_standard_input() -> str:
    """All of standard input. Raises ConfigError if it is not UTF-8."""
    try:
        return sys.stdin.buffer.read().decode("utf-8")
    except UnicodeDecodeError as error:
        raise ConfigError(f"Standard input is not UTF-8 text ({error.reason} at byte {error.start}).") from error


def table_console() -> Console:
    """For tables of what people named: to the letter, and in a pipe as wide as they are, so that nothing is cut."""
    return Console(
        soft_wrap=True, markup=False, emoji=False, highlight=False, width=None if sys.stdout.isatty() else IN_A_PIPE
    )
