"""A turn as its owner may look at it: where its time went, and why."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass

from quern.engine.base import Engine
from quern.errors import TurnNotFound
from quern.prompt.codec import TextCodec
from quern.records import TurnRecord
from quern.store.turns import TurnStore
from quern.turns.archive import NO_TURN
from quern.turns.explanation import FirstUnknown, first_unknown
from quern.turns.recent import Queue, RecentTurn
from quern.turns.service import TurnService
from quern.turns.turn import Turn
from quern.types import TurnState, Usage


@dataclass(frozen=True, slots=True)
class TurnReport:
    """`remembered`: whether more is known than what is stored. `queue`: None where it did not wait; `first_unknown`:
    None where the cache knew all of the prompt, or it is not known yet; `mean_running`: turns at once while it ran,
    itself among them.
    """

    record: TurnRecord
    remembered: bool = False
    priority: str | None = None
    queue: Queue | None = None
    first_unknown: FirstUnknown | None = None
    mean_running: float | None = None


class TurnReports:
    """An owner's turns; another owner's don't exist."""

    def __init__(self, engine: Engine, codec: TextCodec, store: TurnStore, turns: TurnService) -> None:
        self._engine = engine
        self._codec = codec
        self._store = store
        self._turns = turns

    async def report(self, names: Sequence[str], owner: str) -> TurnReport:
        """The turn with one of these ids, or the newest of the request with one of them. Raises TurnNotFound."""
        turn = next((one for one in self._turns.turns_of(owner) if _named(one, names)), None)
        if turn is not None:
            now = time.monotonic()
            return await self._explained(self._record(turn, now), self._turns.observer.snapshot(turn, now))
        recent = next((one for one in self._turns.observer.recent if one.owner == owner and _named(one, names)), None)
        found = await self._store.by_ids([recent.id] if recent is not None else names)
        record = next((one for one in found if one.owner == owner), None)
        if record is None:
            raise TurnNotFound(NO_TURN)
        return await self._explained(record, recent) if recent is not None else TurnReport(record)

    async def _explained(self, record: TurnRecord, known: RecentTurn) -> TurnReport:
        unknown = None
        if record.started_at is not None:
            earlier = [*self._earlier(known)]
            cached = record.usage.cached_tokens
            unknown = await asyncio.to_thread(first_unknown, self._codec, known, cached, earlier)
        return TurnReport(record, True, known.priority, known.queue, unknown, known.mean_running)

    def _earlier(self, known: RecentTurn) -> list[RecentTurn]:
        """The owner's turns that came before, the newest first; of those that still run, their prompts too."""
        now, observer = time.monotonic(), self._turns.observer
        active = [observer.snapshot(one, now) for one in self._turns.turns_of(known.owner)]
        found = [*reversed(active), *(one for one in observer.recent if one.owner == known.owner)]
        return [one for one in found if one.arrived_at < known.arrived_at and one.id != known.id]

    def _record(self, turn: Turn, now: float) -> TurnRecord:
        running = turn.running_at is not None
        cached = turn.progress.cached if turn.progress is not None else 0
        return TurnRecord(
            id=turn.id,
            conversation_id=turn.conversation_id,
            owner=turn.owner,
            request_id=turn.request_id,
            model_id=self._engine.info.model_id,
            state=TurnState.RUNNING if running else TurnState.QUEUED,
            finish_reason=None,
            error=None,
            text=None,
            usage=Usage(len(turn.request.prompt), cached, turn.generated_tokens),
            timings=turn.timings(now),
            created_at=turn.created_at,
            started_at=turn.started_at,
            finished_at=None,
        )


def _named(turn: Turn | RecentTurn, names: Sequence[str]) -> bool:
    return turn.id in names or turn.request_id in names
