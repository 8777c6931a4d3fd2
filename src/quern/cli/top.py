"""`quern top`: what runs and what waits, live."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Annotated, Any

import typer
from rich import box
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from quern.cli.administration import administer
from quern.cli.running_server import find
from quern.cli.server_choice import DataDir, settings_of
from quern.errors import ServerUnreachable

ACTIVITY = "/v1/admin/activity"
MOST_ROWS = 40


def top(
    interval: Annotated[float, typer.Option(help="Seconds between two frames.", min=0.1, max=60)] = 1.0,
    once: Annotated[bool, typer.Option("--once", help="Print one frame and end.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one frame as JSON and end.")] = False,
    data_dir: DataDir = None,
) -> None:
    """Show live what the server of the data directory does: engine, keys, sequences, queue. Ctrl-C ends it.

    Examples:

    - `quern top`

    - `quern top --once`
    """
    if as_json:
        print(json.dumps(_activity(data_dir), indent=2))
    elif once:
        Console(soft_wrap=True).print(frame(_activity(data_dir), MOST_ROWS))
    else:
        _live(interval, data_dir)


def _live(interval: float, data_dir: Path | None) -> None:
    console = Console()
    pause = threading.Event()
    with Live(console=console, screen=console.is_terminal, auto_refresh=False) as live:
        while True:
            live.update(frame(_activity(data_dir), max(1, console.height - 12)), refresh=True)
            pause.wait(interval)


def _activity(data_dir: Path | None) -> dict[str, Any]:
    folder = settings_of(data_dir).data_dir
    if find(folder) is None:
        raise ServerUnreachable(f"No server runs on {folder}, so there is nothing to show. Start one: `quern serve`.")
    return administer("GET", ACTIVITY, data_dir=data_dir)


def frame(now: dict[str, Any], rows: int) -> RenderableType:
    """A moment for a terminal, with at most so many turns."""
    parts: list[RenderableType] = [Text(_engine(now))]
    if now["keys"]:
        parts.append(_keys(now["keys"]))
        parts.append(_turns(now["turns"][:rows]))
    if len(now["turns"]) > rows:
        parts.append(Text(f"… and {len(now['turns']) - rows} more"))
    return Group(*parts)


def _engine(now: dict[str, Any]) -> str:
    engine = now["engine"]
    state = "stopping" if now["stopping"] else engine["state"]
    if engine["state"] == "loading":
        state += f" {engine['load_progress']:.0%}"
    speed = sum(key["tokens_per_second"] for key in now["keys"])
    counts = f"{engine['running']} of {engine['parallel'] or '?'} running, {engine['waiting']} waiting in the engine"
    lines = [
        f"{engine['model'] or 'no model yet'} on {engine['name'] or 'no engine yet'}: {state}",
        f"{counts}, {speed:.1f} tokens/s",
    ]
    if (blocks := engine["kv_blocks"]) is not None:
        lines.append(f"KV blocks: {blocks['used']} used, {blocks['cached']} cached, {blocks['free']} free")
    return "\n".join(lines)


def _keys(keys: list[dict[str, Any]]) -> Table:
    table = _table(("key", "left"), ("running", "right"), ("waiting", "right"), ("tokens/s", "right"))
    for key in keys:
        table.add_row(Text(key["key"]), str(key["running"]), str(key["waiting"]), f"{key['tokens_per_second']:.1f}")
    return table


def _turns(turns: list[dict[str, Any]]) -> Table:
    names = ("turn", "key", "priority", "state")
    numbers = ("age", "prompt", "cached", "done", "answer", "tokens/s")
    table = _table(*((name, "left") for name in names), *((name, "right") for name in numbers))
    for turn in turns:
        speed = turn["tokens_per_second"]
        table.add_row(
            turn["id"][:8],
            Text(turn["key"]),
            turn["priority"],
            turn["state"],
            f"{turn['age_seconds']:.1f}s",
            str(turn["prompt_tokens"]),
            str(turn["cached_tokens"]),
            f"{turn['prefilled_tokens'] / max(1, turn['prompt_tokens']):.0%}",
            f"{turn['generated_tokens']}/{turn['max_tokens']}",
            f"{speed:.1f}" if speed is not None else "",
        )
    return table


def _table(*columns: tuple[str, Any]) -> Table:
    table = Table(box=box.SIMPLE_HEAD)
    for name, side in columns:
        table.add_column(name, justify=side, no_wrap=True)
    return table
