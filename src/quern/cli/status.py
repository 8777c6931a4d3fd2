"""`quern status`, or `quern ps`: what runs."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any

import psutil
import typer

from quern.cli.control import has_control_socket
from quern.cli.running_server import RunningServer, find
from quern.cli.server_choice import DataDir, ServerUrl, server_address, settings_of
from quern.client import QuernClient, ServedModel, ServerState
from quern.environment import key_of_clients
from quern.errors import ServerRefused, ServerUnreachable
from quern.http_server.control_socket import SOCKET_NAME, address_of
from quern.models.progress import format_bytes

ANSWER_SECONDS = 10.0
NOTHING_RUNS = 3
READY = "ready"


@dataclass(frozen=True, slots=True)
class ServerStatus:
    """A server that answers. `model`: None while it loads. `process`: of the server of this data directory only."""

    url: str
    state: ServerState
    model: ServedModel | None = None
    process: RunningServer | None = None
    data_dir: Path | None = None

    def as_json(self) -> dict[str, Any]:
        """Everything, as JSON; what is not known is null."""
        return {
            "url": self.url,
            **self.state.model_dump(),
            "model": self.model.model_dump() if self.model is not None else None,
            "pid": self.process.pid if self.process is not None else None,
            "uptime_seconds": round(time.time() - self.process.started_at, 1) if self.process is not None else None,
            "memory_bytes": memory_of(self.process.pid) if self.process is not None else None,
            "data_dir": str(self.data_dir) if self.data_dir is not None else None,
        }

    def as_text(self) -> str:
        """A report for people."""
        lines = [("Serving", f"{self.process}" if self.process is not None else self.url)]
        if self.state.status != READY:
            part = f", {self.state.load_progress:.0%} of the model" if 0 < self.state.load_progress < 1 else ""
            lines.append(("State", self.state.status + part))
        if self.model is not None:
            lines.append(("Model", f"{self.model.id}, {self.model.quantisation}"))
            lines.append(("Engine", f"{self.model.engine} on {self.model.device}"))
        lines.append(("Turns", f"{self.state.running} running{self._limits()}, {self.state.waiting} waiting"))
        if self.process is not None:
            lines.append(("Up", str(timedelta(seconds=round(time.time() - self.process.started_at)))))
            if (memory := memory_of(self.process.pid)) is not None:
                lines.append(("Memory", format_bytes(memory)))
            lines.append(("Data", str(self.data_dir)))
        return "\n".join(f"{name:8} {value}" for name, value in lines)

    def _limits(self) -> str:
        if self.model is None:
            return ""
        return f" of {self.model.parallel} at once, {self.model.context_length} tokens of context each"


def status(
    server: ServerUrl = None,
    data_dir: DataDir = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print everything as JSON.")] = False,
) -> None:
    """Show what runs: address, process, model, engine, turns, memory.

    Exits with 0 where a server runs, even if it still starts, with 3 where none does, and with 1 where one runs and
    gives no answer. `quern ps` is the same.

    Examples:

    - `quern status`

    - `quern ps --json`
    """
    url = server_address(server, data_dir)
    folder = settings_of(data_dir).data_dir
    running = find(folder)
    process = running if running is not None and running.url == url.rstrip("/") else None
    try:
        found = look(url, process, folder)
    except ServerUnreachable as error:
        typer.echo(
            f"No server runs: nothing answers at {url}, and no server has the data directory {folder}. Start one with "
            f"`quern serve`, or name another with --server or --data-dir.",
            err=True,
        )
        raise typer.Exit(NOTHING_RUNS) from error
    print(json.dumps(found.as_json(), indent=2) if as_json else found.as_text())


ps = status


def look(url: str, process: RunningServer | None, data_dir: Path) -> ServerStatus:
    """Ask a server. Raises ServerUnreachable, ServerRefused or AnswerBroken."""
    if process is not None:
        try:
            return replace(_look_inside(process, data_dir), process=process, data_dir=data_dir)
        except ServerUnreachable:
            # It listens once its model's file is there and checked.
            return ServerStatus(url, ServerState(status="starting"), process=process, data_dir=data_dir)
    with QuernClient(url, key=key_of_clients(), read_timeout=ANSWER_SECONDS) as client:
        return _seen(client)


def _look_inside(process: RunningServer, data_dir: Path) -> ServerStatus:
    """Over the control socket, where there is one: no key is needed there, and it answers until the end."""
    if not has_control_socket(data_dir):
        return look(process.url, None, data_dir)
    with (
        address_of(data_dir / SOCKET_NAME) as address,
        QuernClient(process.url, read_timeout=ANSWER_SECONDS, unix_socket=address) as client,
    ):
        return _seen(client)


def _seen(client: QuernClient) -> ServerStatus:
    return ServerStatus(client.server, client.state(), _model(client))


def memory_of(pid: int) -> int | None:
    """Bytes of a process and of its children that are in memory; None where they can't be seen."""
    try:
        process = psutil.Process(pid)
        return sum(one.memory_info().rss for one in (process, *process.children(recursive=True)))
    except psutil.Error:
        return None


def _model(client: QuernClient) -> ServedModel | None:
    try:
        return next(iter(client.models()), None)
    except ServerRefused as error:
        if error.status != 503:
            raise
        return None
