"""A turn as its owner may look at it: where its time went, and why."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass

from quern.errors import TurnNotFound
from quern.events import TextDelta
from quern.records import Page, TurnRecord
from quern.store.turns import TurnStore
from quern.turns.archive import TurnArchive
from quern.turns.elsewhere import CANCELLED, Elsewhere
from quern.turns.event_log import TurnLog
from quern.turns.explanation import FirstUnknown, first_unknown
from quern.turns.models import Models
from quern.turns.recent import Queue, RecentTurn
from quern.turns.service import TurnService
from quern.turns.turn import Turn
from quern.types import TurnState, Usage

NOT_KEPT = "What this turn wrote is not kept any more (turns.resume_hours), only that it was there: GET /v1/turns/{id}."


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


@dataclass(frozen=True, slots=True)
class OpenTurn:
    """A turn and its events; `turn` is there while it runs."""

    record: TurnRecord
    log: TurnLog
    turn: Turn | None


class TurnReports:
    """An owner's turns; another owner's don't exist."""

    def __init__(
        self,
        models: Models,
        store: TurnStore,
        turns: TurnService,
        archive: TurnArchive,
        elsewhere: Elsewhere,
    ) -> None:
        self._archive = archive
        self._elsewhere = elsewhere
        self._models = models
        self._store = store
        self._turns = turns

    async def record(self, names: Sequence[str], owner: str) -> TurnRecord:
        """The turn with one of these ids, or the newest of the request with one of them. Raises TurnNotFound."""
        turn = self._active(names, owner)
        return self._record(turn, time.monotonic()) if turn is not None else (await self._ended(names, owner))[0]

    async def report(self, names: Sequence[str], owner: str) -> TurnReport:
        """The same, explained. Raises TurnNotFound."""
        turn = self._active(names, owner)
        if turn is not None:
            now = time.monotonic()
            return await self._explained(self._record(turn, now), self._turns.observer.snapshot(turn, now))
        record, recent = await self._ended(names, owner)
        return await self._explained(record, recent) if recent is not None else TurnReport(record)

    async def open(self, names: Sequence[str], owner: str) -> OpenTurn:
        """The same, to be followed from its first event. Raises TurnNotFound."""
        turn = self._active(names, owner)
        if turn is not None:
            return OpenTurn(self._record(turn, time.monotonic()), turn.log, turn)
        record, _ = await self._ended(names, owner)
        ended = await self._elsewhere.events(record)
        return OpenTurn(record, ended.log if ended is not None else _text_alone(record), None)

    async def page(
        self, owner: str, *, limit: int, after: str | None, state: TurnState | None, conversation_id: str | None
    ) -> Page[TurnRecord]:
        """An owner's turns, the newest first. Raises InvalidRequest where `after` names none."""
        return await self._store.page(owner, limit=limit, after=after, state=state, conversation_id=conversation_id)

    async def cancel(self, names: Sequence[str], owner: str) -> str:
        """End a turn that runs, wherever it does, as cancelled, and wait until that is stored; its id. Raises
        TurnNotFound.
        """
        found = await self.record(names, owner)
        turn = self._turns.turn(found.id, owner)
        if turn is not None:
            await self._turns.cancel(turn, CANCELLED)
        elif not found.state.terminal:
            await self._elsewhere.cancel(found)
        return found.id

    def _active(self, names: Sequence[str], owner: str) -> Turn | None:
        known = self._turns.observer.recent.names(names, owner)
        return next((one for one in self._turns.turns_of(owner) if _named(one, known)), None)

    async def _ended(self, names: Sequence[str], owner: str) -> tuple[TurnRecord, RecentTurn | None]:
        """A turn that has ended, and what is remembered of it."""
        known = self._turns.observer.recent.names(names, owner)
        recent = next((one for one in self._turns.observer.recent if one.owner == owner and _named(one, known)), None)
        return await self._archive.record([recent.id] if recent is not None else known, owner), recent

    async def _explained(self, record: TurnRecord, known: RecentTurn) -> TurnReport:
        unknown, model = None, self._models.by_id(record.model_id)
        if record.started_at is not None and model is not None:
            earlier = [*self._earlier(known)]
            cached = record.usage.cached_tokens
            unknown = await asyncio.to_thread(first_unknown, model.codec, known, cached, earlier)
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
            model_id=turn.model.name,
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


def _text_alone(record: TurnRecord) -> TurnLog:
    """All that is known of the events of an old turn. Raises TurnNotFound where that is nothing."""
    if record.text is None:
        raise TurnNotFound(NOT_KEPT)
    return TurnLog([*([TextDelta(record.text)] if record.text else []), record.end()])


def _named(turn: Turn | RecentTurn, names: Sequence[str]) -> bool:
    return turn.id in names or turn.request_id in names
