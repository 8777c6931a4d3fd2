"""One engine generation, seen as a turn's events: text instead of token ids, stop strings, the turn's own clock."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import aclosing
from datetime import UTC, datetime

from quern.engine.base import Engine, Finished, Logprob, Tokens
from quern.errors import EngineFailed
from quern.events import Loading, Prefill, Queued, TurnEnded
from quern.turns.journal import Journal
from quern.turns.observer import TurnObserver
from quern.turns.turn import Turn
from quern.types import FinishReason, Loop, Timings, TurnState, Usage


class Generation:
    """Writes a turn's queue, prefill and answer events; its terminal event is the caller's to append."""

    def __init__(self, turn: Turn, journal: Journal, observer: TurnObserver) -> None:
        self._turn = turn
        self._decoder = turn.decoder
        self._journal = journal
        self._observer = observer
        self._observe_gap = observer.observe_gap
        self._last_token_at = 0.0
        self._journaled = turn.plan.kept or turn.resumable
        turn.admitted_at = time.monotonic()

    async def consume(self, engine: Engine) -> TurnEnded:
        """Generate until the model, a limit, a stop string or a loop ends it. Raises EngineError; cancelling it cancels
        the sequence.
        """
        async with aclosing(engine.generate(self._turn.request)) as events:
            async for event in events:
                match event:
                    case Loading():
                        self._turn.log.append(event)
                    case Queued():
                        self._observer.queued(self._turn)
                        self._turn.log.append(event)
                    case Prefill():
                        self._start()
                        self._turn.progress = _of_prompt(event, len(self._turn.request.prompt))
                        self._turn.log.append(self._turn.progress)
                    case Tokens(ids, logprobs):
                        self._start()
                        self._arrive()
                        for index, token_id in enumerate(ids):
                            end = self._take(token_id, logprobs[index : index + 1] if logprobs is not None else None)
                            if end is not None:
                                return end
                    case Finished(reason, usage, timings):
                        self._finish()
                        return self._completed(reason, usage, timings)
        msg = "The engine ended the generation without saying why."
        raise EngineFailed(msg)

    def ended_early(self, state: TurnState, error: str) -> TurnEnded:
        """The terminal event of a turn that did not complete, with what was measured so far."""
        self._finish()
        self._turn.log.extend(self._decoder.output.finish())
        repairs = self._decoder.output.repairs
        timings = self._turn.timings(time.monotonic()) + self._turn.earlier.timings
        return TurnEnded(state, None, error, self._usage(), timings, repairs=repairs)

    def crashed(self, error: str) -> TurnEnded:
        """The terminal event after a bug. What decodes the answer may be what crashed, so it is asked nothing more."""
        timings = self._turn.timings(time.monotonic()) + self._turn.earlier.timings
        return TurnEnded(TurnState.FAILED, None, error, self._usage(), timings)

    def _take(self, token_id: int, logprobs: Sequence[Logprob] | None) -> TurnEnded | None:
        """Tell and journal one more token, however many come at once: so they are told the same way again. How the
        answer ends, where that is its end.
        """
        turn = self._turn
        turn.count(token_id)
        if logprobs is not None and turn.plan.keyed:
            turn.logprobs += logprobs
        decoded = self._decoder.decode((token_id,), logprobs)
        turn.pieces.append(decoded.text)
        if self._journaled:
            self._journal.wrote(turn)
        turn.log.extend(decoded.events)
        if self._decoder.complete or turn.concluding:
            return self._completed(FinishReason.STOP, self._usage(), turn.timings(time.monotonic()))
        loop = self._decoder.output.loop or turn.loop_limits.look(turn.generated)
        if loop is None:
            return None
        self._finish()
        return self._completed(FinishReason.STOP, self._usage(), turn.timings(time.monotonic()), loop)

    def _completed(self, reason: FinishReason, usage: Usage, timings: Timings, loop: Loop | None = None) -> TurnEnded:
        """The terminal event of an answer that ends here. Where a loop ended one that has to be JSON, or cut a call
        off, it is not whole, and nobody may take it for that.
        """
        output, timings = self._decoder.output, timings + self._turn.earlier.timings
        self._turn.log.settle()
        self._turn.log.extend(output.finish())
        loop = loop or output.loop
        if loop is not None and (self._turn.request.grammar is not None or output.cut_off):
            reason = FinishReason.LENGTH
        elif reason is FinishReason.STOP and output.calls_ended and not output.cut_off:
            reason = FinishReason.TOOL_CALLS
        stop, repairs = self._decoder.stop, output.repairs
        return TurnEnded(TurnState.COMPLETED, reason, None, usage, timings, stop, repairs, loop=loop)

    def _start(self) -> None:
        if self._turn.running_at is None:
            self._turn.running_at = time.monotonic()
            self._observer.started(self._turn, self._turn.running_at)
            self._turn.started_at = datetime.now(UTC)
            self._journal.start(self._turn, self._turn.started_at)

    def _arrive(self) -> None:
        """More tokens have come."""
        now = time.monotonic()
        if self._turn.first_token_at is None:
            self._turn.first_token_at = now
            self._observer.first_token(self._turn, now)
        else:
            self._observe_gap(now - self._last_token_at)
        self._last_token_at = now

    def _finish(self) -> None:
        decoded = self._decoder.decode((), last=True)
        self._turn.log.settle()
        if decoded.text:
            self._turn.pieces.append(decoded.text)
        self._turn.log.extend(decoded.events)

    def _usage(self) -> Usage:
        cached = self._turn.progress.cached if self._turn.progress is not None else 0
        return Usage(len(self._turn.request.prompt), cached, self._turn.generated_tokens)


def _of_prompt(progress: Prefill, prompt_tokens: int) -> Prefill:
    """Progress that counts the prompt alone, not what was generated before and is computed again."""
    if progress.total <= prompt_tokens:
        return progress
    return Prefill(min(progress.done, prompt_tokens), prompt_tokens, min(progress.cached, prompt_tokens))
