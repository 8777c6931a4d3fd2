"""`quern serve`: from nothing to a server that answers, and from a signal to a clean end."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, cast

import filelock
import typer
import uvloop
from rich.console import Console

from quern.api.shared.raw_text import AnswerAborted
from quern.app import Application, ServedModel, build_app
from quern.cli.progress import progress_display
from quern.cli.running_server import claimed, find, url_of
from quern.config import EngineName, LogFormat, Settings
from quern.config_sources import load_settings
from quern.engine.base import EngineState
from quern.errors import ConfigError, StoreError
from quern.http_server.control_socket import control_socket
from quern.http_server.server import HttpServer
from quern.modelfiles.sizes import size_on_disk
from quern.models.locate import model_id
from quern.models.pull import ensure
from quern.obs.logging import configure_logging
from quern.store.database import Database

STDOUT, STDERR = 1, 2
PROGRESS_POLL_SECONDS = 0.1
CONNECTIONS_END_SECONDS = 5
STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""Signals that let running turns finish. SIGHUP: the terminal was closed; `nohup` has it ignored, and so do we then."""


def serve(
    model: Annotated[
        str | None, typer.Option(help="A name of `quern models`, a GGUF file or a model's folder.")
    ] = None,
    engine: Annotated[EngineName | None, typer.Option(help="What runs the model.")] = None,
    host: Annotated[str | None, typer.Option(help="Address to listen on.")] = None,
    port: Annotated[int | None, typer.Option(help="Port to listen on; 0 takes a free one.")] = None,
    data_dir: Annotated[Path | None, typer.Option(help="Where models and the database live.")] = None,
    config: Annotated[Path | None, typer.Option(help="A TOML file with settings.")] = None,
    allow_anonymous: Annotated[
        bool | None,
        typer.Option("--allow-anonymous", help="Serve callers without a key on an address others can reach."),
    ] = None,
    log_format: Annotated[LogFormat | None, typer.Option(help="Log lines for people or for machines.")] = None,
) -> None:
    """Fetch the model if need be, load it and serve it.

    Example: quern serve --model qwen2.5-coder-0.5b --port 9000
    """
    overrides = {
        "data_dir": data_dir,
        "model": {"name": model},
        "engine": {"name": engine},
        "server": {"host": host, "port": port, "allow_anonymous": allow_anonymous},
        "log": {"format": log_format},
    }
    settings = load_settings(config, _given(overrides))
    configure_logging(settings.log, expected=(AnswerAborted,))
    console = Console()
    with claimed(settings.data_dir) as claim, control_socket(settings.data_dir) as control:
        with _port_errors_explained(settings):
            listener = _bind(settings)
        claim.announce(url_of(*listener.getsockname()[:2]))
        database = _claimed_database(settings)
        model_file = _model(settings, console)
        with _port_errors_explained(settings):
            listener.listen()
        application = build_app(settings, model_file, database)
        if uvloop.run(_Process(application, settings, listener, control, console).run()) == signal.SIGINT:
            raise KeyboardInterrupt


def _claimed_database(settings: Settings) -> Database:
    """The database, which is this server's now. Raises StoreError, with the other server's address where one has it."""
    database = Database(settings.database_url)
    try:
        database.claim()
    except StoreError as error:
        if not isinstance(error.__cause__, filelock.Timeout) or database.file is None:
            raise
        other = find(database.file.parent)
        raise StoreError(f"{error} That server is at {other}." if other is not None else str(error)) from error
    return database


def _given(overrides: dict[str, Any]) -> dict[str, Any]:
    """The options that were given, as nested settings."""
    given: dict[str, Any] = {}
    for name, value in overrides.items():
        if isinstance(value, dict):
            given[name] = _given(cast("dict[str, Any]", value))
        elif value is not None:
            given[name] = value
    return given


def _bind(settings: Settings) -> socket.socket:
    """Take the port before anything slow happens; nobody is let in yet, so that nobody waits for a download."""
    host, port = settings.server.host, settings.server.port
    listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except OSError:
        listener.close()
        raise
    return listener


@contextmanager
def _port_errors_explained(settings: Settings) -> Generator[None]:
    host, port = settings.server.host, settings.server.port
    try:
        yield
    except OSError as error:
        msg = (
            f"Can't listen on {host}:{port}: {error.strerror}. Another program may be using the port: stop it, or "
            f"choose another port with --port."
        )
        raise ConfigError(msg) from error


