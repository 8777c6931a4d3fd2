"""First starts that are killed with SIGKILL, each a step later than the one before; after each the next start.

A step is a change to the folder or an SQL statement, of which only every twentieth counts. Argument: an empty folder.
Writes a line for each: whether the killed start left a database, and what the folder holds after the next start.
"""

import asyncio
import os
import signal
import sys
import threading
import traceback
from itertools import count
from pathlib import Path
from types import FrameType
from typing import Any

from quern.store.database import Database

STATEMENTS_OF_A_STEP = 20
CHANGES = {"os.mkdir", "os.remove", "os.rename", "sqlite3.connect"}


async def start(file: Path) -> None:
    """What a server does with its database when it starts, and when it ends."""
    database = Database(f"sqlite+aiosqlite:///{file}")
    await database.open()
    await database.close()


class Killer:
    """Kills this process before the given step in a folder."""

    def __init__(self, folder: Path, step: int) -> None:
        self._folder, self._left, self._statements, self._there = str(folder), step, 0, False
        sys.addaudithook(self._look)
        sys.setprofile(self._profile)
        threading.setprofile(self._profile)

    def _look(self, event: str, arguments: tuple[Any, ...]) -> None:
        writes = event == "open" and isinstance(arguments[2], int) and bool(arguments[2] & (os.O_WRONLY | os.O_RDWR))
        if event in CHANGES or writes:
            there = self._folder in str(arguments[0])
            if event == "sqlite3.connect":
                self._there = there
            if there:
                self._step()

    def _profile(self, _: FrameType, event: str, called: Any) -> None:
        if event == "c_call" and self._there and called.__qualname__ == "Cursor.execute":
            self._statements += 1
            if self._statements % STATEMENTS_OF_A_STEP == 0:
                self._step()

    def _step(self) -> None:
        self._left -= 1
        if self._left < 0:
            os.kill(os.getpid(), signal.SIGKILL)


def run(file: Path, step: int | None = None) -> int:
    """Start in a process of its own; its exit status."""
    child = os.fork()
    if child == 0:
        if step is not None:
            Killer(file.parent, step)
        status = 1
        try:
            asyncio.run(start(file))
            status = 0
        finally:  # this process must not go on as its parent
            if status:
                traceback.print_exc()
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def main(folder: Path) -> None:
    """Kill ever later, until a start gets through."""
    for step in count():
        file = folder / str(step) / "quern.db"
        status = run(file, step)
        if status != -signal.SIGKILL:
            sys.exit(status)
        left = file.exists()
        again = run(file)
        names = sorted(path.name for path in file.parent.iterdir())
        sys.stdout.write(f"{status} {left} {again} {' '.join(names)}\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
