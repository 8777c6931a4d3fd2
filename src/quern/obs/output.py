"""Standard output and standard error of a server that must not wait for whoever reads them, nor end with them."""

from __future__ import annotations

import os
import queue
import threading
from collections.abc import Generator
from contextlib import contextmanager, suppress

MOST_LINES = 10_000
"""So many wait for a reader that doesn't read; of what comes then the log says how much it was."""

END_SECONDS = 1.0


class Output:
    """A stream of text to a file descriptor. Writing to it never blocks and never fails: a thread does it, and where
    that can't (the reader has gone, the disk is full) the text is lost.
    """

    encoding = "utf-8"

    def __init__(self, descriptor: int, most: int = MOST_LINES) -> None:
        self._descriptor = descriptor
        self._texts: queue.Queue[str | None] = queue.Queue(most)
        self._dropped = 0
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._run, name=f"quern-output-{descriptor}", daemon=True)
        self._thread.start()

    def write(self, text: str) -> int:
        """Have it written."""
        with self._lock:
            try:
                if self._dropped:  # until what waits is written, so that all of the gap is in one place
                    self._dropped += 1
                else:
                    self._texts.put_nowait(text)
            except queue.Full:
                self._dropped = 1
        return len(text)

    def flush(self) -> None:
        """Nothing: it is written as soon as it can be."""

    def fileno(self) -> int:
        """The file descriptor."""
        return self._descriptor

    def isatty(self) -> bool:
        """Whether it is a terminal's."""
        return os.isatty(self._descriptor)

    def close(self, seconds: float = END_SECONDS) -> None:
        """Have everything written, if that takes no longer."""
        with suppress(queue.Full):
            self._texts.put_nowait(None)
            self._thread.join(seconds)

    def _run(self) -> None:
        while (text := self._texts.get()) is not None:
            self._write(text)
            if self._texts.empty():
                self._tell_dropped()
        self._tell_dropped()

    def _tell_dropped(self) -> None:
        with self._lock:
            dropped, self._dropped = self._dropped, 0
        if dropped:
            self._write(f"{dropped} lines are missing here: nobody read them for too long.\n")

    def _write(self, text: str) -> None:
        left = memoryview(text.encode(self.encoding, errors="backslashreplace"))
        # Not through Python's stream: at the end of the process it must not wait for a lock that a thread holds here.
        with suppress(OSError):
            while left:
                left = left[os.write(self._descriptor, left) :]


@contextmanager
def outputs() -> Generator[tuple[Output, Output]]:
    """Standard output and standard error, as long as the block lasts."""
    out, err = Output(1), Output(2)
    try:
        yield out, err
    finally:
        out.close()
        err.close()
