"""Who runs and who waits: a decision over sequences and the KV cache that they share, and the same for coroutines.

Requests start in order of priority, then of arrival. Each one reserves the most tokens it can ever hold, so a sequence
that was let in never finds the cache full. The first in line that doesn't fit yet holds back everyone behind it: a
stream of small requests can't starve a large one of the same priority.
"""

from __future__ import annotations

import asyncio
import bisect
from dataclasses import dataclass

from quern.engine.base import Priority
from quern.errors import EngineError


@dataclass(frozen=True, slots=True, eq=False)
class Place:
    """One request's place, waiting or running. `tokens` is what it reserves."""

    tokens: int
    priority: Priority
    arrival: int


class Admission:
    """`parallel` sequences share `kv_tokens` tokens of KV cache."""

    def __init__(self, parallel: int, kv_tokens: int) -> None:
        self._parallel = parallel
        self._kv_tokens = kv_tokens
        self._free_tokens = kv_tokens
        self._arrivals = 0
        self._paused = False
        self._waiting: list[Place] = []
        self._running: set[Place] = set()

    @property
    def running(self) -> int:
        """Sequences in use."""
        return len(self._running)

    @property
    def waiting(self) -> int:
        """Requests in line."""
        return len(self._waiting)

    def line(self) -> tuple[Place, ...]:
        """Everyone in line, first in line first."""
        return tuple(self._waiting)

    def arrive(self, tokens: int, priority: Priority) -> Place:
        """Join the line; the place may be running at once. Raises ValueError where it could never fit."""
        if tokens > self._kv_tokens:
            msg = f"a request of {tokens} tokens never fits a cache of {self._kv_tokens}"
            raise ValueError(msg)
        self._arrivals += 1
        place = Place(tokens, priority, self._arrivals)
        bisect.insort(self._waiting, place, key=_order)
        self._admit()
        return place

    def leave(self, place: Place) -> None:
        """Give a place back, whether it waits or runs. Leaving twice is harmless."""
        if place in self._running:
            self._running.remove(place)
            self._free_tokens += place.tokens
        elif place in self._waiting:
            self._waiting.remove(place)
        self._admit()

    def position(self, place: Place) -> int:
        """0 while it runs, else its position in line, from 1. Raises ValueError for a place that was left."""
        return 0 if place in self._running else self._waiting.index(place) + 1

    def pause(self) -> None:
        """Let nobody in until `resume`; those who run go on."""
        self._paused = True

    def resume(self) -> None:
        """Let requests in again."""
        self._paused = False
        self._admit()

    def _admit(self) -> None:
        while self._waiting and not self._paused and self._fits(self._waiting[0]):
            place = self._waiting.pop(0)
            self._running.add(place)
            self._free_tokens -= place.tokens

    def _fits(self, place: Place) -> bool:
        return len(self._running) < self._parallel and place.tokens <= self._free_tokens


def _order(place: Place) -> tuple[Priority, int]:
    return place.priority, place.arrival


class Gate:
    """Lets requests through as `Admission` decides.

    A request loops over `position` and, while that stays the same, awaits `change`; or it awaits its `turn`, where
    nobody is told of positions. It ends with `leave`, always.
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

    async def turn(self, place: Place) -> None:
        """Sleep until the request may run. Raises what `refuse_waiting` was given."""
        while self.position(place):
            await self.change()

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
