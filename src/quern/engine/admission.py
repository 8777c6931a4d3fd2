"""Who runs and who waits: a decision over sequences and the KV cache that they share, and the same for coroutines.

Requests start in the order of their owners' fair shares. Each one reserves the most tokens it can ever hold, so a
sequence that was let in never finds the cache full, and none that runs ever gives way. One that doesn't fit yet may be
overtaken by smaller ones, but by no more than its own size: then it holds back everyone behind it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator

from quern.engine.base import EmbedRequest, EngineEvent, Finished, GenerateRequest, Tokens
from quern.engine.fair_shares import Claim, FairShares
from quern.errors import EngineError
from quern.events import Prefill

Place = Claim
"""One request's place, waiting or running. `size` is what it reserves."""


class Admission:
    """`parallel` sequences share `kv_tokens` tokens of KV cache."""

    def __init__(self, parallel: int, kv_tokens: int) -> None:
        self._parallel = parallel
        self._kv_tokens = kv_tokens
        self._free_tokens = kv_tokens
        self._arrivals = 0
        self._paused = False
        self._shares = FairShares(parallel)
        self._running: set[Place] = set()

    @property
    def running(self) -> int:
        """Sequences in use."""
        return len(self._running)

    @property
    def waiting(self) -> int:
        """Requests in line."""
        return self._shares.waiting

    def line(self) -> tuple[Place, ...]:
        """Everyone in line, first in line first."""
        return self._shares.line()

    def arrive(self, tokens: int, request: GenerateRequest | EmbedRequest) -> Place:
        """Join the line; the place may be running at once. Raises ValueError where it could never fit."""
        if tokens > self._kv_tokens:
            msg = f"a request of {tokens} tokens never fits a cache of {self._kv_tokens}"
            raise ValueError(msg)
        self._arrivals += 1
        place = Place(self._arrivals, tokens, request)
        self._shares.arrive(place)
        self._admit()
        return place

    def leave(self, place: Place) -> None:
        """Give a place back, whether it waits or runs. Leaving twice is harmless."""
        if place in self._running:
            self._running.remove(place)
            self._free_tokens += place.size
        self._shares.leave(place)
        self._admit()

    def charge(self, place: Place, tokens: int) -> None:
        """So many tokens were computed for a request that runs, since it began; harmless where it has left."""
        if place in self._running:
            self._shares.charge(place, tokens - place.charged)
            place.charged = tokens

    def position(self, place: Place) -> int:
        """0 while it runs, else its position in line, from 1. Raises ValueError for a place that was left."""
        return 0 if place in self._running else self.line().index(place) + 1

    def pause(self) -> None:
        """Let nobody in until `resume`; those who run go on."""
        self._paused = True

    def resume(self) -> None:
        """Let requests in again."""
        self._paused = False
        self._admit()

    def _admit(self) -> None:
        self._shares.refresh()
        while not self._paused and len(self._running) < self._parallel:
            place = self._shares.next_to_start(lambda place: place.size <= self._free_tokens)
            if place is None:
                return
            self._shares.start(place)
            self._running.add(place)
            self._free_tokens -= place.size


class Gate:
    """Lets requests through as `Admission` decides.

    A request reads its `positions` until there are no more; or it awaits its `turn`, where nobody is told of them.
    While it runs it tells what happens (`charge`). It ends with `leave`, always.
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

    def arrive(self, tokens: int, request: GenerateRequest | EmbedRequest) -> Place:
        """Join the line, reserving `tokens` tokens of KV cache."""
        place = self._admission.arrive(tokens, request)
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

    def charge(self, place: Place, event: EngineEvent) -> None:
        """Something was computed for a request that runs. What was cached costs nothing; the end tells it exactly."""
        match event:
            case Prefill(done, _, cached):
                self._admission.charge(place, done - cached)
            case Tokens(ids):
                self._admission.charge(place, place.charged + len(ids))
            case Finished(usage=usage):
                computed = usage.prompt_tokens - usage.cached_tokens
                self._admission.charge(place, computed + usage.completion_tokens)
            case _:
                pass

    async def positions(self, place: Place) -> AsyncGenerator[int]:
        """Its position in line, then each lower one, until it may run. Raises what `refuse_waiting` was given.

        Others with less than their share may go back and forth before it; nobody is told of that.
        """
        told = 0
        while position := self.position(place):
            if told and position >= told:
                await self._changed.wait()
            else:
                told = position
                yield position

    def embedded(self, place: Place) -> None:
        """An embedding was computed, of all that the place reserves."""
        self._admission.charge(place, place.size)

    async def turn(self, place: Place) -> None:
        """Sleep until the request may run. Raises what `refuse_waiting` was given."""
        while self.position(place):
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
