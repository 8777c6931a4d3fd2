"""`quern engines`: the environments of engines that have one of their own, and making and removing them."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from quern.cli.progress import progress_display
from quern.config_sources import load_settings
from quern.engine.environments.catalog import CATALOG, EnvironmentEntry, find
from quern.engine.environments.install import install as install_environment
from quern.engine.environments.install import needs
from quern.engine.environments.install import remove as remove_environment
from quern.engine.environments.place import Found, Installed, look
from quern.models.progress import format_bytes

DataDir = Annotated[Path | None, typer.Option(help="Where models and the database live.")]
Config = Annotated[Path | None, typer.Option(help="A TOML file with settings.")]
Name = Annotated[str, typer.Argument(help="An environment's name (see `quern engines`).")]

engines = typer.Typer(
    no_args_is_help=False,
    help=(
        "List the environments of vLLM and Transformers, which are gigabytes and no part of Quern.\n\n"
        "Example: quern engines install vllm"
    ),
)


@engines.callback(invoke_without_command=True)
def list_engines(
    context: typer.Context,
    as_json: Annotated[bool, typer.Option("--json", help="Print everything as JSON.")] = False,
    data_dir: DataDir = None,
    config: Config = None,
) -> None:
    """List the environments: which are there, in which version, where. Not on a terminal: columns separated by tabs."""
    if context.invoked_subcommand is not None:
        return
    engines_dir = _engines_dir(data_dir, config)
    rows = [(entry, look(entry, engines_dir)) for entry in CATALOG]
    if as_json:
        print(json.dumps([_as_json(entry, found) for entry, found in rows], indent=2))
    elif sys.stdout.isatty():
        Console().print(_table(rows))
    else:
        print("name", "installed", "version", "bytes", "path", sep="\t")
        for entry, found in rows:
            print(entry.name, found.state.value, found.version, found.disk, found.path, sep="\t")


@engines.command()
def install(
    name: Name,
    cpu: Annotated[bool, typer.Option("--cpu", help="PyTorch's build without CUDA, a quarter of the size.")] = False,
    upgrade: Annotated[bool, typer.Option("--upgrade", help="Replace other versions by this Quern's.")] = False,
    data_dir: DataDir = None,
    config: Config = None,
) -> None:
    """Make an environment, from the package index that pip is set up for, and print its path.

    Example: quern engines install transformers --cpu
    """
    entry = find(name)
    engines_dir = _engines_dir(data_dir, config)
    try:
        with progress_display() as progress:
            found = install_environment(entry, engines_dir, cpu=cpu, upgrade=upgrade, progress=progress)
    except KeyboardInterrupt:
        print("Stopped. Nothing was changed.", file=sys.stderr)
        raise
    print(found.path)


@engines.command()
def remove(name: Name, data_dir: DataDir = None, config: Config = None) -> None:
    """Remove an environment that `quern engines install` made.

    Example: quern engines remove vllm
    """
    entry = find(name)
    freed = remove_environment(entry, _engines_dir(data_dir, config))
    print(f"{entry.name}: {format_bytes(freed)} are free again." if freed else f"{entry.name} is not installed.")


def _engines_dir(data_dir: Path | None, config: Path | None) -> Path:
    return load_settings(config, {} if data_dir is None else {"data_dir": data_dir}).engines_dir


def _as_json(entry: EnvironmentEntry, found: Found) -> dict[str, object]:
    return {
        "name": entry.name,
        "title": entry.title,
        "installed": found.state.value,
        "version": found.version or None,
        "path": str(found.path) if found.state is not Installed.NO else None,
        "disk": found.disk,
        "needs": needs(entry).total,
        "requirements": list(entry.requirements),
    }


def _table(rows: list[tuple[EnvironmentEntry, Found]]) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0))
    for title in ("Name", "Installed", "Version", "Disk", "Where"):
        table.add_column(title, no_wrap=title != "Where", overflow="fold")
    for entry, found in rows:
        there = found.state is not Installed.NO
        disk = format_bytes(found.disk) if found.disk else "" if there else f"needs ~{format_bytes(needs(entry).total)}"
        where = str(found.path) if there else entry.title
        table.add_row(entry.name, found.state.value, found.version, disk, where, style="bold" if there else "")
    return table
