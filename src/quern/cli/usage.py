"""`quern usage`: who has used how much, by day and model."""

from __future__ import annotations

import csv
import json
import sys
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any

import typer
from rich import box
from rich.table import Table

from quern.cli.administration import administer
from quern.cli.server_choice import DataDir
from quern.cli.terminal import table_console

MIB = 2**20
COLUMNS = ("day", "key", "model", "requests", "prompt_tokens", "cached_tokens", "completion_tokens", "compute_seconds")


def usage(
    days: Annotated[int, typer.Option(help="How many days, today included.", min=1, max=3660)] = 30,
    key: Annotated[str | None, typer.Option(help="Only the key of this name or id.", show_default=False)] = None,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print comma-separated values.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print everything as JSON.")] = False,
    data_dir: DataDir = None,
) -> None:
    """Show requests, tokens and compute time by day, key and model, and what keys have stored. Days are UTC's.

    Examples:

    - `quern usage --days 7`

    - `quern usage --csv > usage.csv`
    """
    today = datetime.now(UTC).date()
    first = today - timedelta(days=days - 1)
    found = administer("GET", "/v1/usage", data_dir=data_dir, **{"from": str(first)})
    rows: list[dict[str, Any]] = found["data"]
    stored: list[dict[str, Any]] = [
        row for row in found["storage"] if key is None or key in {row["key"], row["key_id"]}
    ]
    rows = [row for row in rows if key is None or key in {row["key"], row["key_id"]}]
    if as_json:
        print(json.dumps(rows, indent=2))
        return
    if as_csv:
        writer = csv.DictWriter(sys.stdout, [*COLUMNS, "key_id"])
        writer.writeheader()
        writer.writerows(rows)
        return
    if rows:
        table_console().print(_table(rows))
    else:
        typer.echo("Nothing was used in these days.")
    for row in (one for one in stored if key is None or key in {one["key"], one["key_id"]}):
        limit = f" of {row['limit_bytes'] / MIB:g}" if row["limit_bytes"] is not None else ""
        typer.echo(f"{row['key']} has {row['bytes'] / MIB:.3g}{limit} MiB of text stored.")


def _table(rows: list[dict[str, Any]]) -> Table:
    table = Table(box=box.SIMPLE_HEAD)
    for column in COLUMNS:
        numbers = column not in {"day", "key", "model"}
        table.add_column(column.replace("_", " "), justify="right" if numbers else "left", overflow="fold")
    for row in rows:
        table.add_row(*(_cell(row[column]) for column in COLUMNS))
    return table


def _cell(value: object) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:,.1f}" if isinstance(value, float) else str(value)
