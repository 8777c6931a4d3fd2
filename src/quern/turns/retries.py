"""Retries get the turns of the request that they repeat: by its key, or where its connection was lost a moment ago."""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Protocol
from weakref import WeakValueDictionary

import structlog

from quern.config import TurnSettings
from quern.errors import KeyReused, StoreError, TurnNotContinuable, TurnNotFound
from quern.records import TurnRecord
from quern.store.idempotency import IdempotencyStore, NewKey
from quern.turns.archive import Ended, TurnArchive
from quern.turns.disconnect_policy import CONNECTION_CLOSED
from quern.turns.request import Caller, TurnRequest
from quern.turns.turn import Turn
from quern.types import AttachedBy, TurnState

log = structlog.get_logger(__name__)

NOT_ALL = "Not all of the choices could be started."
OTHER_REQUEST = (
    "This Idempotency-Key was sent before with another body or to another path, and stands for that request "
    "for {hours:g} hours. Send the same request again, or another key."
)


class Starter(Protocol):
    """Who starts turns, and knows those that are active."""

    def turn(self, turn_id: str, owner: str) -> Turn | None:
        """An active turn."""
        ...

    async def start_new(self, request: TurnRequest) -> Turn:
        """Start a turn, whatever was asked before."""
        ...

    async def resume(
        self, turn_id: str, caller: Caller, more_tokens: int | None = None, key: NewKey | None = None
    ) -> Turn:
        """Go on with a turn that stopped, whatever was asked before."""
        ...

    def tell(self, ended: Ended, caller: Caller) -> Turn:
        """A turn that has ended, to be read again."""
        ...

    def attached(self, by: AttachedBy, caller: Caller) -> None:
        """A retry got turns that were there, those that its caller has adopted."""
        ...


@dataclass(frozen=True, slots=True)
class _Lost:
    """The turns of a request whose connection was lost before its answer was sent, and when, in seconds of the
    monotonic clock.
    """

    turns: Sequence[Turn]
    at: float

    def waits(self, seconds: float, *, busy: bool) -> bool:
        """Whether a retry gets these turns: for so many seconds, or where it would be refused otherwise as long as one
        of them runs.
        """
        whole = all(turn.ending is None and _ended_as(turn) in (None, TurnState.COMPLETED) for turn in self.turns)
        runs = any(turn.log.end is None for turn in self.turns)
        return whole and (time.monotonic() - self.at <= seconds or (busy and runs))


