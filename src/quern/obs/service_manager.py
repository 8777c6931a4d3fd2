"""What systemd and a service say to each other: states and watchdog over a datagram socket, sockets that were opened.

Sources: sd_notify(3) for the states and the socket, sd_watchdog_enabled(3), sd_listen_fds(3). Where there is no systemd
everything here does nothing.
"""

from __future__ import annotations

import asyncio
import os
import socket
import time
from collections.abc import Callable, Mapping
from math import ceil

import structlog

from quern.environment import service_manager_variables

log = structlog.get_logger(__name__)

FIRST_PASSED = 3
"""The file descriptor of the first socket that is passed."""

LONGEST_STATUS = 200
PROGRESS_SECONDS = 1.0
"""At least so long between two messages about how far the start is."""

EXTENSION_SECONDS = 120.0
"""How long the start may take from each sign that it goes on."""


class ServiceManager:
    """The service's side of the conversation. Every message is sent or dropped at once; none may hold anything up.

    `variables`: what systemd set in the environment. `clock`: in seconds, CLOCK_MONOTONIC.
    """

    def __init__(self, variables: Mapping[str, str] | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        self._variables = service_manager_variables() if variables is None else variables
        self._clock = clock
        self._progress_at = -PROGRESS_SECONDS
        name = self._variables.get("NOTIFY_SOCKET", "")
        # "@" stands for the zero of an address that is no file.
        self._address = f"\0{name[1:]}" if name.startswith("@") else name
        self._socket = self._open() if self._address else None

    def close(self) -> None:
        """Say nothing more."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _open(self) -> socket.socket:
        opened = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
        opened.setblocking(False)
        return opened

    @property
    def watchdog_seconds(self) -> float | None:
        """Within how long the watchdog has to be fed; None where it isn't meant for this process, or there is none."""
        text, pid = self._variables.get("WATCHDOG_USEC", ""), self._variables.get("WATCHDOG_PID")
        if self._socket is None or not text.isdecimal() or int(text) == 0 or pid not in {None, str(os.getpid())}:
            return None
        return int(text) / 1e6

    def progress(self, status: str) -> None:
        """The start goes on: say how far, and ask for more time."""
        now = self._clock()
        if now - self._progress_at >= PROGRESS_SECONDS:
            self._progress_at = now
            self._send(_status(status), _more_time(EXTENSION_SECONDS))

    def ready(self, status: str) -> None:
        """The service serves, or it does so again after `reloading`."""
        self._send("READY=1", _status(status))

    def reloading(self) -> None:
        """The settings are being read anew; `ready` has to follow."""
        self._send("RELOADING=1", f"MONOTONIC_USEC={int(self._clock() * 1e6)}", _status("Reading the settings anew"))

    def stopping(self, status: str, seconds: float) -> None:
        """The service ends, which may take so long."""
        self._send("STOPPING=1", _status(status), _more_time(seconds))

    async def feed_watchdog(self, silent_seconds: Callable[[], float], most: float) -> None:
        """Feed the watchdog twice in its time, from the event loop, until cancelled.

        It starves when the loop stands, and when the engine has been silent for more than `most` seconds.
        """
        seconds = self.watchdog_seconds
        if seconds is None:
            return
        stuck = False
        while True:
            silent = silent_seconds()
            if silent <= most:
                self._send("WATCHDOG=1")
            elif not stuck:
                log.error("engine_stuck", silent_seconds=round(silent, 1), most=most, setting="engine.stuck_seconds")
            stuck = silent > most
            await asyncio.sleep(seconds / 2)

    def listeners(self) -> list[socket.socket]:
        """The stream sockets that systemd opened for this process, in its order; the caller's from now on.

        Children don't inherit them. Sockets of other kinds are left alone, with a warning in the log.
        """
        count = self._variables.get("LISTEN_FDS", "")
        if self._variables.get("LISTEN_PID") != str(os.getpid()) or not count.isdecimal():
            return []
        found: list[socket.socket] = []
        for descriptor in range(FIRST_PASSED, FIRST_PASSED + int(count)):
            try:
                os.set_inheritable(descriptor, False)
                passed = socket.socket(fileno=descriptor)
            except OSError as error:
                log.warning("no_passed_socket", descriptor=descriptor, reason=error.strerror)
                continue
            if passed.type is socket.SOCK_STREAM and passed.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
                found.append(passed)
            else:
                passed.detach()
                log.warning("no_passed_socket", descriptor=descriptor, reason="nobody can connect to it")
        return found

    def _send(self, *lines: str) -> None:
        if self._socket is None:
            return
        try:
            self._socket.sendto("\n".join(lines).encode(), self._address)
        except OSError as error:
            log.warning("service_manager_not_told", what=lines[0], reason=error.strerror)


def _status(text: str) -> str:
    return f"STATUS={' '.join(text.split())[:LONGEST_STATUS]}"


def _more_time(seconds: float) -> str:
    return f"EXTEND_TIMEOUT_USEC={ceil(seconds * 1e6)}"
