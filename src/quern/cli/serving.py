"""The serving process: its event loop, its signals, and what it tells the service manager meanwhile."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO, cast

import structlog
from rich.console import Console

from quern.api.shared.raw_text import AnswerAborted
from quern.app import Application
from quern.cli.progress import progress_display
from quern.cli.running_server import url_of
from quern.config import Settings
from quern.config_sources import Reload, changed, reloaded
from quern.engine.base import EngineState
from quern.errors import ConfigError, EngineUnavailable, StoreError
from quern.http_server.server import HttpServer, freeze_garbage_collection
from quern.obs.logging import configure_logging
from quern.obs.output import Output
from quern.obs.service_manager import ServiceManager
from quern.turns.models import ServedModel

log = structlog.get_logger(__name__)

STDOUT, STDERR = 1, 2
PROGRESS_POLL_SECONDS = 0.1
CONNECTIONS_END_SECONDS = 5
END_SECONDS = 30.0
"""After the turns the connections end, and the engine closes."""

STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""Signals that let running turns finish. SIGHUP: the terminal was closed; `nohup` has it ignored, and so do we then.
Where there never was a terminal, it has the settings read anew.
"""


@dataclass(frozen=True, slots=True)
class Sockets:
    """Where the server listens. `passed`: the service manager opened them and keeps them when this process ends."""

    listeners: Sequence[socket.socket]
    control: socket.socket | None
    passed: bool

    @property
    def address(self) -> tuple[str, int]:
        """Host and port, of the first one that has them."""
        found = next(one for one in self.listeners if one.family is not socket.AF_UNIX)
        host, port = found.getsockname()[:2]
        return host, port

    @property
    def url(self) -> str:
        """Where clients of this machine find it."""
        return url_of(*self.address)


def console_of(output: Output) -> Console:
    """For what is said to people there."""
    return Console(file=cast("IO[str]", output))


def has_terminal() -> bool:
    """Whether this process has a terminal that can be closed."""
    try:
        os.close(os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY))
    except OSError:
        return False
    return True


