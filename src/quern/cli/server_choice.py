"""Which server a client command talks to: one rule for all of them.

First wins: `--server`, the variable QUERN_SERVER, the port in the variable QUERN_SERVER__PORT, the server that runs on
the data directory, the address that `quern serve` would listen on.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from quern.cli.running_server import find, url_of
from quern.config import Settings
from quern.config_sources import load_settings, port_is_given
from quern.environment import server_of_clients

ServerUrl = Annotated[
    str | None,
    typer.Option(
        "--server",
        metavar="URL",
        help="Address of the server; the one that runs on the data directory if not given (see docs/operations.md).",
        show_default=False,
    ),
]
DataDir = Annotated[Path | None, typer.Option(help="The data directory whose server is meant.", show_default=False)]


def server_address(option: str | None, data_dir: Path | None = None) -> str:
    """The address of the server to talk to; `option` and `data_dir` are those of the command line.

    Raises ConfigError where the settings can't be read.
    """
    named = option or (server_of_clients() if data_dir is None else None)
    if named is not None:
        return named
    settings = settings_of(data_dir)
    configured = url_of(settings.server.host, settings.server.port)
    if data_dir is None and settings.server.port and port_is_given():
        return configured
    running = find(settings.data_dir)
    return running.url if running is not None else configured


def settings_of(data_dir: Path | None, config: Path | None = None) -> Settings:
    """The settings, with the data directory and the configuration file of the command line. Raises ConfigError."""
    return load_settings(config, {"data_dir": data_dir} if data_dir is not None else {})
