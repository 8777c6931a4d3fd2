"""Admission for coroutines: they sleep in line until they may run."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator

from quern.engine.admission import Admission, Place
from quern.engine.base import EmbedRequest, EngineEvent, Finished, GenerateRequest, Tokens
from quern.errors import EngineError
from quern.events import Prefill


class Gate:
    """Lets requests through as `Admission` decides.

    A request reads its `positions` until there are no more; or it awaits its `turn`, where nobody is told of them.
    While it runs it tells what happens (`charge`). One that is resumable may find that it waits again (`position`): it
    stops, tells when its slot is free (`vacate`), and awaits its turn. Each ends with `leave`, always.
    """

    def __init__(self, parallel: int, kv_tokens: int, slots: int | None = None) -> None:
        self._admission = Admission(parallel, kv_tokens, slots)
        self._changed = asyncio.Event()
        self._refused: dict[Place, EngineError] = {}

    @property
    def running(self) -> int:
        """Slots in use."""
        return self._admission.running

    @property
    def waiting(self) -> int:
        """Requests in line."""
        return self._admission.waiting

    def arrive(self, tokens: int, request: GenerateRequest | EmbedRequest, *, resumable: bool = False) -> Place:
        """Join the line, reserving `tokens` tokens of KV cache. `resumable`: it may have to give way later."""
        place = self._admission.arrive(tokens, request, resumable=resumable)
        self._notify()
        return place

    def leave(self, place: Place) -> None:
        """Give the place back, whether it waits or runs, and its slot."""
        self._refused.pop(place, None)
        self._admission.leave(place)
        self._notify()

    def cut_short(self, place: Place) -> None:
        """Give the place back, but not its slot yet; `leave` follows."""
        self._refused.pop(place, None)
        self._admission.cut_short(place)
        self._notify()

    def vacate(self, place: Place) -> None:
        """Give the slot back of a request that gave way, and waits."""
        self._admission.vacate(place)
        self._notify()

    def position(self, place: Place) -> int:
        """0 once the request may run, else its position in line. Raises what `refuse_waiting` was given."""
        position = self._admission.position(place)
        if position and place in self._refused:
            raise self._refused[place]
        return position

    def gives_way(self, place: Place) -> bool:
        """Whether a request that has run has to stop, and wait again. Raises what `refuse_waiting` was given."""
        return self.position(place) > 0

    def charge(self, place: Place, event: EngineEvent) -> None:
        """Something was computed for a request that runs. What was cached costs nothing; the end tells it exactly."""
        match event:
            case Prefill(done, _, cached):
                self._charge(place, done - cached)
            case Tokens(ids):
                self._charge(place, place.charged + len(ids))
            case Finished(usage=usage):
                computed = usage.prompt_tokens - usage.cached_tokens
                self._charge(place, computed + usage.completion_tokens)
            case _:
                pass

    def recomputes(self, place: Place, tokens: int) -> None:
        """A request goes on after it gave way; so many tokens of its own have to be computed again."""
        self._admission.recomputes(place, tokens)

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
        self._charge(place, place.size)

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

    def _charge(self, place: Place, tokens: int) -> None:
        if self._admission.charge(place, tokens):
            self._notify()

    def _notify(self) -> None:
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()
