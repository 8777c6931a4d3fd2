"""Who runs and who waits: a decision over sequences and the KV cache that they share. Pure: no clock, no thread.

Requests start in the order of their owners' fair shares. Each one reserves the most tokens it can ever hold, so a
sequence that was let in never finds the cache full. One that doesn't fit yet may be overtaken by smaller ones, but by
no more than its own size: then it holds back everyone behind it.

Where the first in line finds no place or no room, those who run with more than their share, or for what is less urgent,
give way if they can go on later: they lose their place and wait again. Whoever computes takes a step or two to notice,
so such a one is leaving until then: it keeps its slot and what it has computed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from quern.engine.base import EmbedRequest, GenerateRequest
from quern.engine.fair_shares import MINIMUM_RUN, Claim, FairShares

LEAVING_TOKENS = 64
"""A sequence that is leaving draws no more than so many before it is noticed: one a step."""

REVIEWED_TOKENS = 16
"""Each time a sequence has cost so many more, who gives way is decided anew."""


@dataclass(slots=True, eq=False)
class Place(Claim):
    """One request's place, waiting or running. `size` is what it reserves.

    `resumable`: it can go on after it has given way. `charged`: tokens that were computed for it so far. It has run
    long enough to give way again once that is `settled_at`. `held`: tokens of the KV cache that are kept for it.
    """

    resumable: bool = False
    charged: int = 0
    settled_at: int = 0
    held: int = 0

    @property
    def settled(self) -> bool:
        """Whether it has run long enough to give way again."""
        return self.charged >= self.settled_at


class Admission:
    """`parallel` sequences share `kv_tokens` tokens of KV cache.

    Together with those that are leaving they have `slots`, as many as places unless more are given.
    """

    def __init__(self, parallel: int, kv_tokens: int, slots: int | None = None) -> None:
        self._parallel = parallel
        self._slots = parallel if slots is None else slots
        self._kv_tokens = kv_tokens
        self._arrivals = 0
        self._paused = False
        self._shares = FairShares(parallel)
        self._places: dict[int, Place] = {}
        self._running: set[Place] = set()
        self._leaving: set[Place] = set()

    @property
    def running(self) -> int:
        """Slots in use."""
        return len(self._running) + len(self._leaving)

    @property
    def waiting(self) -> int:
        """Requests in line."""
        return self._shares.waiting

    def line(self) -> tuple[Place, ...]:
        """Everyone in line, first in line first."""
        return tuple(self._places[claim.number] for claim in self._shares.line())

    def arrive(self, tokens: int, request: GenerateRequest | EmbedRequest, *, resumable: bool = False) -> Place:
        """Join the line; the place may be running at once. Raises ValueError where it could never fit."""
        if tokens > self._kv_tokens:
            msg = f"a request of {tokens} tokens never fits a cache of {self._kv_tokens}"
            raise ValueError(msg)
        self._arrivals += 1
        place = Place(self._arrivals, tokens, request, resumable=resumable)
        self._shares.arrive(place)
        self._places[place.number] = place
        self._admit()
        return place

    def leave(self, place: Place) -> None:
        """Give a place back, whether it waits or runs, and its slot. Leaving twice is harmless."""
        self._running.discard(place)
        self._leaving.discard(place)
        self._forget(place)
        self._admit()

    def cut_short(self, place: Place) -> None:
        """Its request has ended, but what computes has not noticed yet: it is leaving until `leave`."""
        if place in self._running:
            self._begin_leaving(place)
        self._forget(place)
        self._admit()

    def vacate(self, place: Place) -> None:
        """The slot of one that gave way is free."""
        self._leaving.discard(place)
        self._admit()

    def charge(self, place: Place, tokens: int) -> bool:
        """So many tokens were computed for a request since it began; harmless where it has left. Whether that has let
        somebody in.
        """
        if place.number not in self._places:
            return False
        before, place.charged = place.charged, tokens
        self._shares.charge(place, tokens - before)
        return tokens // REVIEWED_TOKENS != before // REVIEWED_TOKENS and self._admit()

    def recomputes(self, place: Place, tokens: int) -> None:
        """It runs again, and so many tokens have to be computed a second time, which shall pay off."""
        place.settled_at = max(place.settled_at, place.charged + tokens)

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

    def _admit(self) -> bool:
        """Let in as many as there is room for; whether that was anybody."""
        self._shares.refresh()
        admitted = False
        while not self._paused and (line := self.line()):
            giving_way = self._giving_way(line[0])
            for other in giving_way or ():
                self._begin_leaving(other)
                self._shares.stop(other)
                other.settled_at = other.charged + MINIMUM_RUN
            claim = line[0] if giving_way is not None else self._shares.next_to_start(self._fits)
            if claim is None or not self._fits(claim):
                break
            self._start(self._places[claim.number])
            admitted = True
        return admitted

    def _start(self, place: Place) -> None:
        self._shares.start(place)
        self._running.add(place)
        place.held = place.size

    def _begin_leaving(self, place: Place) -> None:
        self._running.remove(place)
        self._leaving.add(place)
        place.held = min(place.size, len(place.request.prompt) + place.charged + LEAVING_TOKENS)

    def _forget(self, place: Place) -> None:
        self._shares.leave(place)
        self._places.pop(place.number, None)

    def _giving_way(self, claim: Place) -> list[Place] | None:
        """Who has to give way for the first in line to find room, at once or when those who are leaving have left: the
        fewest that do. None where it can't find any.
        """
        if self._will_fit(claim):
            return []
        reserved = sum(other.size for other in self._running if other.priority is claim.priority)
        if self._shares.is_too_urgent(claim, reserved + claim.size, self._kv_tokens):
            return None
        yielding = self._shares.make_way(
            claim,
            enough=lambda yielding: self._will_fit(claim, without=yielding),
            settled=lambda other: self._places[other.number].settled,
            able=lambda other: self._places[other.number].resumable,
        )
        return [self._places[other.number] for other in yielding] if yielding is not None else None

    def _will_fit(self, claim: Place, without: Sequence[Claim] = ()) -> bool:
        """Whether there would be a place and room for one more if some who run gave way, and nobody were leaving."""
        staying = self._running.difference(without)
        reserved = sum(other.held for other in staying)
        return len(staying) < self._parallel and reserved + claim.size <= self._kv_tokens

    def _fits(self, claim: Claim) -> bool:
        """Whether there is a place, a slot and room for one more. One that is leaving itself has no slot yet."""
        held = sum(other.held for other in self._running | self._leaving)
        return (
            len(self._running) < self._parallel
            and self.running < self._slots
            and held + claim.size <= self._kv_tokens
            and claim not in self._leaving
        )
