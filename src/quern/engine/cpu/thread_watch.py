"""Watches the engine's thread: one that ends is brought back, one that stands is told of."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress

import structlog

from quern.errors import ModelLoadError

log = structlog.get_logger(__name__)

LOOK_SECONDS = 1.0
FIRST_DELAY_SECONDS = 1.0
LONGEST_DELAY_SECONDS = 60.0


class ThreadWatch:
    """`silent_seconds`: how long the thread has been at one step. `on_stuck` is called when that has become more than
    `most`, `on_going_on` when it is less again; nothing ends a thread that computes. `bring_up` starts another one
    after `ended`, and may raise ModelLoadError: then it is tried again.
    """

    def __init__(
        self,
        most: float,
        *,
        silent_seconds: Callable[[], float],
        on_stuck: Callable[[], object],
        on_going_on: Callable[[], object],
        bring_up: Callable[[], Awaitable[None]],
    ) -> None:
        self._most = most
        self._silent_seconds = silent_seconds
        self._on_stuck = on_stuck
        self._on_going_on = on_going_on
        self._bring_up = bring_up
        self._stuck = False
        self._ended = asyncio.Event()

    def ended(self) -> None:
        """The thread has ended, and nobody asked it to."""
        self._ended.set()

    async def run(self) -> None:
        """Watch, until cancelled."""
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(min(LOOK_SECONDS, self._most / 4)):
                    await self._ended.wait()
            if self._ended.is_set():
                self._ended.clear()
                await self._bring_back()
            self._look()

    def _look(self) -> None:
        silent = self._silent_seconds()
        if (silent > self._most) == self._stuck:
            return
        self._stuck = not self._stuck
        if self._stuck:
            log.error("engine_stuck", silent_seconds=round(silent, 1), most=self._most, setting="engine.stuck_seconds")
            self._on_stuck()
        else:
            log.warning("engine_goes_on")
            self._on_going_on()

    async def _bring_back(self) -> None:
        delay = FIRST_DELAY_SECONDS
        self._stuck = False
        while True:
            try:
                return await self._bring_up()
            except ModelLoadError as error:
                log.error("engine_restart_failed", error=str(error), next_try_seconds=delay)  # noqa: TRY400
            await asyncio.sleep(delay)
            delay = min(delay * 2, LONGEST_DELAY_SECONDS)