def _model(settings: Settings, console: Console) -> ServedModel | None:
    if settings.engine.name is EngineName.FAKE:
        return None
    with progress_display() as progress:
        path = ensure(settings.model.name, settings.models_dir, verify=settings.model.verify, progress=progress)
    console.print(f"Model    {settings.model.name} ({path}, {size_on_disk(path) / 1e9:.2f} GB)", soft_wrap=True)
    return ServedModel(path, model_id(settings.model.name))


class _Process:
    """The serving process: the HTTP server, the loading model, the signals."""

    def __init__(
        self,
        application: Application,
        settings: Settings,
        listener: socket.socket,
        control: socket.socket | None,
        console: Console,
    ) -> None:
        self._application = application
        self._settings = settings
        self._listener = listener
        self._console = console
        self._signal: signal.Signals | None = None
        self._stop = asyncio.Event()
        self._terminals = [output for output in (STDOUT, STDERR) if os.isatty(output)]
        self._server = HttpServer(
            application.asgi, settings.server, seconds_to_end=CONNECTIONS_END_SECONDS, control=control
        )

    async def run(self) -> signal.Signals | None:
        """Serve until a signal and return it. Raises ModelLoadError where the model can't be loaded."""
        loop = asyncio.get_running_loop()
        for number in STOPPING:
            if signal.getsignal(number) is not signal.SIG_IGN:
                loop.add_signal_handler(number, self._on_signal, number)
        async with self._application.running() as loading, asyncio.TaskGroup() as tasks:
            serving = tasks.create_task(self._server.serve(sockets=[self._listener]))
            tasks.create_task(self._announce(loading))
            stopping = tasks.create_task(self._drain_on_signal())
            await asyncio.wait([serving])
            stopping.cancel()
        if not loading.cancelled() and (error := loading.exception()) is not None:
            raise error
        return self._signal

    def _on_signal(self, number: signal.Signals) -> None:
        if number is signal.SIGHUP:
            self._leave_terminal()
        if self._signal is not None:
            self._application.interrupt()
            return
        self._signal = number
        self._stop.set()

    def _leave_terminal(self) -> None:
        """Write to nowhere instead: a write to a terminal that is gone is an error."""
        with Path(os.devnull).open("wb") as nowhere:
            for output in self._terminals:
                os.dup2(nowhere.fileno(), output)

    async def _drain_on_signal(self) -> None:
        await self._stop.wait()
        grace = self._settings.server.shutdown_grace_seconds
        if self._application.turns.active:
            self._console.print(f"Stopping: running turns have {grace:g} s to finish. Signal again to stop at once.")
        await self._application.drain(grace)
        self._server.should_exit = True

    async def _announce(self, loading: asyncio.Task[None]) -> None:
        """Show the load's progress, then where the server is; a failed load stops the server."""
        with progress_display() as progress:
            while not loading.done() and not self._stop.is_set():
                await asyncio.wait([loading], timeout=PROGRESS_POLL_SECONDS)
                progress.loading(self._application.engine.stats().load_progress)
        if not loading.done():
            return
        if loading.cancelled() or loading.exception() is not None:
            self._server.should_exit = True
            return
        if self._application.engine.stats().state is EngineState.READY:
            self._print_welcome()

    def _print_welcome(self) -> None:
        info = self._application.engine.info
        host, port = self._listener.getsockname()[:2]
        url = url_of(host, port)
        elsewhere = (
            ""
            if self._settings.server.loopback
            else f"\n         from other machines http://{socket.gethostname()}:{port}"
        )
        chosen = (
            f", chosen by auto. {self._application.engine_reason}"
            if self._settings.engine.name is EngineName.AUTO
            else ""
        )
        lines = f"""\
Engine   {info.engine}{chosen}
         {info.quantisation} on {info.device}
         {info.parallel} turns at once, {info.context_length} tokens of context each
Data     {self._settings.data_dir}
Serving  {url}   (API page: {url}/docs){elsewhere}

Base URLs for your tools; the model is {info.model_id}, and any key will do:
  OpenAI's       {url}/v1
  Anthropic's    {url}
  Ollama's       {url}
  llama.cpp's    {url}

Try it:
  curl {url}/v1/code/generate --data-urlencode "prompt=Write a bubble sort in Python, only the function."
"""
        self._console.print(lines, soft_wrap=True, highlight=False, markup=False)
