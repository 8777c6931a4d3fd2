"""One running generation: a slot of a llama-server, seen as the engine's events."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncGenerator
from contextlib import aclosing
from itertools import groupby

from quern.engine.base import EngineEvent, Finished, GenerateRequest, Logprob, Tokens
from quern.engine.llamacpp.client import LlamaServer, NewTokens
from quern.engine.llamacpp.request import completion_request
from quern.engine.llamacpp.stream import Ended, EndFilter, Progress
from quern.engine.slots import SlotTable
from quern.errors import EngineFailed
from quern.events import Prefill
from quern.grammar.compiler import CompiledGrammar, Constraint
from quern.types import FinishReason, Timings, Usage

CUT_SHORT = "The inference server ended the answer without saying why, so this answer was lost. Ask again."
DISOBEYED = (
    "The inference server did not keep this answer to its grammar, so the answer was lost: the grammar became too "
    "complex for it, or the request's logit_bias ruled out all that was allowed. Ask for a simpler form, without such "
    "a bias, or serve the model with the engine cpu (engine.name)."
)


class SlotGeneration:
    """Takes a free slot when it is made, so it was never queued; `give_back` frees it again. `over`: the server has
    ended it by itself. `exact`: the ids that it has told are those that were drawn.

    `grammar` is the request's. llama-server draws on without it once it can't keep to it, so what it draws is checked.
    """

    def __init__(
        self,
        request: GenerateRequest,
        server: LlamaServer,
        slots: SlotTable,
        *,
        grammar: CompiledGrammar | None = None,
    ) -> None:
        self._request = request
        self._grammar = grammar
        self._server = server
        self._constraint: Constraint | None = None
        self._slots = slots
        self._lease = slots.take(request.cache_salt, request.prompt, request.cache_tag)
        self._filter = EndFilter(request.stop_token_ids)
        self._prefill = Progress(len(request.prompt), 0, 0, 0.0)
        self._shown: list[int] = []
        self._logprobs: deque[Logprob | None] = deque()
        self._first_token_at: float | None = None
        self.over = False
        self.exact = True

    async def events(self) -> AsyncGenerator[EngineEvent]:
        """Generate. Raises EngineFailed, and ConnectionError where the server can't be reached."""
        lark = None
        if self._grammar is not None:
            lark = self._grammar.lark
            self._constraint = await asyncio.to_thread(self._grammar.constraint)
        body = completion_request(self._request, self._lease, lark)
        async with aclosing(self._server.complete(body)) as parts:
            async for part in parts:
                match part:
                    case Progress(total, cached, done):
                        self._prefill = part
                        yield Prefill(done, total, cached)
                    case NewTokens():
                        for event in self._show(await self._allowed(self._receive(part))):
                            yield event
                        if self._filter.stopped:
                            break
                    case Ended():
                        self.over = True
                        last, reason = self._filter.finish(end_of_text=part.end_of_text)
                        for event in self._show(await self._allowed(last)):
                            yield event
                        self._check_end(reason)
                        yield self._ended(part, reason)
                        return
            else:
                raise EngineFailed(CUT_SHORT)
        self._check_end(FinishReason.STOP)
        yield self._stopped()

    @property
    def reusable(self) -> int:
        """Tokens of its prompt that the slot's cache holds."""
        return self._lease.reusable

    async def processing(self) -> bool:
        """Whether the server is still at work on it. Raises ConnectionError where the server is gone."""
        return await self._server.processing(self._lease.index)

    def give_back(self) -> None:
        """Free the slot, remembering what its cache holds."""
        ids = self._request.prompt[: self._prefill.done] + tuple(self._shown)
        self._slots.give_back(self._lease, self._request.cache_salt, ids)

    def _receive(self, new: NewTokens) -> tuple[int, ...]:
        if self._first_token_at is None:
            self._first_token_at = time.monotonic()
        self.exact = self.exact and new.exact
        self._logprobs.extend([new.logprob] if len(new.ids) == 1 else [None] * len(new.ids))
        return self._filter.push(new.ids, new.text)

    async def _allowed(self, ids: tuple[int, ...]) -> tuple[int, ...]:
        """The ids. Raises EngineFailed where the grammar does not allow them."""
        if self._constraint is not None and ids:
            await asyncio.to_thread(self._constraint.consume, ids)
            if self._constraint.failure:
                raise EngineFailed(DISOBEYED)
        return ids

    def _check_end(self, reason: FinishReason) -> None:
        if self._constraint is not None and reason is FinishReason.STOP and not self._constraint.accepting:
            raise EngineFailed(DISOBEYED)

    def _show(self, ids: tuple[int, ...]) -> list[Tokens]:
        """The ids with their probabilities; those whose are not known come as events of their own."""
        self._shown.extend(ids)
        most = self._request.sampling.logprobs or 0
        events: list[Tokens] = []
        for known, pairs in groupby(
            ((token, self._logprobs.popleft()) for token in ids), lambda pair: pair[1] is not None
        ):
            tokens, logprobs = zip(*pairs, strict=True)
            shortened = tuple(Logprob(logprob.value, logprob.top[:most]) for logprob in logprobs if logprob is not None)
            events.append(Tokens(tokens, shortened if known else None))
        return events

    def _ended(self, end: Ended, reason: FinishReason) -> Finished:
        """The server's own counts: a last character that the limit cut short counts, although it is no text."""
        end_tokens = int(end.end_of_text or self._filter.stopped)
        return Finished(
            reason,
            Usage(len(self._request.prompt), end.cached, end.predicted - end_tokens),
            Timings(0.0, end.prefill_ms, end.decode_ms, end.drafts_accepted),
        )

    def _stopped(self) -> Finished:
        """We ended it ourselves at a stop id, so the server never told its counts."""
        decoding_since = self._first_token_at if self._first_token_at is not None else time.monotonic()
        return Finished(
            FinishReason.STOP,
            Usage(len(self._request.prompt), self._prefill.cached, len(self._shown)),
            Timings(0.0, self._prefill.ms, (time.monotonic() - decoding_since) * 1000),
        )
