"""`quern keys`: who may use the server, and how much of it.

Where a server runs on the data directory it is told at once; where none does, the database is changed.
"""

from __future__ import annotations

import json
import math
import re
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any
from urllib.parse import quote

import typer
from rich import box
from rich.table import Table

from quern.cli.administration import administer
from quern.cli.server_choice import DataDir
from quern.cli.terminal import table_console
from quern.errors import ConfigError, KeyNotFound
from quern.records import KeyRole

keys = typer.Typer(
    help="Make, list and change the keys that open the server.\n\nExample: quern keys create anna", no_args_is_help=True
)

KEYS = "/v1/admin/keys"
DURATION = re.compile(r"0*([1-9][0-9]{0,8})([dh])", re.ASCII)
NEVER, DEFAULT = "never", "default"
UNITS = {"d": timedelta(days=1), "h": timedelta(hours=1)}

Key = Annotated[str, typer.Argument(help="A key's name or id.")]
Role = Annotated[KeyRole | None, typer.Option(help="`admin` may run the server too.", show_default=False)]
Weight = Annotated[
    float | None, typer.Option(help="The key's part where the server is shared; 1 is usual.", show_default=False)
]
Expires = Annotated[
    str | None,
    typer.Option(
        help="Until when it opens something: a date (2027-01-31), from now on (90d, 12h), or `never` for no end.",
        show_default=False,
    ),
]
Note = Annotated[str | None, typer.Option(help="What the key is for.", show_default=False)]
AsJson = Annotated[bool, typer.Option("--json", help="Print everything as JSON.")]


def _limit(what: str) -> Any:
    help_text = f"{what} at most; 0 is no limit, `default` is what the settings say."
    return typer.Option(help=help_text, metavar="NUMBER|default", show_default=False)


TurnsAtOnce = Annotated[str | None, _limit("Turns that run at once")]
TurnsWaiting = Annotated[str | None, _limit("Turns that wait")]
RequestsPerMinute = Annotated[str | None, _limit("Requests a minute")]
TokensPerMinute = Annotated[str | None, _limit("Tokens a minute")]
TokensPerDay = Annotated[str | None, _limit("Tokens a day")]
StorageMib = Annotated[str | None, _limit("MiB of text stored")]


