"""A server's life: started, watched, and brought back when it is lost."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Generic, TypeVar

import structlog

from quern.engine.base import EngineState
from quern.engine.served.backend import Backend, Ready
from quern.errors import ModelLoadError

log = structlog.get_logger(__name__)

FIRST_DELAY_SECONDS = 0.5
LONGEST_DELAY_SECONDS = 60.0
HEALTHY_SECONDS = 60.0
TELLING_PROGRESS = 0.1
LOOK_SECONDS = 1.0

ReadyT = TypeVar("ReadyT", bound=Ready)


class Supervisor(Generic[ReadyT]):
    """Keeps a backend's server running.

    `on_ready` gets every server that became ready, the first one too, and may raise ModelLoadError; `on_lost` is called
    when it is gone, `on_failed` when it could not be brought back at once. A server that does nothing with its work is
    as good as gone: where `silent_seconds` says more than `most_silent`.
    """

    def __init__(
        self,
        backend: Backend[ReadyT],
        *,
        on_ready: Callable[[ReadyT], None],
        on_lost: Callable[[], None],
        on_failed: Callable[[ModelLoadError], None],
        silent_seconds: Callable[[], float],
        most_silent: float,
    ) -> None:
        self._backend = backend
        self._on_ready = on_ready
        self._on_lost = on_lost
        self._on_failed = on_failed
        self._silent_seconds = silent_seconds
        self._most_silent = most_silent
        self._state = EngineState.NEW
        self._began = 0.0
        self._load_seconds: float | None = None
        self._watch: asyncio.Task[None] | None = None

    @property
    def state(self) -> EngineState:
        """Where in its life the server is."""
        return self._state

    @property
    def progress(self) -> float:
        """How far a load is, 0 to 1."""
        return 1.0 if self._state is EngineState.READY else self._backend.progress()

    @property
    def remaining(self) -> float:
        """An estimate of the seconds until the server is ready; 0 when it is, and when nobody works on it."""
        if self._state not in {EngineState.LOADING, EngineState.RESTARTING}:
            return 0.0
        elapsed = time.monotonic() - self._began
        progress = self._backend.progress()
        if self._load_seconds is None and elapsed > 0 and progress > TELLING_PROGRESS:
            return elapsed * (1 - progress) / progress
        expected = self._load_seconds if self._load_seconds is not None else self._backend.expected_load_seconds
        return max(expected - elapsed, 1.0)

    async def start(self) -> None:
        """Bring the server up for the first time. Raises ModelLoadError."""
        self._state = EngineState.LOADING
        try:
            await self._bring_up()
        except BaseException:
            await self.close()
            raise
        self._watch = asyncio.get_running_loop().create_task(self._keep_up())

    async def close(self) -> None:
        """End it for good."""
        self._state = EngineState.CLOSED
        if self._watch is not None:
            self._watch.cancel()
            await asyncio.wait([self._watch])
            self._watch = None
        await self._backend.stop()

    async def _bring_up(self) -> None:
        self._began = time.monotonic()
        connected = await self._backend.start()
        try:
            self._on_ready(connected)
        except ModelLoadError:
            await self._backend.stop()
            raise
        self._load_seconds = time.monotonic() - self._began
        self._state = EngineState.READY
        log.info("engine_ready", device=connected.device, seconds=round(self._load_seconds, 1))

    async def _keep_up(self) -> None:
        delay = FIRST_DELAY_SECONDS
        while True:
            ready_since = time.monotonic()
            reason = await self._lost()
            log.error("engine_lost", reason=reason)
            self._state = EngineState.RESTARTING
            self._on_lost()
            await self._backend.stop()
            if time.monotonic() - ready_since > HEALTHY_SECONDS:
                delay = FIRST_DELAY_SECONDS
            delay = await self._bring_back(delay)

    async def _lost(self) -> str:
        """Return once the server is gone or stuck, with a sentence about how it went."""
        gone = asyncio.ensure_future(self._backend.lost())
        try:
            while not gone.done():
                await asyncio.wait([gone], timeout=min(LOOK_SECONDS, self._most_silent / 4))
                if self._silent_seconds() > self._most_silent:
                    return (
                        f"The inference server did not come to the end of a step within {self._most_silent:g} s "
                        f"(engine.stuck_seconds)."
                    )
            return gone.result()
        finally:
            gone.cancel()
            await asyncio.gather(gone, return_exceptions=True)

    async def _bring_back(self, delay: float) -> float:
        """Try until the server is ready again; returns the delay to begin with if it is lost again soon."""
        while True:
            self._began = time.monotonic() + delay
            await asyncio.sleep(delay)
            delay = min(delay * 2, LONGEST_DELAY_SECONDS)
            try:
                await self._bring_up()
            except ModelLoadError as error:
                log.error("engine_restart_failed", error=str(error), next_try_seconds=delay)  # noqa: TRY400
                self._on_failed(error)
            else:
                return delay
