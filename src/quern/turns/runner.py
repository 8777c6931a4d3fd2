"""Runs one admitted turn to its terminal event.

The terminal event is appended after the terminal state is stored, so whoever has seen a turn complete can rely on it.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import structlog

from quern.errors import EngineError, GrammarExhausted, StoreError
from quern.events import TurnEnded
from quern.records import UsageRecord
from quern.store.generations import GenerationEnd
from quern.store.turn_ends import TurnAlreadyEnded
from quern.store.turn_rows import TurnEnd
from quern.store.turns import TurnStore
from quern.turns.archive import SERVER_STOPPED
from quern.turns.generation import Generation
from quern.turns.journal import Journal
from quern.turns.observer import TurnObserver
from quern.turns.owner_turns import OwnerTurns
from quern.turns.turn import Turn
from quern.types import TurnState

log = structlog.get_logger(__name__)

STORE_RETRY_SECONDS = 1.0
DELETED = "The conversation was deleted."


class TurnRunner:
    """Generates a turn, ends it exactly once, stores the end. `resumable`: how long after that it can be told again."""

    def __init__(
        self,
        store: TurnStore,
        journal: Journal,
        owner_turns: OwnerTurns,
        observer: TurnObserver,
        *,
        resumable: timedelta,
    ) -> None:
        self._resumable = resumable
        self._observer = observer
        self._owner_turns = owner_turns
        self._store = store
        self._journal = journal

    async def run(self, turn: Turn) -> None:
        """Run the turn. What goes wrong becomes the turn's end; returns once that end is stored."""
        end = await self._generate(turn)
        self._journal.forget(turn.id)
        try:
            if not await self._store_end(turn, end):
                end = replace(end, state=TurnState.CANCELLED, finish_reason=None, error=DELETED)
        except StoreError as error:
            log.error("turn_end_not_saved", turn=turn.id, error=str(error))  # noqa: TRY400
            message = f"The answer could not be saved, so it is not part of the conversation. {error}"
            end = replace(end, state=TurnState.FAILED, finish_reason=None, error=message)
            turn.log.append(end)
            await self._store_end_later(turn, end)
        else:
            turn.log.append(end)
        log.info(
            "turn_ended",
            turn=turn.id,
            state=end.state,
            reason=end.finish_reason or end.error,
            prompt_tokens=end.usage.prompt_tokens,
            cached_tokens=end.usage.cached_tokens,
            completion_tokens=end.usage.completion_tokens,
            repairs=end.repairs,
            **({"loop": end.loop.detail} if end.loop is not None else {}),
            queued_ms=round(end.timings.queued_ms),
            prefill_ms=round(end.timings.prefill_ms),
            decode_ms=round(end.timings.decode_ms),
        )

    async def _generate(self, turn: Turn) -> TurnEnded:
        generation = Generation(turn, self._journal, self._observer)
        task = asyncio.get_running_loop().create_task(self._consume(turn, generation))
        turn.generation = task
        if turn.ending is not None:
            task.cancel()
        await _until_done(task)
        if task.cancelled():
            state, reason = turn.ending or (TurnState.INTERRUPTED, SERVER_STOPPED)
            return generation.ended_early(state, reason)
        error = task.exception()
        if error is None:
            return task.result()
        if isinstance(error, EngineError):
            end = generation.ended_early(TurnState.FAILED, str(error))
            return replace(end, by_request=isinstance(error, GrammarExhausted))
        log.error("turn_crashed", turn=turn.id, exc_info=error)
        return generation.crashed(f"{type(error).__name__}: {error}")

    async def _consume(self, turn: Turn, generation: Generation) -> TurnEnded:
        if self._owner_turns.full(turn.principal):
            self._observer.queued(turn)
        async with self._owner_turns.running(turn.principal):
            return await generation.consume(turn.model.engine)

    async def _store_end(self, turn: Turn, end: TurnEnded) -> bool:
        return await self._store.finish(
            TurnEnd(
                turn_id=turn.id,
                state=end.state,
                finish_reason=end.finish_reason,
                error=end.error,
                text="".join(turn.pieces) if turn.plan.kept else None,
                usage=end.usage,
                timings=end.timings,
                started_at=turn.started_at,
                finished_at=datetime.now(UTC),
                items=turn.answer().new_items(turn.id, turn.plan.prefill) if turn.plan.kept else (),
                repairs=end.repairs,
                loop=end.loop,
                used=self._used(turn, end),
                generation=self._kept(turn, end) if turn.resumable else None,
            )
        )

    def _kept(self, turn: Turn, end: TurnEnded) -> GenerationEnd:
        goes_on = bool(self._resumable) and not end.whole
        logprobs = [(one.value, one.top) for one in turn.logprobs]
        expires_at = None if turn.plan.keeps_events else datetime.now(UTC) + self._resumable
        return GenerationEnd(turn.generated, goes_on, expires_at, logprobs)

    def _used(self, turn: Turn, end: TurnEnded) -> UsageRecord:
        """What it adds to what it was charged before, should it have gone on."""
        again, before = bool(turn.request.generated), turn.earlier
        now, then = end.timings, before.timings
        return UsageRecord(
            day=datetime.now(UTC).date(),
            owner=turn.owner,
            model_id=turn.model.name,
            requests=0 if again else 1,
            prompt_tokens=max(0, end.usage.prompt_tokens - before.usage.prompt_tokens),
            cached_tokens=max(0, end.usage.cached_tokens - before.usage.cached_tokens),
            completion_tokens=max(0, end.usage.completion_tokens - before.usage.completion_tokens),
            compute_ms=now.prefill_ms + now.decode_ms - then.prefill_ms - then.decode_ms,
        )

    async def _store_end_later(self, turn: Turn, end: TurnEnded) -> None:
        while True:
            await asyncio.sleep(STORE_RETRY_SECONDS)
            try:
                await self._store_end(turn, end)
            except TurnAlreadyEnded:  # what reported an error was saved all the same
                return
            except StoreError as error:
                log.warning("turn_end_still_not_saved", turn=turn.id, error=str(error))
            else:
                return


async def _until_done(task: asyncio.Task[TurnEnded]) -> None:
    """Wait for the task without taking over its outcome; it never outlives the waiter."""
    try:
        await asyncio.wait([task])
    except asyncio.CancelledError:
        task.cancel()
        await asyncio.wait([task])
        raise
