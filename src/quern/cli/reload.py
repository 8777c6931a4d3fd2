"""`quern reload`: have the running server read its settings anew."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer

from quern.cli.control import control
from quern.cli.server_choice import DataDir, settings_of
from quern.errors import ConfigError, ServerRefused

BAD_REQUEST = 400


def reload(
    data_dir: DataDir = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print everything as JSON.")] = False,
) -> None:
    """Have the server read its configuration file, credentials and keys anew, and show what changed.

    Running turns are not touched. Exits with 2 where the settings can't be used, and those from before stay; with 1
    where no server runs.

    Example: quern reload --data-dir /srv/quern
    """
    folder = settings_of(data_dir).data_dir
    with control(folder) as running:
        if running is None:
            typer.echo(
                f"No server runs on the data directory {folder}, so there is nothing to reload: it reads its settings "
                f"when it starts. Start it with `quern serve`, or name another directory with --data-dir.",
                err=True,
            )
            raise typer.Exit(1)
        try:
            done = running.request("POST", "/v1/admin/reload").json()
        except ServerRefused as error:
            if error.status == BAD_REQUEST:
                raise ConfigError(str(error)) from error
            raise
    if as_json:
        print(json.dumps(done, indent=2))
    else:
        _show(done)
    if done["keys_kept"] is not None:
        typer.echo(f"The keys could not be read: {done['keys_kept']} Those from before hold.", err=True)
        raise typer.Exit(1)


def _show(done: dict[str, Any]) -> None:
    for name, value in done["changed"].items():
        typer.echo(f"{name}: {value['before']}, now {value['after']}")
    if not done["changed"]:
        typer.echo("No setting that a running server can take over has changed.")
    if done["need_restart"]:
        typer.echo(f"A restart is needed for: {', '.join(done['need_restart'])}")
