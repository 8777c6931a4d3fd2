"""One run of an answer on a server of completions, seen as the engine's events."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing

from quern.engine.base import EngineEvent, Finished, Tokens
from quern.engine.completions.client import CUT_SHORT, Accepted, CompletionSource
from quern.engine.completions.request import Asked
from quern.engine.completions.stream import Computed, Counted, Ended, Generated, Part
from quern.errors import EngineFailed, ServerLost
from quern.events import Prefill
from quern.grammar.compiler import CompiledGrammar, Constraint
from quern.types import FinishReason, Timings, Usage

DISOBEYED = (
    "The inference server did not keep this answer to its grammar, so the answer was lost: the grammar became too "
    "complex for it, or the request's logit_bias ruled out all that was allowed. Ask for a simpler form, without such "
    "a bias, or serve the model with the engine cpu (engine.name)."
)


class CompletionRun:
    """`over`: the server has ended it by itself. Cutting it short closes the connection, over which the server is done
    with it at once, so nobody waits for that.

    Of the prompt's progress most servers say nothing: it has begun, and with the first token it is done. `grammar` is
    the request's: what the server draws is checked, since it draws on without a grammar that has become too complex for
    it.
    """

    exact = True
    reusable = 0

    def __init__(
        self,
        asked: Asked,
        source: CompletionSource,
        grammar: CompiledGrammar | None = None,
    ) -> None:
        self._asked = asked
        self._source = source
        self._grammar = grammar
        self._constraint: Constraint | None = None
        self._began = time.monotonic()
        self._first_token_at: float | None = None
        self._tokens = 0
        self._cached = 0
        self._reason: FinishReason | None = None
        self.over = False

    async def events(self) -> AsyncGenerator[EngineEvent]:
        """Generate. Raises EngineFailed, and ConnectionError where the server can't be reached."""
        if self._grammar is not None:
            self._constraint = await asyncio.to_thread(self._grammar.constraint)
        async with aclosing(self._source.complete(self._asked)) as parts:
            async for part in parts:
                if isinstance(part, Generated):
                    await self._check(part.ids)
                for event in self._told(part):
                    yield event
        if self._reason is None:
            raise ServerLost(CUT_SHORT)
        self._check_end(self._reason)
        self.over = True
        yield self._finished(self._reason)

    async def processing(self) -> bool:
        """Whether the server is still at work on it: not once the connection is closed."""
        return False

    def give_back(self) -> None:
        """Nothing to give back."""

    def _told(self, part: Accepted | Part) -> Iterator[EngineEvent]:
        """What is told of one part."""
        total = len(self._asked.request.prompt)
        match part:
            case Accepted():
                yield Prefill(0, total, 0)
            case Computed(done, cached):
                self._cached = min(cached, total)
                yield Prefill(min(done, total), total, self._cached)
            case Generated(ids, logprobs):
                if self._first_token_at is None:
                    self._first_token_at = time.monotonic()
                    yield Prefill(total, total, self._cached)
                self._tokens += len(ids)
                yield Tokens(ids, logprobs)
            case Ended(reason):
                self._reason = reason
                if self._first_token_at is None:
                    yield Prefill(total, total, self._cached)
            case Counted(cached):
                self._cached = min(cached, total)

    async def _check(self, ids: tuple[int, ...]) -> None:
        """Raises EngineFailed where the grammar does not allow them."""
        if self._constraint is not None:
            await asyncio.to_thread(self._constraint.consume, ids)
            if self._constraint.failure:
                raise EngineFailed(DISOBEYED)

    def _check_end(self, reason: FinishReason) -> None:
        if self._constraint is not None and reason is FinishReason.STOP and not self._constraint.accepting:
            raise EngineFailed(DISOBEYED)

    def _finished(self, reason: FinishReason) -> Finished:
        now = time.monotonic()
        first = now if self._first_token_at is None else self._first_token_at
        return Finished(
            reason,
            Usage(len(self._asked.request.prompt), self._cached, self._tokens),
            Timings(0.0, (first - self._began) * 1000, (now - first) * 1000),
        )