class Retries:
    """Starts the turns of requests, or finds those that a request is a retry of."""

    def __init__(self, turns: Starter, keys: IdempotencyStore, archive: TurnArchive, settings: TurnSettings) -> None:
        self._turns = turns
        self._keys = keys
        self._archive = archive
        self._settings = settings
        self._locks: WeakValueDictionary[tuple[str, str], asyncio.Lock] = WeakValueDictionary()
        self._started: WeakValueDictionary[str, Turn] = WeakValueDictionary()
        self._lost: defaultdict[Hashable, list[_Lost]] = defaultdict(list)

    async def turns_of(self, requests: Sequence[TurnRequest]) -> list[Turn]:
        """The turns of one HTTP request's parts. Where one is refused, those that were started don't go on.

        Raises KeyReused, and what `Starter.start_new` raises.
        """
        caller = requests[0].caller
        key = self._key_of(caller)
        if key is not None:
            lock = self._locks.setdefault((caller.owner, key), asyncio.Lock())
            async with lock:  # the same at the same moment waits until the turns of the first are there
                return await self._under_key(key, requests)
        lost = await self._take_lost(caller, len(requests), busy=requests[0].conversation_id is not None)
        if lost is not None:
            return lost
        turns = await self._start(requests, {})
        self._started.update({turn.id: turn for turn in turns})
        return turns

    async def go_on(self, turn_id: str, caller: Caller, more_tokens: int | None) -> Turn:
        """The turn as it goes on for a request, or went on for the one that it repeats.

        Raises KeyReused, and what `Starter.resume` raises.
        """
        key = self._key_of(caller)
        if key is not None:
            async with self._locks.setdefault((caller.owner, key), asyncio.Lock()):
                known = await self._known(key, caller)
                turn = await self._again(known[0], caller) if 0 in known else None
                if turn is not None:
                    self._attach(caller, [turn], AttachedBy.KEY)
                    return turn
                return await self._turns.resume(turn_id, caller, more_tokens, self._new_key(key, caller))
        lost = await self._take_lost(caller, 1, busy=True)
        if lost is not None:
            return lost[0]
        turn = await self._turns.resume(turn_id, caller, more_tokens)
        self._started[turn_id] = turn
        return turn

    def connection_lost(self, caller: Caller) -> None:
        """The client of a request has gone before its answer was sent."""
        turns = [self._started[turn_id] for turn_id in caller.turn_ids if turn_id in self._started]
        self._forget_lost(lambda lost: lost.turns == turns)
        asks_again = self._settings.adopt_retries and self._key_of(caller) is None
        if turns and asks_again and caller.known_by is not None:
            self._lost[caller.known_by].append(_Lost(turns, time.monotonic()))
            loop = asyncio.get_running_loop()
            loop.call_later(self._settings.adopt_seconds + 1, self._forget_lost)  # answers are not kept in memory

    def _forget_lost(self, which: Callable[[_Lost], bool] = lambda _: False) -> None:
        """Those that nobody can come for any more, and `which` of the others."""
        seconds = self._settings.adopt_seconds
        for known_by in [*self._lost]:
            left = [lost for lost in self._lost[known_by] if lost.waits(seconds, busy=True) and not which(lost)]
            if left:
                self._lost[known_by] = left
            else:
                del self._lost[known_by]

    async def _take_lost(self, caller: Caller, count: int, *, busy: bool) -> list[Turn] | None:
        """The `count` turns of an equal request whose connection was lost. One lost connection is one retry: two
        clients that ask the same get an answer each. `busy`: while those turns run the request would be refused.
        """
        known_by, seconds = caller.known_by, self._settings.adopt_seconds
        for lost in self._lost.get(known_by, ()):
            if len(lost.turns) == count and lost.waits(seconds, busy=busy):
                self._lost[known_by].remove(lost)
                if not await self._kept(lost.turns):
                    return None
                self._attach(caller, lost.turns, AttachedBy.CONNECTION)
                return list(lost.turns)
        return None

    async def _kept(self, turns: Sequence[Turn]) -> bool:
        """Whether none of them was deleted since it ended."""
        try:
            for turn in turns:
                if self._turns.turn(turn.id, turn.owner) is None:
                    await self._archive.record([turn.id], turn.owner)
        except TurnNotFound:
            return False
        return True

    def _attach(self, caller: Caller, turns: Sequence[Turn], by: AttachedBy) -> None:
        for turn in turns:
            if turn.held:
                with turn.attach(streamed=True):  # the time that it is held begins anew
                    pass
        caller.adopted.extend(turn.id for turn in turns)
        caller.turn_ids.extend(turn.id for turn in turns if turn.id not in caller.turn_ids)
        self._turns.attached(by, caller)
        log.info("retry_attached", by=by.value, turns=caller.adopted)

    def _key_of(self, caller: Caller) -> str | None:
        return caller.idempotency_key if self._settings.idempotency_hours else None

    async def _under_key(self, key: str, requests: Sequence[TurnRequest]) -> list[Turn]:
        caller = requests[0].caller
        known = await self._known(key, caller)
        keyed = [replace(one, key=self._new_key(key, caller, position)) for position, one in enumerate(requests)]
        return await self._start(keyed, known)

    async def _known(self, key: str, caller: Caller) -> Mapping[int, str]:
        """The ids of the turns that the request started under this key, by their positions. Raises KeyReused."""
        known = await self._keys.get(caller.owner, key, datetime.now(UTC))
        if known is None:
            return {}
        if known.fingerprint != caller.body_digest:
            raise KeyReused(OTHER_REQUEST.format(hours=self._settings.idempotency_hours))
        return known.turn_ids

    def _new_key(self, key: str, caller: Caller, position: int = 0) -> NewKey:
        expires_at = datetime.now(UTC) + timedelta(hours=self._settings.idempotency_hours)
        return NewKey(key, position, caller.body_digest, expires_at)

    async def _start(self, requests: Sequence[TurnRequest], known: Mapping[int, str]) -> list[Turn]:
        """A turn for each request; for those at `known` positions the turns of these ids. Who is refused leaves nothing
        that runs, and no key.
        """
        turns: list[Turn] = []
        started: list[Turn] = []
        try:
            for position, request in enumerate(requests):
                turn = (
                    await self._again(known[position], request.caller, kept=request.kept) if position in known else None
                )
                if turn is None:
                    turn = await self._turns.start_new(request)
                    started.append(turn)
                turns.append(turn)
        except BaseException:
            for turn in started:
                turn.end_early(TurnState.CANCELLED, NOT_ALL)
            await self._release(requests[0], started)
            raise
        conversation_id = requests[0].conversation_id
        if started and conversation_id is not None:  # it goes on: nobody asks for what was answered before
            self._forget_lost(lambda lost: lost.turns[0].conversation_id == conversation_id)
        if len(started) < len(turns):
            found = [turn for turn in turns if turn not in started]
            self._attach(requests[0].caller, found, AttachedBy.KEY)
        return turns

    async def _again(self, turn_id: str, caller: Caller, *, kept: bool = True) -> Turn | None:
        """The turn that the first request started, as it runs, or as it ended. One that stopped although nobody wanted
        that goes on where it did. None where it can't and, if what is said is not `kept`, is begun anew.
        """
        active = await self._active(turn_id, caller)
        if active is not None:
            return active
        try:
            record = await self._archive.record([turn_id], caller.owner)
        except TurnNotFound:
            return None
        if _stopped_unasked(record):
            try:
                return await self._turns.resume(turn_id, caller)
            except TurnNotContinuable:
                # It may go on by itself since.
                active = await self._active(turn_id, caller)
                if active is not None or not kept:
                    return active
        ended = await self._archive.ended(record) if record.state.terminal else None
        return self._turns.tell(ended, caller) if ended is not None else None

    async def _active(self, turn_id: str, caller: Caller) -> Turn | None:
        """A turn that runs. One that is just being ended is waited for, until that is stored."""
        turn = self._turns.turn(turn_id, caller.owner)
        if turn is None or turn.ending is None or turn.life is None:
            return turn
        await asyncio.wait([turn.life])
        return None

    async def _release(self, request: TurnRequest, started: Sequence[Turn]) -> None:
        if request.key is None or not started:
            return
        try:
            await self._keys.release(request.caller.owner, request.key.key, [turn.id for turn in started])
        except StoreError as error:
            log.warning("key_not_released", error=str(error))


def _ended_as(turn: Turn) -> TurnState | None:
    return turn.log.end.state if turn.log.end is not None else None


def _stopped_unasked(record: TurnRecord) -> bool:
    """Whether a turn has no whole answer, and that is not what its owner asked for."""
    if record.state is TurnState.CANCELLED:
        return (record.error or "").startswith((CONNECTION_CLOSED, NOT_ALL))
    return record.state in (TurnState.FAILED, TurnState.INTERRUPTED)
