"""One engine generation, seen as a turn's events: text instead of token ids, stop strings, the turn's own clock."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from contextlib import aclosing

from quern.engine.base import Engine, Finished, Prefill, Queued, Tokens
from quern.errors import EngineFailed
from quern.store.schema import storable
from quern.store.turns import JournalEntry
from quern.turns.events import AnswerEvent, TurnEnded, TurnLogprobs, TurnPrefill, TurnQueued
from quern.turns.journal import Journal
from quern.turns.turn import Turn
from quern.types import FinishReason, Timings, TurnState, Usage


class Generation:
    """Writes a turn's queue, prefill and answer events; its terminal event is the caller's to append."""

    def __init__(self, turn: Turn, journal: Journal, on_running: Callable[[], Awaitable[None]]) -> None:
        self._turn = turn
        self._text = turn.how_to_read.text
        self._answer = turn.how_to_read.answer
        self._logprobs = turn.how_to_read.logprobs
        self._journal = journal
        self._on_running = on_running
        self._admitted = time.monotonic()
        self._running_since: float | None = None
        self._cached_tokens = 0

    async def consume(self, engine: Engine) -> TurnEnded:
        """Generate until the model, a limit or a stop string ends it. Raises EngineError; cancelling it cancels the
        sequence.
        """
        async with aclosing(engine.generate(self._turn.request)) as events:
            async for event in events:
                match event:
                    case Queued(position):
                        self._turn.log.append(TurnQueued(position))
                    case Prefill(done, total, cached):
                        await self._runs()
                        self._cached_tokens = cached
                        self._turn.log.append(TurnPrefill(done, total, cached))
                    case Tokens(ids, logprobs):
                        await self._runs()
                        self._count(ids)
                        if self._logprobs is not None:
                            self._logprobs.push(ids, logprobs)
                        self._show(self._text.push(ids), len(ids))
                        if self._over:
                            return self._completed(FinishReason.STOP, self._usage(), self._timings())
                    case Finished(reason, usage, timings):
                        self._show(self._text.finish(), 0)
                        return self._completed(reason, usage, timings)
        msg = "The engine ended the generation without saying why."
        raise EngineFailed(msg)

    def ended_early(self, state: TurnState, error: str) -> TurnEnded:
        """The terminal event of a turn that did not complete, with what was measured so far."""
        self._show(self._text.finish(), 0)
        self._tell(self._answer.finish())
        return TurnEnded(state, None, error, self._usage(), self._timings(), repairs=self._answer.repairs)

    def crashed(self, error: str) -> TurnEnded:
        """The terminal event after a bug. What reads the answer may be what crashed, so it is asked nothing more."""
        return TurnEnded(TurnState.FAILED, None, error, self._usage(), self._timings())

    @property
    def _over(self) -> bool:
        """Whether the answer is whole before the model says so."""
        return self._text.stopped or self._turn.concluding or self._answer.over

    def _completed(self, reason: FinishReason, usage: Usage, timings: Timings) -> TurnEnded:
        self._tell(self._answer.finish())
        if reason is FinishReason.STOP and self._answer.calls_ended and not self._answer.cut_off:
            reason = FinishReason.TOOL_CALLS
        stop, repairs = self._text.stopped_by, self._answer.repairs
        return TurnEnded(TurnState.COMPLETED, reason, None, usage, timings, stop, repairs)

    async def _runs(self) -> None:
        if self._running_since is None:
            self._running_since = time.monotonic()
            await self._on_running()

    def _count(self, ids: tuple[int, ...]) -> None:
        if self._turn.first_token_at is None:
            self._turn.first_token_at = time.monotonic()
        self._turn.generated_tokens += len(ids)

    def _show(self, text: str, tokens: int) -> None:
        if not text:
            return
        turn = self._turn
        if turn.kept:
            text = storable(text)
        turn.pieces.append(text)
        if turn.kept:
            self._journal.add(JournalEntry(turn.id, len(turn.pieces), text), tokens)
        if self._logprobs is not None and (shown := self._logprobs.shown(text)):
            turn.log.append(TurnLogprobs(shown))
        self._tell(self._answer.push(text))

    def _tell(self, events: list[AnswerEvent]) -> None:
        for event in events:
            self._turn.log.append(event)

    def _usage(self) -> Usage:
        return Usage(len(self._turn.request.prompt), self._cached_tokens, self._turn.generated_tokens)

    def _timings(self) -> Timings:
        now = time.monotonic()
        running = self._running_since if self._running_since is not None else now
        first_token = self._turn.first_token_at if self._turn.first_token_at is not None else now
        return Timings(
            queued_ms=(running - self._admitted) * 1000,
            prefill_ms=(first_token - running) * 1000,
            decode_ms=(now - first_token) * 1000,
        )
