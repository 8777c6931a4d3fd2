"""Keeps a server that is no program of ours, so that it ends with us.

Run with `python -P -m quern.engine.served.keeper COMMAND…`.
The command's whole group of processes ends as soon as our standard input does, and its end is ours. What it writes goes
to standard error.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from types import FrameType


def main() -> None:
    """Run the command until it ends, or our standard input does."""
    # What is ignored would be ignored by the command too; a handler is not inherited.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _pass)
    threading.Thread(target=_end_with_standard_input, daemon=True).start()
    try:
        command = subprocess.Popen(sys.argv[1:], stdin=subprocess.DEVNULL, stdout=sys.stderr)
    except OSError as error:
        sys.stderr.write(f"{sys.argv[1]}: {error.strerror}\n")
        sys.exit(127)
    code = command.wait()
    if code < 0 and -code != signal.SIGKILL:
        signal.signal(-code, signal.SIG_DFL)
    if code < 0:
        os.kill(os.getpid(), -code)
    sys.exit(code)


def _pass(_number: int, _frame: FrameType | None) -> None:
    """Only the parent decides when it ends."""


def _end_with_standard_input() -> None:
    while os.read(0, 4096):
        pass
    os.killpg(0, signal.SIGKILL)


if __name__ == "__main__":
    main()
