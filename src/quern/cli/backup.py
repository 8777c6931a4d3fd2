"""`quern backup`, `quern restore` and `quern vacuum`: copies of the database, and the database without its gaps."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Annotated

import typer

from quern.cli.running_server import LOCK_NAME, claimed
from quern.cli.server_choice import DataDir, settings_of
from quern.config import LogLevel, LogSettings, Settings
from quern.errors import StoreError
from quern.models.progress import format_bytes
from quern.obs.logging import configure_logging
from quern.store import backup as copies
from quern.store import sqlite
from quern.store.database import Database
from quern.store.vacuum import rebuild

ConfigFile = Annotated[
    Path | None,
    typer.Option("--config", help="The TOML file that the server has its settings from.", show_default=False),
]


def backup(
    file: Annotated[Path, typer.Argument(help="The file to write.", show_default=False)],
    data_dir: DataDir = None,
    config: ConfigFile = None,
    force: Annotated[bool, typer.Option("--force", help="Replace the file where there is one.")] = False,
) -> None:
    """Copy the database to a file, whether a server runs on it or not.

    The copy is one moment's and is checked: SQLite reads all of it, and the schema's revision and every table's number
    of rows are those of the database. The file is there whole or not at all, with mode 0600.

    Examples:

    - `quern backup quern-monday.db`

    - `quern backup --config /etc/quern.toml --force /srv/backups/quern.db`
    """
    database = _database_file(settings_of(data_dir, config), "use `pg_dump`, while the server runs or not")
    copied = copies.back_up(database, file.expanduser().absolute(), replace=force)
    typer.echo(f"Wrote {file}: {_contents(copied)}, checked.")


def restore(
    file: Annotated[Path, typer.Argument(help="A file that `quern backup` wrote.", show_default=False)],
    data_dir: DataDir = None,
    config: ConfigFile = None,
) -> None:
    """Put a backup in the database's place, while no server runs.

    The file is checked first. The database that was there is kept beside it under another name.

    Example: quern restore quern-monday.db
    """
    settings = settings_of(data_dir, config)
    database = _database_file(settings, "end the server with `quern stop`, then use `pg_restore`")
    with claimed(settings.data_dir):
        lock = sqlite.claim(database)
        try:
            copied, kept = copies.restore(file.expanduser().absolute(), database)
            for made in (settings.data_dir / LOCK_NAME, Path(lock.lock_file)):
                copies.give_to_owner_of_folder(made)
        finally:
            lock.release()
    typer.echo(f"Restored {database} from {file}: {_contents(copied)}, checked.")
    if kept is not None:
        typer.echo(f"The database that was there is {kept} now; remove it once you don't need it.")


def vacuum(data_dir: DataDir = None, config: ConfigFile = None) -> None:
    """Write the database anew without what was deleted, while no server runs.

    A database of this version gives the disk of what is deleted back by itself. One of an earlier version does so once
    it was written anew; where it is small, the next start has done that already. Takes about twice the database's size
    on the disk for the time being.

    Example: quern vacuum
    """
    settings = settings_of(data_dir, config)
    file = _database_file(settings, "`VACUUM FULL`")
    with claimed(settings.data_dir):
        before, after = asyncio.run(_rebuilt(settings))
    typer.echo(f"Wrote {file} anew: {format_bytes(before)} before, {format_bytes(after)} now.")


async def _rebuilt(settings: Settings) -> tuple[int, int]:
    configure_logging(LogSettings(level=LogLevel.WARNING))
    database = Database(settings.database_url)
    await database.open()
    try:
        return await rebuild(database)
    finally:
        await database.close()


def _database_file(settings: Settings, instead: str) -> Path:
    file = Database(settings.database_url).file
    if file is None:
        raise StoreError(
            f"The setting store.url names a PostgreSQL database, for which this is PostgreSQL's own business: "
            f"{instead}."
        )
    return file


def _contents(copied: copies.Copied) -> str:
    conversations, turns = copied.rows.get("conversations", 0), copied.rows.get("turns", 0)
    return f"{format_bytes(copied.size)}, {conversations} conversations, {turns} turns, schema {copied.revision}"
