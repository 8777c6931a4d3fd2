"""Turns that another server on the same database runs, as its journal tells of them; its reader may have been here, or
at a server that was lost.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass

import structlog

from quern.errors import StoreError, TurnNotFound
from quern.events import TurnEnded
from quern.records import TurnRecord
from quern.store.announcements import Announcements, Kind
from quern.store.generations import GenerationStore
from quern.store.turns import TurnStore
from quern.turns.archive import SERVER_STOPPED, Ended, TurnArchive
from quern.turns.decoder import AnswerDecoder
from quern.turns.event_log import TurnLog
from quern.turns.plan import TurnPlan, tell_again
from quern.types import TurnState

log = structlog.get_logger(__name__)

LOOK_SECONDS = 1.0
"""How long after it was written text is found whose announcement was missed."""
AT_MOST_EVERY = 0.05
GOES_ON_SECONDS = 30.0
"""How long an interrupted turn that goes on by itself may take to do so before its readers are told that it ended."""
CANCEL_SECONDS = 30.0

NOTHING_KEPT = (
    "This turn runs on another server, and what it writes is not kept (turns.resume_hours is 0), so it can be followed "
    "only there."
)
DELETED = "The turn was deleted."
CANCELLED = "The turn was cancelled."
NOT_FOLLOWED = "This server stops; the turn runs on another one. Follow it there: GET /v1/turns/{id}/events."


@dataclass(slots=True)
class _Followed:
    """A turn's log here, how its answer is read, and how many of its tokens are told."""

    ended: Ended
    decoder: AnswerDecoder
    told: int
    news: asyncio.Event
    stopped_at: float | None = None


class Elsewhere:
    """Follows turns of other servers, each once for all its readers, to its end. `goes_on`: whether a turn that was
    interrupted will go on by itself.
    """

    def __init__(
        self,
        archive: TurnArchive,
        store: TurnStore,
        generations: GenerationStore,
        announcements: Announcements,
        goes_on: Callable[[TurnRecord], bool],
    ) -> None:
        self._archive = archive
        self._store = store
        self._generations = generations
        self._announcements = announcements
        self._goes_on = goes_on
        self._followed: dict[str, _Followed] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    def heard(self, kind: Kind, turn_ids: Sequence[str]) -> None:
        """Something was announced."""
        if kind is Kind.MISSED:
            turn_ids = [*self._followed]
        elif kind is not Kind.TURNS:
            return
        for turn_id in turn_ids:
            if turn_id in self._followed:
                self._followed[turn_id].news.set()

    async def events(self, record: TurnRecord) -> Ended | None:
        """A turn that does not run here, with its events; None where it has ended and they are not kept any more, or
        can't be read without its model. Raises as `follow` does.
        """
        return await self._archive.ended(record) if record.state.terminal else await self.follow(record)

    async def follow(self, record: TurnRecord) -> Ended:
        """A turn that another server runs, with a log that grows as it does. Raises TurnNotFound where nothing of it is
        kept, TurnNotContinuable where its model is not served here, and StoreError.
        """
        known = self._followed.get(record.id)
        if known is not None:
            return known.ended
        model, kept = self._archive.model_of(record), await self._generations.so_far(record.id)
        if kept is None:
            raise TurnNotFound(NOTHING_KEPT)
        if record.id in self._followed:  # by another reader, meanwhile
            return self._followed[record.id].ended
        plan = TurnPlan.load(kept.plan)
        growing = TurnLog()
        followed = _Followed(
            Ended(record, model, plan, (), growing), plan.decoder(model.codec, record.id), 0, asyncio.Event()
        )
        self._followed[record.id] = followed
        followed.news.set()
        task = asyncio.get_running_loop().create_task(self._follow(followed))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return followed.ended

    async def cancel(self, record: TurnRecord) -> None:
        """Have the server that runs a turn cancel it, and wait until that is stored, for a while. Raises StoreError."""
        await self._announcements.announce(Kind.CANCEL, [record.id])
        deadline = time.monotonic() + CANCEL_SECONDS
        while time.monotonic() < deadline:
            found = await self._store.by_ids([record.id])
            if not found or found[0].state.terminal:
                return
            await asyncio.sleep(AT_MOST_EVERY)

    async def stop(self) -> None:
        """Follow no more. Readers that are still there are told that this server stops, and find the turn at others."""
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)

    async def _follow(self, followed: _Followed) -> None:
        turn_id = followed.ended.record.id
        try:
            while followed.ended.log.end is None:
                with suppress(TimeoutError):
                    await asyncio.wait_for(followed.news.wait(), LOOK_SECONDS)
                followed.news.clear()
                try:
                    await self._look(followed)
                except StoreError as error:
                    log.warning("turn_elsewhere_not_read", turn=turn_id, error=str(error))
                await asyncio.sleep(AT_MOST_EVERY)
        finally:
            del self._followed[turn_id]
            if followed.ended.log.end is None:
                followed.ended.log.settle()
                followed.ended.log.append(TurnEnded(TurnState.INTERRUPTED, error=NOT_FOLLOWED))

    async def _look(self, followed: _Followed) -> None:
        """Tell what there is by now."""
        turn_id, growing = followed.ended.record.id, followed.ended.log
        found = await self._store.by_ids([turn_id])
        if not found:
            growing.append(TurnEnded(TurnState.CANCELLED, error=DELETED))
            return
        record = found[0]
        if record.state.terminal and not self._waits(followed, record):
            await self._end(followed, record)
            return
        if not record.state.terminal:
            followed.stopped_at = None
        kept = await self._generations.so_far(turn_id)
        if kept is not None and len(kept.generated) > followed.told:
            written = await asyncio.to_thread(tell_again, followed.decoder, kept.generated[followed.told :])
            followed.told = len(kept.generated)
            growing.extend(written.events)

    async def _end(self, followed: _Followed, record: TurnRecord) -> None:
        growing, ended = followed.ended.log, await self._archive.ended(record)
        if ended is not None:
            before = ended.log.settled or 0
            growing.extend(ended.log.events[len(growing.events) : before])
            growing.settle()
            growing.extend(ended.log.events[before:])
        else:
            growing.settle()
            growing.append(record.end())

    def _waits(self, followed: _Followed, record: TurnRecord) -> bool:
        """Whether the end is that of a server only, after which the turn goes on."""
        if record.state is not TurnState.INTERRUPTED or record.error != SERVER_STOPPED or not self._goes_on(record):
            return False
        now = time.monotonic()
        if followed.stopped_at is None:
            followed.stopped_at = now
        return now - followed.stopped_at < GOES_ON_SECONDS