@keys.command()
def create(
    name: Annotated[str, typer.Argument(help="Whose it is: a person, a script, an editor.")],
    role: Role = None,
    weight: Weight = None,
    expires: Expires = None,
    note: Note = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Make a key and show it, this once. The first one closes the server to everybody without a key.

    Example: quern keys create anna --note "her editor" --expires 90d
    """
    body = {"name": name, **_values(role, weight, expires, note)}
    _show_secret(administer("POST", KEYS, data_dir=data_dir, body=body), as_json=as_json)


@keys.command("list")
def list_keys(data_dir: DataDir = None, as_json: AsJson = False) -> None:
    """Show all keys: whose, what they may, when they were last used."""
    found = administer("GET", KEYS, data_dir=data_dir)["data"]
    if as_json:
        print(json.dumps(found, indent=2))
    elif found:
        table_console().print(_table(found))
    else:
        typer.echo("There are no keys yet. Make one with `quern keys create NAME`.")


@keys.command()
def revoke(key: Key, data_dir: DataDir = None) -> None:
    """Let a key open nothing from now on. What it made stays; turns that run go on."""
    shown = administer("DELETE", _path(key), data_dir=data_dir)
    typer.echo(f"The key {shown['name']} ({shown['id']}) is revoked.")


@keys.command()
def rotate(key: Key, data_dir: DataDir = None, as_json: AsJson = False) -> None:
    """Give a key another secret and show it, this once. The old one opens nothing from now on."""
    _show_secret(administer("POST", f"{_path(key)}/rotate", data_dir=data_dir), as_json=as_json)


@keys.command()
def limit(
    key: Key,
    turns_at_once: TurnsAtOnce = None,
    turns_waiting: TurnsWaiting = None,
    requests_per_minute: RequestsPerMinute = None,
    tokens_per_minute: TokensPerMinute = None,
    tokens_per_day: TokensPerDay = None,
    storage_mib: StorageMib = None,
    weight: Weight = None,
    data_dir: DataDir = None,
) -> None:
    """Change how much a key may use; what is not named stays, and what was never named is as `limits.*` say.

    Example: quern keys limit anna --tokens-per-day 2000000 --turns-at-once 4
    """
    limits = {
        "turns_at_once": turns_at_once,
        "turns_waiting": turns_waiting,
        "requests_per_minute": requests_per_minute,
        "tokens_per_minute": tokens_per_minute,
        "tokens_per_day": tokens_per_day,
        "storage_mib": storage_mib,
    }
    given = {name: _number(name, text) for name, text in _given(limits).items()}
    body = {"limits": given, **_values(None, weight, None, None)}
    _show_one(administer("POST", _path(key), data_dir=data_dir, body=body))


@keys.command()
def change(
    key: Key,
    name: Annotated[str | None, typer.Option(help="Another name.", show_default=False)] = None,
    role: Role = None,
    weight: Weight = None,
    expires: Expires = None,
    note: Note = None,
    data_dir: DataDir = None,
) -> None:
    """Change a key's name, role, weight, note, or when it expires."""
    body = {**_given({"name": name}), **_values(role, weight, expires, note)}
    _show_one(administer("POST", _path(key), data_dir=data_dir, body=body))


@keys.command()
def adopt(key: Key, data_dir: DataDir = None) -> None:
    """Give a key the conversations that were made before there were keys."""
    moved = administer("POST", f"{_path(key)}/adopt", data_dir=data_dir)["conversations"]
    typer.echo(f"{moved} conversations are {key}'s now.")


@keys.command()
def audit(
    number: Annotated[int, typer.Option(help="How many of the latest.", min=1, max=1000)] = 20,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Show who changed what, the newest first."""
    entries = administer("GET", "/v1/admin/audit", data_dir=data_dir, limit=str(number))["data"]
    if as_json:
        print(json.dumps(entries, indent=2))
        return
    for entry in entries:
        details = " ".join(f"{name}={value if value is not None else '-'}" for name, value in entry["details"].items())
        print(f"{entry['at']}  {entry['actor']:12}  {entry['action']:14}  {entry['subject']}  {details}")


def _path(key: str) -> str:
    """Where a key is. Raises KeyNotFound for what no key is called: it would lead to another path."""
    if "/" in key or key.strip() in {"", ".", ".."}:
        raise KeyNotFound(f"There is no key {key!r}. `quern keys list` shows them all.")
    return f"{KEYS}/{quote(key, safe='')}"


def expiry(text: str, now: datetime) -> datetime:
    """When a key expires: a date, a time with an offset, or so many days (`90d`) or hours (`12h`) from now.

    Raises ConfigError.
    """
    duration = DURATION.fullmatch(text)
    try:
        if duration is not None:
            return now + UNITS[duration[2]] * int(duration[1])
        at = datetime.fromisoformat(text)
        return (at if at.tzinfo is not None else at.astimezone()).astimezone(UTC)
    except (ValueError, OverflowError):
        raise ConfigError(
            f"--expires takes a date like 2027-01-31, a time from now on like 90d or 12h, or `never`, and {text!r} is "
            f"none of these."
        ) from None


def _number(limit: str, text: str) -> int | None:
    """A limit; None for what the settings say."""
    if text == DEFAULT:
        return None
    if not (text.isascii() and text.isdecimal()):
        option = limit.replace("_", "-")
        raise ConfigError(
            f"--{option} takes a number from 0, which is no limit, or `default`, and {text!r} is neither."
        )
    return int(text)


def _values(role: KeyRole | None, weight: float | None, expires: str | None, note: str | None) -> dict[str, Any]:
    if weight is not None and not math.isfinite(weight):
        raise ConfigError(f"--weight takes a number from 0.01 to 100, and {weight} is none.")
    values = _given({"role": role, "weight": weight, "note": note})
    if expires is not None:
        values["expires_at"] = None if expires == NEVER else expiry(expires, datetime.now(UTC)).isoformat()
    return values


def _given(values: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}


def _show_secret(made: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        print(json.dumps(made, indent=2))
        return
    typer.echo(f"The key {made['name']}, which is shown this once:", err=True)
    print(made["key"])
    typer.echo("Clients send it as `Authorization: Bearer …` or `x-api-key: …`.", err=True)


def _show_one(key: dict[str, Any]) -> None:
    limits = ", ".join(f"{name} {value}" for name, value in key["limits"].items()) or "as the settings say"
    until = f"expires at {key['expires_at']}" if key["expires_at"] is not None else "never expires"
    typer.echo(f"{key['name']} ({key['id']}): {key['role']}, weight {key['weight']:g}, {until}, limits: {limits}")


def _table(found: list[dict[str, Any]]) -> Table:
    table = Table(box=box.SIMPLE_HEAD)
    for column in ("name", "id", "role", "weight", "made", "last used", "state", "limits", "note"):
        table.add_column(column, overflow="fold")
    for key in found:
        limits = " ".join(f"{name}={value}" for name, value in key["limits"].items())
        used = (key["last_used_at"] or "never").partition("+")[0]
        made = key["created_at"].partition("T")[0]
        row = (key["name"], key["id"], key["role"], f"{key['weight']:g}", made, used, _state(key), limits, key["note"])
        table.add_row(*row)
    return table


def _state(key: dict[str, Any]) -> str:
    if key["revoked_at"] is not None:
        return "revoked"
    if key["expires_at"] is None:
        return "valid"
    expired = datetime.fromisoformat(key["expires_at"]) <= datetime.now(UTC)
    return "expired" if expired else f"until {key['expires_at'].partition('T')[0]}"
