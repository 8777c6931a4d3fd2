"""`quern models` and `quern pull`: what there is, and getting it."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from quern.cli.progress import progress_display
from quern.config import Settings
from quern.config_sources import load_settings
from quern.errors import ModelError
from quern.models.catalog import CATALOG, CatalogEntry, SourceKind, find
from quern.models.integrity import read_manifest
from quern.models.locate import OnDisk, entry_path, on_disk
from quern.models.progress import format_bytes
from quern.models.pull import pull as pull_model

DataDir = Annotated[Path | None, typer.Option(help="Where models and the database live.")]
Config = Annotated[Path | None, typer.Option(help="A TOML file with settings.")]


def pull(
    name: Annotated[str, typer.Argument(help="A catalog name (see `quern models`).")],
    source: Annotated[SourceKind | None, typer.Option(help="Use only this source.")] = None,
    data_dir: DataDir = None,
    config: Config = None,
) -> None:
    """Fetch a model, or check the one that is here, and print its path.

    Example: quern pull qwen2.5-coder-1.5b
    """
    entry = find(name)
    settings = _settings(data_dir, config)
    try:
        with progress_display() as progress:
            path = pull_model(entry, settings.models_dir, progress=progress, sources=[source] if source else None)
    except KeyboardInterrupt:
        print("Stopped. What came is kept: the same command goes on from there.", file=sys.stderr)
        raise
    print(path)


def models(
    as_json: Annotated[bool, typer.Option("--json", help="Print everything as JSON.")] = False,
    data_dir: DataDir = None,
    config: Config = None,
) -> None:
    """List the models that have a name here. Not on a terminal: one line each, columns separated by tabs.

    Example: quern models --json
    """
    settings = _settings(data_dir, config)
    rows = [_row(entry, settings) for entry in CATALOG]
    if as_json:
        print(json.dumps([row.as_json() for row in rows], indent=2))
    elif sys.stdout.isatty():
        Console().print(_table(rows))
    else:
        _print_tabbed(rows)


@dataclass(frozen=True, slots=True)
class _Row:
    """One catalog entry and what this machine has of it. `size` is in bytes."""

    entry: CatalogEntry
    size: int
    size_exact: bool
    origin: str
    state: OnDisk
    path: Path
    default: bool

    def as_json(self) -> dict[str, Any]:
        entry = self.entry
        return {
            "name": entry.name,
            "title": entry.title,
            "description": entry.description,
            "parameters": entry.parameters,
            "architecture": entry.architecture,
            "quantisation": entry.quantisation,
            "size": self.size,
            "size_exact": self.size_exact,
            "licence": entry.licence,
            "context_length": entry.context_length,
            "sources": [source.kind.value for source in entry.sources],
            "on_disk": self.state.value,
            "path": str(self.path) if self.state is OnDisk.YES else None,
            "default": self.default,
        }


def _settings(data_dir: Path | None, config: Path | None) -> Settings:
    return load_settings(config, {} if data_dir is None else {"data_dir": data_dir})


def _row(entry: CatalogEntry, settings: Settings) -> _Row:
    path = entry_path(entry, settings.models_dir)
    try:
        state, manifest = on_disk(entry, settings.models_dir), read_manifest(path)
    except OSError as error:
        raise ModelError(
            f"{path.parent} can't be read: {error.strerror}. Make it readable, or use --data-dir."
        ) from error
    sources = ", ".join(source.kind.value for source in entry.sources)
    return _Row(
        entry=entry,
        size=manifest.size if manifest else entry.size,
        size_exact=entry.size_exact or manifest is not None,
        origin=manifest.source.value if manifest and state is OnDisk.YES else sources,
        state=state,
        path=path,
        default=entry.name == settings.model.name,
    )


def _table(rows: list[_Row]) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), caption="* the default", caption_justify="left")
    for title in ("Name", "Size", "Parameters", "Licence", "From", "On disk"):
        table.add_column(title, no_wrap=title not in {"Licence", "From"}, min_width=10 if title == "Licence" else None)
    for row in rows:
        name = f"{row.entry.name} *" if row.default else row.entry.name
        size = format_bytes(row.size) if row.size_exact else f"~{format_bytes(row.size)}"
        cells = (name, size, row.entry.parameters, row.entry.licence, row.origin, row.state.value)
        table.add_row(*cells, style="bold" if row.state is OnDisk.YES else "")
    return table


def _print_tabbed(rows: list[_Row]) -> None:
    print("name", "bytes", "parameters", "licence", "from", "on_disk", "default", sep="\t")
    for row in rows:
        default = "yes" if row.default else "no"
        cells = (
            row.entry.name,
            row.size,
            row.entry.parameters,
            row.entry.licence,
            row.origin,
            row.state.value,
            default,
        )
        print(*cells, sep="\t")
