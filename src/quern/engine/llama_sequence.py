"""One running generation: a slot of a llama-server, seen as the engine's events."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator
from contextlib import aclosing

from quern.engine.base import EngineEvent, Finished, GenerateRequest, Prefill, Tokens
from quern.engine.llama_request import completion_request
from quern.engine.llama_server import LlamaServer, NewTokens
from quern.engine.llama_stream import Ended, EndFilter, Progress
from quern.engine.slots import SlotTable
from quern.errors import EngineFailed
from quern.types import FinishReason, Timings, Usage

CUT_SHORT = "The inference server ended the answer without saying why, so this answer was lost. Ask again."


class Sequence:
    """Takes a free slot when it is made; `give_back` frees it again. `over`: the server has ended it by itself."""

    def __init__(self, request: GenerateRequest, server: LlamaServer, slots: SlotTable, queued_ms: float) -> None:
        self._request = request
        self._server = server
        self._slots = slots
        self._lease = slots.take(request.cache_salt, request.prompt)
        self._queued_ms = queued_ms
        self._filter = EndFilter(request.stop_token_ids)
        self._prefill = Progress(len(request.prompt), 0, 0, 0.0)
        self._shown: list[int] = []
        self._first_token_at: float | None = None
        self.over = False

    async def events(self) -> AsyncGenerator[EngineEvent]:
        """Generate. Raises EngineFailed, and ConnectionError where the server can't be reached."""
        body = completion_request(self._request, self._lease)
        async with aclosing(self._server.complete(body)) as parts:
            async for part in parts:
                match part:
                    case Progress(total, cached, done):
                        self._prefill = part
                        yield Prefill(done, total, cached)
                    case NewTokens(ids, text):
                        for event in self._show(self._receive(ids, text)):
                            yield event
                        if self._filter.stopped:
                            break
                    case Ended():
                        self.over = True
                        last, reason = self._filter.finish(end_of_text=part.end_of_text)
                        for event in self._show(last):
                            yield event
                        yield self._ended(part, reason)
                        return
            else:
                raise EngineFailed(CUT_SHORT)
        yield self._stopped()

    async def processing(self) -> bool:
        """Whether the server is still at work on it. Raises ConnectionError where the server is gone."""
        return await self._server.processing(self._lease.index)

    def give_back(self) -> None:
        """Free the slot, remembering what its cache holds."""
        ids = self._request.prompt[: self._prefill.done] + tuple(self._shown)
        self._slots.give_back(self._lease, self._request.cache_salt, ids)

    def _receive(self, ids: tuple[int, ...], text: str) -> tuple[int, ...]:
        if self._first_token_at is None:
            self._first_token_at = time.monotonic()
        return self._filter.push(ids, text)

    def _show(self, ids: tuple[int, ...]) -> tuple[Tokens, ...]:
        self._shown.extend(ids)
        return (Tokens(ids),) if ids else ()

    def _ended(self, end: Ended, reason: FinishReason) -> Finished:
        """The server's own counts: a last character that the limit cut short counts, although it is no text."""
        end_tokens = int(end.end_of_text or self._filter.stopped)
        return Finished(
            reason,
            Usage(len(self._request.prompt), end.cached, end.predicted - end_tokens),
            Timings(self._queued_ms, end.prefill_ms, end.decode_ms, end.drafts_accepted),
        )

    def _stopped(self) -> Finished:
        """We ended it ourselves at a stop id, so the server never told its counts."""
        decoding_since = self._first_token_at if self._first_token_at is not None else time.monotonic()
        return Finished(
            FinishReason.STOP,
            Usage(len(self._request.prompt), self._prefill.cached, len(self._shown)),
            Timings(self._queued_ms, self._prefill.ms, (time.monotonic() - decoding_since) * 1000),
        )
