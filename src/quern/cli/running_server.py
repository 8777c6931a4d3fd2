"""The server of a data directory, while it runs: found by its clients, and alone.

`server.lock` is locked by it until its process ends, however it ends; `server.json` says where it is. A file of a
server that was killed is told by the lock that nobody holds.
"""

from __future__ import annotations

import json
import os
import shlex
import time
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import filelock

from quern.errors import StoreError

LOCK_NAME, STATE_NAME = "server.lock", "server.json"
CLAIM_SECONDS = 0.5
"""Who looks whether a server runs holds the lock for a moment."""

ANNOUNCED_SECONDS = 2.0
"""Within this a server that has just taken the lock says where it is."""

POLL_SECONDS = 0.05
ENDED_STATES = frozenset("ZX")
ANY_ADDRESS = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 (translated, not bound)


@dataclass(frozen=True, slots=True)
class RunningServer:
    """Where the clients of this machine find a server, and its process.

    `process_start`: when that began, in the kernel's ticks, since a pid may be another process's by now; `started_at`:
    the same as seconds since 1970.
    """

    url: str
    pid: int
    process_start: int
    started_at: float

    @property
    def alive(self) -> bool:
        """Whether the process still runs, seen from here: in another container it does not."""
        return process_start(self.pid) == self.process_start

    def __str__(self) -> str:
        return f"{self.url} (pid {self.pid})"


class Claim:
    """The data directory is this process's."""

    def __init__(self, state: Path) -> None:
        self._state = state

    def announce(self, url: str) -> None:
        """Tell clients, and servers that come too late, where this one is. Raises OSError."""
        pid = os.getpid()
        server = RunningServer(url, pid, process_start(pid) or 0, time.time())
        draft = self._state.with_name(f"{self._state.name}.new")
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            json.dump(asdict(server), file)
        draft.replace(self._state)


@contextmanager
def claimed(data_dir: Path) -> Generator[Claim]:
    """Be the only server of a data directory, which is created where it is missing, as long as the block lasts.

    Raises StoreError, with the other server's address, where one runs there, or where the directory can't be used.
    """
    state = data_dir / STATE_NAME
    lock = _lock(data_dir, CLAIM_SECONDS)
    try:
        data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock.acquire()
        state.unlink(missing_ok=True)
    except filelock.Timeout as error:
        raise StoreError(in_use(data_dir, find(data_dir))) from error
    except OSError as error:
        lock.release()
        raise StoreError(
            f"The data directory {data_dir} can't be used: {error.strerror or error}. Check it and the disk it is on, "
            f"or choose another one with --data-dir (setting data_dir)."
        ) from error
    try:
        yield Claim(state)
    finally:
        state.unlink(missing_ok=True)
        lock.release()


def in_use(data_dir: Path, server: RunningServer | None) -> str:
    """The sentence for a server that comes too late; `server` is the first one, where it is known."""
    where = f" at {server}" if server is not None else ""
    command = f"quern stop --data-dir {shlex.quote(str(data_dir))}"
    return (
        f"A Quern server runs on the data directory {data_dir} already{where}, and two on one would spoil each other's "
        f"conversations. Use that one, end it with `{command}`, or give this one another directory with --data-dir "
        f"(setting data_dir)."
    )


def find(data_dir: Path) -> RunningServer | None:
    """The server that runs on a data directory; None where none does, or none that may be seen from here."""
    deadline = time.monotonic() + ANNOUNCED_SECONDS
    while _held(data_dir):
        server = _read(data_dir / STATE_NAME)
        if server is not None or time.monotonic() > deadline:
            return server
        time.sleep(POLL_SECONDS)
    return None


def url_of(host: str, port: int) -> str:
    """Where clients of this machine find a server that listens on an address."""
    host = ANY_ADDRESS.get(host, host)
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def process_start(pid: int) -> int | None:
    """When a process began, in ticks since the machine's start; None for one that has ended or can't be seen.

    Source of the format: "/proc/pid/stat" in Linux' proc(5).
    """
    try:
        state, *fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    except OSError:
        return None
    return None if state in ENDED_STATES else int(fields[18])


def _lock(data_dir: Path, timeout: float) -> filelock.FileLock:
    return filelock.FileLock(data_dir / LOCK_NAME, timeout=timeout, mode=0o600, fallback_to_soft=False)


def _held(data_dir: Path) -> bool:
    if not (data_dir / LOCK_NAME).exists():
        return False
    try:
        with _lock(data_dir, 0):
            return False
    except filelock.Timeout:
        return True
    except OSError:
        return False


def _read(state: Path) -> RunningServer | None:
    try:
        return RunningServer(**json.loads(state.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None
