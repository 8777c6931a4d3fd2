"""Admission for coroutines: a request sleeps until its position in line changes or it is refused."""

from __future__ import annotations

import asyncio

from quern.engine.admission import Admission, Place
from quern.engine.base import Priority
from quern.errors import EngineError


class Gate:
    """Lets requests through as `Admission` decides.

    A request loops over `position` and, while that stays the same, awaits `change`; it ends with `leave`, always.
    """

    def __init__(self, parallel: int, kv_tokens: int) -> None:
        self._admission = Admission(parallel, kv_tokens)
        self._changed = asyncio.Event()
        self._refused: dict[Place, EngineError] = {}

    @property
    def running(self) -> int:
        """Sequences in use."""
        return self._admission.running

    @property
    def waiting(self) -> int:
        """Requests in line."""
        return self._admission.waiting

    def arrive(self, tokens: int, priority: Priority) -> Place:
        """Join the line, reserving `tokens` tokens of KV cache."""
        place = self._admission.arrive(tokens, priority)
        self._notify()
        return place

    def leave(self, place: Place) -> None:
        """Give the place back, whether it waits or runs."""
        self._refused.pop(place, None)
        self._admission.leave(place)
        self._notify()

    def position(self, place: Place) -> int:
        """0 once the request may run, else its position in line. Raises what `refuse_waiting` was given."""
        position = self._admission.position(place)
        if position and place in self._refused:
            raise self._refused[place]
        return position

    async def change(self) -> None:
        """Sleep until something about the line has changed."""
        await self._changed.wait()

    def pause(self) -> None:
        """Let nobody in until `resume`."""
        self._admission.pause()

    def resume(self) -> None:
        """Let requests in again."""
        self._admission.resume()
        self._notify()

    def refuse_waiting(self, error: EngineError) -> None:
        """End everyone who is in line now with `error`."""
        self._refused.update(dict.fromkeys(self._admission.line(), error))
        self._notify()

    def _notify(self) -> None:
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()
