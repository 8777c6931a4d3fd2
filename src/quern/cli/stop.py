"""`quern stop`: end the server of a data directory."""

from __future__ import annotations

import os
import signal
import time
from typing import Annotated

import typer

from quern.cli.running_server import POLL_SECONDS, RunningServer, find
from quern.cli.server_choice import DataDir, settings_of

BETWEEN_SIGNALS_SECONDS = 0.3
"""Two signals of a kind that come at once are one."""

AFTER_GRACE_SECONDS = 30.0
"""After the turns the connections end, and the engine closes."""


def stop(
    data_dir: DataDir = None,
    now: Annotated[bool, typer.Option("--now", help="Don't let running turns finish; their text is kept.")] = False,
    timeout: Annotated[
        float | None,
        typer.Option(min=0, metavar="SECONDS", help="How long to wait for the end.", show_default=False),
    ] = None,
) -> None:
    """End the server that runs on the data directory, and wait until it has ended.

    Running turns have `server.shutdown_grace_seconds` to finish. Exits with 0 where the server has ended or none ran,
    and with 1 where it can't be stopped or still runs after the time to wait.

    Examples:

    - `quern stop`

    - `quern stop --data-dir /srv/quern --now`
    """
    settings = settings_of(data_dir)
    server = find(settings.data_dir)
    if server is None:
        typer.echo(f"No server runs on the data directory {settings.data_dir}, so there is nothing to stop.")
        return
    if not server.alive:
        raise _failed(
            f"A server holds the data directory {settings.data_dir}, but its process (pid {server.pid}) is not to be "
            f"seen from here: perhaps it runs in a container. Stop it where it was started."
        )
    _signal(server)
    if now:
        time.sleep(BETWEEN_SIGNALS_SECONDS)
        _signal(server)
    else:
        typer.echo(f"Stopping the server at {server}. Running turns may finish first.", err=True)
    seconds = timeout if timeout is not None else settings.server.shutdown_grace_seconds + AFTER_GRACE_SECONDS
    began = time.monotonic()
    while server.alive:
        if time.monotonic() - began > seconds:
            raise _failed(
                f"The server at {server} still runs after {seconds:g} s, perhaps with a long answer. Wait for it, or "
                f"end it at once with `quern stop --now`."
            )
        time.sleep(POLL_SECONDS)
    typer.echo(f"Stopped the server at {server} after {time.monotonic() - began:.1f} s.")


def _signal(server: RunningServer) -> None:
    """Ask the server to end, unless it has ended already."""
    if not server.alive:
        return
    try:
        os.kill(server.pid, signal.SIGTERM)
    except PermissionError as error:
        raise _failed(f"The server at {server} is another user's. Stop it as that user, or as root.") from error


def _failed(sentence: str) -> typer.Exit:
    typer.echo(sentence, err=True)
    return typer.Exit(1)
