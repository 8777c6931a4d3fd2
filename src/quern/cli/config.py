"""`quern config`: the settings' file, and the settings in force."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from quern.cli.config_file import in_force, template
from quern.cli.server_choice import DataDir
from quern.config_sources import load_settings, origins
from quern.errors import ConfigError

config = typer.Typer(
    name="config",
    help="Write a configuration file, or show the settings in force.\n\nExample: quern config init",
    no_args_is_help=True,
)


@config.command()
def init(
    file: Annotated[Path, typer.Argument(help="The file to write; - for standard output.")] = Path("quern.toml"),
    force: Annotated[bool, typer.Option("--force", help="Replace the file where there is one.")] = False,
) -> None:
    """Write a TOML file with every setting, its default and what it means, all commented out.

    Examples:

    - `quern config init`

    - `quern config init /etc/quern.toml`
    """
    if str(file) == "-":
        sys.stdout.write(template())
        return
    try:
        with file.open("w" if force else "x", encoding="utf-8") as opened:
            opened.write(template())
    except FileExistsError as error:
        raise ConfigError(
            f"There is a file {file} already, and it was left as it is. Choose another name, or replace it with "
            f"--force."
        ) from error
    except OSError as error:
        raise ConfigError(f"The file {file} can't be written: {error.strerror}.") from error
    typer.echo(f"Wrote {file}. Take the # away from what you change, then start with `quern serve --config {file}`.")


@config.command()
def show(
    config: Annotated[Path | None, typer.Option(help="A TOML file with settings.", show_default=False)] = None,
    data_dir: DataDir = None,
) -> None:
    """Print every setting as `quern serve` with the same options would have it, and where it comes from.

    Secrets are hidden.

    Example: quern config show --config /etc/quern.toml
    """
    overrides = {"data_dir": data_dir} if data_dir is not None else {}
    settings = load_settings(config, overrides)
    typer.echo(in_force(settings, origins(config, overrides)))
