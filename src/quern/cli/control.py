"""Speaking to the running server over its control socket, as its administrator and without a key."""

from __future__ import annotations

import os
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2

from quern.cli.running_server import find
from quern.client.failures import refusal, translated
from quern.errors import ServerUnreachable
from quern.http_server.control_socket import SOCKET_NAME, address_of

CONNECT_SECONDS = 5.0
ANSWER_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class ControlClient:
    """Requests to one server, each on a connection of its own. `where`: what sentences call the server."""

    http: httpx2.Client
    where: str

    def request(self, method: str, path: str, **options: Any) -> httpx2.Response:
        """A response that is a success, read whole; `options` are httpx2's.

        Raises ServerRefused, ServerUnreachable or AnswerBroken.
        """
        with translated(self.where):
            response = self.http.request(method, path, **options)
        if not response.is_success:
            raise refusal(response)
        return response


@contextmanager
def control(data_dir: Path) -> Generator[ControlClient | None]:
    """A client for the server that runs on a data directory; None where none runs, so that its files may be opened.

    Raises ServerUnreachable where one runs whose control socket can't be opened: it has none, or is another user's.
    """
    running = find(data_dir)
    if running is None:
        yield None
        return
    path = data_dir / SOCKET_NAME
    if not has_control_socket(data_dir):
        raise ServerUnreachable(
            f"The server at {running} has no control socket at {path}: its file system has no sockets (the server's "
            f"log says so), or this user may not look there. Try it as the server's user, or as root."
        )
    with address_of(path) as address:
        transport = httpx2.HTTPTransport(uds=address)
        timeout = httpx2.Timeout(CONNECT_SECONDS, read=ANSWER_SECONDS)
        with httpx2.Client(transport=transport, base_url="http://localhost", timeout=timeout) as http:
            yield ControlClient(http, f"{running}, at its control socket {path}")


def has_control_socket(data_dir: Path) -> bool:
    """Whether there is one that this user may connect to."""
    try:
        return (data_dir / SOCKET_NAME).is_socket() and os.access(data_dir / SOCKET_NAME, os.R_OK | os.W_OK)
    except OSError:
        return False