class ServingProcess:
    """The HTTP server, the loading model, the signals. `out` is for people, `err` has the log. `read_settings` reads
    them anew, and may raise ConfigError.
    """

    def __init__(
        self,
        application: Application,
        settings: Settings,
        sockets: Sockets,
        *,
        out: Output,
        err: Output,
        manager: ServiceManager,
        read_settings: Callable[[], Settings],
    ) -> None:
        self._application = application
        self._settings = settings
        self._sockets = sockets
        self._console, self._err = console_of(out), err
        self._manager = manager
        self._read_settings = read_settings
        self._signal: signal.Signals | None = None
        self._stop, self._reload = asyncio.Event(), asyncio.Event()
        self._reloading = asyncio.Lock()
        self._announced = False
        self._terminal = has_terminal()
        self._terminals = [output for output in (STDOUT, STDERR) if os.isatty(output)]
        application.on_reload = self._reload_settings
        freeze_garbage_collection()
        self._server = HttpServer(
            application.asgi, settings.server, seconds_to_end=CONNECTIONS_END_SECONDS, control=sockets.control
        )

    async def run(self) -> signal.Signals | None:
        """Serve until a signal and return it. Raises ModelLoadError where the model can't be loaded."""
        loop = asyncio.get_running_loop()
        for number in STOPPING:
            if signal.getsignal(number) is not signal.SIG_IGN:
                loop.add_signal_handler(number, self._on_signal, number)
        async with self._application.running() as loading, asyncio.TaskGroup() as tasks:
            serving = tasks.create_task(self._server.serve(sockets=[*self._sockets.listeners]))
            tasks.create_task(self._announce(loading))
            besides = [
                tasks.create_task(self._drain_on_signal()),
                tasks.create_task(self._reload_on_signal()),
                tasks.create_task(self._feed_watchdog()),
            ]
            await asyncio.wait([serving])
            for task in besides:
                task.cancel()
        if not loading.cancelled() and (error := loading.exception()) is not None:
            raise error
        return self._signal

    def _on_signal(self, number: signal.Signals) -> None:
        if number is signal.SIGHUP and not self._terminal:
            self._reload.set()
            return
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
        active = self._application.turns.active
        self._manager.stopping(f"Stopping: {active} turns have {grace:g} s to finish", grace + END_SECONDS)
        if active:
            self._console.print(f"Stopping: running turns have {grace:g} s to finish. Signal again to stop at once.")
        if self._sockets.passed:
            await self._server.leave_listeners()
        await self._application.drain(grace)
        self._server.should_exit = True

    async def _reload_on_signal(self) -> None:
        while True:
            await self._reload.wait()
            self._reload.clear()
            with suppress(ConfigError, EngineUnavailable):  # the log has it
                await self._reload_settings()

    async def _reload_settings(self) -> Reload:
        """Read the settings anew, one reload after the other. See `Services.reload` for the errors."""
        async with self._reloading:
            if self._stop.is_set():
                raise EngineUnavailable("The server is stopping, so it takes no other settings.", 1)
            self._tell_manager(self._manager.reloading)
            try:
                read = await asyncio.to_thread(self._read_settings)
            except ConfigError as error:
                log.error("settings_refused", reason=str(error), kept="the settings as they were")  # noqa: TRY400
                self._tell_manager(partial(self._manager.ready, f"The new settings were refused: {error}"))
                raise
            done = await self._take(read)
            self._tell_manager(lambda: self._manager.ready(self._serving()))
            return done

    def _tell_manager(self, say: Callable[[], None]) -> None:
        """Of a reload, unless the model still loads: "ready" would mean that the start is over."""
        if self._announced and not self._stop.is_set():
            say()

    async def _take(self, read: Settings) -> Reload:
        before, settings = self._settings, reloaded(self._settings, read)
        took, waiting = changed(before, settings), changed(settings, read)
        self._settings = settings
        keys_kept = None
        if any(name.startswith("log.") for name in took):
            configure_logging(settings.log, expected=(AnswerAborted,), output=self._err)
        self._server.reload(settings.server)
        try:
            await self._application.reload(settings)
        except StoreError as error:
            keys_kept = str(error)
            log.warning("keys_not_reloaded", reason=keys_kept)
        log.info("settings_reloaded", changed=took)
        if waiting:
            log.warning("settings_need_restart", settings=waiting)
        return Reload(before, settings, took, waiting, keys_kept)

    async def _feed_watchdog(self) -> None:
        models = self._application.models

        def silent_seconds() -> float:
            return max(model.engine.stats().silent_seconds for model in models)

        await self._manager.feed_watchdog(silent_seconds, self._settings.engine.stuck_seconds)

    async def _announce(self, loading: asyncio.Task[None]) -> None:
        """Show the load's progress, then where the server is; a failed load stops the server."""
        await self._server.listening.wait()
        seen = -1.0
        with progress_display(console_of(self._err)) as progress:
            while not loading.done() and not self._stop.is_set():
                await asyncio.wait([loading], timeout=PROGRESS_POLL_SECONDS)
                share = self._loaded_share()
                progress.loading(share)
                if share != seen:
                    self._manager.progress(f"Loading the model: {share:.0%}")
                    seen = share
        if not loading.done():
            return
        if loading.cancelled() or loading.exception() is not None:
            self._server.should_exit = True
            return
        if all(model.available for model in self._application.models) and not self._stop.is_set():
            self._announced = True
            self._manager.ready(self._serving())
            self._print_welcome()

    def _loaded_share(self) -> float:
        stats = [model.engine.stats() for model in self._application.models]
        shares = [one.load_progress for one in stats if one.state is not EngineState.UNLOADED]
        return sum(shares) / max(1, len(shares))

    def _serving(self) -> str:
        return f"Serving {', '.join(model.name for model in self._application.models)} at {self._sockets.url}"

    def _print_welcome(self) -> None:
        url = self._sockets.url
        elsewhere = (
            ""
            if self._settings.server.loopback
            else f"\n         from other machines http://{socket.gethostname()}:{self._sockets.address[1]}"
        )
        names = [model.name for model in self._application.models]
        models = f"the model is {names[0]}" if len(names) == 1 else f"the models are {', '.join(names)}"
        keys = "a key of `quern keys` is needed" if self._application.keys.closed else "any key will do"
        engines = "\n".join(_engine_lines(model, named=len(names) > 1) for model in self._application.models)
        lines = f"""\
{engines}
Data     {self._settings.data_dir}
Serving  {url}   (API page: {url}/docs){elsewhere}

Base URLs for your tools; {models}, and {keys}:
  OpenAI's       {url}/v1
  Anthropic's    {url}
  Ollama's       {url}
  llama.cpp's    {url}

Try it:
  curl {url}/v1/code/generate --data-urlencode "prompt=Write a bubble sort in Python, only the function."
"""
        self._console.print(lines, soft_wrap=True, highlight=False, markup=False)


def _engine_lines(model: ServedModel, *, named: bool) -> str:
    info, chosen = model.info_so_far, f", chosen by auto. {model.reason}" if model.reason else ""
    name = f"{model.name}: " if named else ""
    if info is None:
        return f"Engine   {name}loaded when it is asked for, as it does not fit beside the others"
    return (
        f"Engine   {name}{info.engine}{chosen}\n"
        f"         {info.quantisation} on {info.device}\n"
        f"         {info.parallel} turns at once, {info.context_length} tokens of context each"
    )
