"""The control socket: HTTP for whoever runs the server, over a Unix socket in its data directory.

Who may open the file is who the server belongs to (and root): its mode is 0600, and where a file system ignores modes
the kernel still says whose process is at the other end. So what comes over it needs no key, and the ASGI scope says
that it came over it: `scope["state"]["local"]`, which nothing in a request can set.
"""

from __future__ import annotations

import os
import socket
import stat
import struct
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import structlog

log = structlog.get_logger(__name__)

SOCKET_NAME = "quern.sock"
LOCAL = "local"
"""The key in `scope["state"]`; it is there, and true, for requests over the control socket only."""

LONGEST_ADDRESS = 107
"""Bytes. Source: `sun_path` in Linux' unix(7), with the zero at its end."""

ANSWERS_WITHIN_SECONDS = 1.0
NO_ACCESS_FOR_OTHERS = 0o177


def is_local(scope: Mapping[str, Any]) -> bool:
    """Whether a request came over the control socket."""
    state: Mapping[str, Any] = scope.get("state") or {}
    return state.get(LOCAL) is True


@contextmanager
def address_of(path: Path) -> Generator[str]:
    """What `bind` and `connect` take for a path of any length, while the block lasts. Raises OSError.

    A longer path than an address may have is reached through its folder's descriptor.
    """
    if len(os.fsencode(path)) <= LONGEST_ADDRESS:
        yield str(path)
        return
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield f"/proc/self/fd/{folder}/{path.name}"
    finally:
        os.close(folder)


def answers(path: Path) -> bool:
    """Whether a server listens at a Unix socket."""
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(ANSWERS_WITHIN_SECONDS)
        try:
            with address_of(path) as address:
                client.connect(address)
        except TimeoutError:  # its line is full
            return True
        except OSError:
            return False
    return True


@contextmanager
def control_socket(data_dir: Path) -> Generator[socket.socket | None]:
    """The control socket of a data directory, bound and not yet listening; its file is gone after the block.

    The directory is this process's. What a killed server left there is replaced. None, with a warning in the log, where
    there can't be one: something else is there, or the file system has no sockets.
    """
    path = data_dir / SOCKET_NAME
    try:
        listener = _bind(path)
    except OSError as error:
        log.warning("no_control_socket", path=str(path), reason=error.strerror or str(error))
        yield None
        return
    mine = path.stat().st_ino
    try:
        yield listener
    finally:
        listener.close()
        _remove(path, mine)


def _bind(path: Path) -> socket.socket:
    _make_room(path)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    umask = os.umask(NO_ACCESS_FOR_OTHERS)
    try:
        with address_of(path) as address:
            listener.bind(address)
    except OSError:
        listener.close()
        raise
    finally:
        os.umask(umask)
    return listener


def _make_room(path: Path) -> None:
    """Remove the socket of a server that is gone. Raises OSError where what is there is something else."""
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise FileExistsError(0, "there is a file of that name that is no socket; move it away")
    if answers(path):
        raise FileExistsError(0, "another program listens there")
    path.unlink()


def _remove(path: Path, inode: int) -> None:
    try:
        if path.lstat().st_ino == inode:
            path.unlink()
    except OSError as error:
        log.debug("control_socket_left", path=str(path), reason=error.strerror)


def peer_is_trusted(connection: socket.socket) -> bool:
    """Whether the process at the other end of a Unix socket is this one's user's, or root's.

    Source of the structure: SO_PEERCRED in Linux' unix(7). A system without it has the file's mode alone.
    """
    if not hasattr(socket, "SO_PEERCRED"):
        return True
    credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    _, user, _ = struct.unpack("3i", credentials)
    return user in {0, os.geteuid()}
