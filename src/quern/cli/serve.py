"""`quern serve`: from nothing to a server that answers, and from a signal to a clean end."""

from __future__ import annotations

import faulthandler
import signal
import socket
from collections.abc import Callable, Generator, Sequence
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Annotated, Any, cast

import filelock
import typer
import uvloop

from quern.api.shared.raw_text import AnswerAborted
from quern.app import build_app
from quern.cli.progress import progress_display
from quern.cli.running_server import claimed, find
from quern.cli.serving import STDERR, ServingProcess, Sockets, console_of, has_terminal
from quern.config import LogFormat, ServerSettings, Settings
from quern.config_models import EngineName
from quern.config_sources import load_settings
from quern.errors import ConfigError, StoreError
from quern.http_server.control_socket import control_socket
from quern.modelfiles.sizes import size_on_disk
from quern.models.locate import model_id
from quern.models.progress import Progress
from quern.models.pull import ensure
from quern.obs.logging import configure_logging
from quern.obs.output import Output, outputs
from quern.obs.service_manager import ServiceManager
from quern.served_models import ModelFile
from quern.store.database import Database
from quern.store.keys import KeyStore


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
    manager = ServiceManager()
    passed = manager.listeners()
    overrides = {
        "data_dir": data_dir,
        "model": {"name": model},
        "engine": {"name": engine},
        "server": {"host": host, "port": port, "allow_anonymous": allow_anonymous} | _where(passed),
        "log": {"format": log_format},
    }
    read_settings = partial(load_settings, config, _given(overrides))
    settings = read_settings()
    faulthandler.enable(file=STDERR)  # what native code does to the process is told before its end
    with closing(manager), outputs() as (out, err):
        configure_logging(settings.log, expected=(AnswerAborted,), output=err)
        if not has_terminal() and signal.getsignal(signal.SIGHUP) is signal.SIG_DFL:
            signal.signal(signal.SIGHUP, _settings_are_new)
        _serve(settings, passed, out, err, manager, read_settings)


def _serve(
    settings: Settings,
    passed: Sequence[socket.socket],
    out: Output,
    err: Output,
    manager: ServiceManager,
    read_settings: Callable[[], Settings],
) -> None:
    with claimed(settings.data_dir) as claim, control_socket(settings.data_dir) as control:
        _check_exposure(settings)
        with _port_errors_explained(settings):
            sockets = Sockets(passed or [_bind(settings)], control, passed=bool(passed))
        claim.announce(sockets.url)
        database = _claimed_database(settings)
        model_files = _models(settings, out, err, manager)
        with _port_errors_explained(settings):
            for listener in sockets.listeners:
                listener.listen()
        application = build_app(settings, model_files, database)
        process = ServingProcess(
            application, settings, sockets, out=out, err=err, manager=manager, read_settings=read_settings
        )
        if uvloop.run(process.run()) == signal.SIGINT:
            raise KeyboardInterrupt


def _check_exposure(settings: Settings) -> None:
    """Raises ConfigError where other machines could reach a server that nobody could use, or everybody."""
    if settings.server.loopback or settings.server.allow_anonymous or uvloop.run(_has_keys(settings)):
        return
    raise ConfigError(
        f"Refusing to listen on {settings.server.host}: other machines could reach it, and this server has no keys, so "
        f"it could only be closed to all or open to everybody on the network, every conversation included. Make the "
        f"first key with `quern keys create NAME`, keep to 127.0.0.1, or let everybody in with --allow-anonymous "
        f"(setting server.allow_anonymous)."
    )


async def _has_keys(settings: Settings) -> bool:
    database = Database(settings.database_url)
    await database.open()
    try:
        return bool(await KeyStore(database).all())
    finally:
        await database.close()


def _settings_are_new(number: int, frame: FrameType | None) -> None:
    """Take SIGHUP for what it asks: the settings have just been read."""


def _claimed_database(settings: Settings) -> Database:
    """The database, which is this server's now. Raises StoreError, with the other server's address where one has it."""
    store = settings.store
    database = Database(settings.database_url, reserve_bytes=store.reserve_bytes, pool_size=store.pool_size)
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


def _where(passed: Sequence[socket.socket]) -> dict[str, Any]:
    """The settings that the service manager's sockets decide. Those that others can reach decide what is allowed."""
    if not passed:
        return {}
    found = [one.getsockname()[:2] for one in passed if one.family is not socket.AF_UNIX]
    if not found:
        raise ConfigError(
            "None of the sockets that the service manager passed is a TCP one, and Quern has to have one for its "
            "clients. Add a line like ListenStream=127.0.0.1:8001 to the socket unit."
        )
    host, port = next((one for one in found if not ServerSettings(host=one[0]).loopback), found[0])
    return {"host": host, "port": port}


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


def _models(settings: Settings, out: Output, err: Output, manager: ServiceManager) -> list[ModelFile]:
    """The models' files, fetched where they are missing. Raises ModelError."""
    if settings.engine.name is EngineName.FAKE:
        return []
    found: list[ModelFile] = []
    for served in settings.to_serve():
        with progress_display(console_of(err)) as shown:
            progress = _Told(shown, manager)
            path = ensure(served.source, settings.models_dir, verify=served.verify, progress=progress)
        found.append(ModelFile(path, served.name or model_id(served.source), served))
        line = f"Model    {served.source} ({path}, {size_on_disk(path) / 1e9:.2f} GB)"
        console_of(out).print(line, soft_wrap=True)
    return found


class _Told(Progress):
    """Progress for people that the service manager hears of too; a standstill is none."""

    def __init__(self, shown: Progress, manager: ServiceManager) -> None:
        self._shown = shown
        self._manager = manager
        self._seen = ("", -1)

    def advance(self, phase: str, done: int, total: int | None) -> None:
        self._shown.advance(phase, done, total)
        if (phase, done) != self._seen:
            self._seen = (phase, done)
            self._manager.progress(f"{phase}: {done / total:.0%}" if total else phase)

    def notice(self, message: str) -> None:
        self._shown.notice(message)
