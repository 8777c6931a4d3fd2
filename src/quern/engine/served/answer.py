"""One answer as its reader has it, however often it gave way: each run on a slot goes on where the one before ended."""

from __future__ import annotations

import time
from dataclasses import replace

from quern.engine.base import EngineEvent, Finished, GenerateRequest, Tokens
from quern.engine.served.continuation import rest_of
from quern.events import Prefill
from quern.types import Timings, Usage


class Answer:
    """`over`: its reader has been told the end. Its time in line begins when it is made."""

    def __init__(self, request: GenerateRequest) -> None:
        self._request = request
        self._arrived = time.monotonic()
        self._admitted: float | None = None
        self._first_token: float | None = None
        self._prefill: Prefill | None = None
        self._shown: list[int] = []
        self._shown_before = 0
        self._runs = 0
        self.over = False

    @property
    def computed(self) -> int:
        """Tokens of it that have been computed, as far as is known."""
        return (self._prefill.done if self._prefill is not None else 0) + len(self._shown)

    @property
    def remaining(self) -> int:
        """Tokens that it may still get."""
        return self._request.sampling.max_tokens - len(self._shown)

    def next_run(self) -> GenerateRequest:
        """It runs from now on: what to ask for, which is at least one token."""
        self._runs += 1
        self._shown_before = len(self._shown)
        self._admitted = time.monotonic() if self._admitted is None else self._admitted
        return rest_of(replace(self._request, generated=tuple(self._shown)))

    def tell(self, event: EngineEvent) -> EngineEvent | None:
        """What a run's event is to the reader. None where it is told already: nothing goes backwards."""
        match event:
            case Prefill(done=done):
                return self._progress(event, min(done, len(self._request.prompt)))
            case Tokens(ids):
                self._first_token = time.monotonic() if self._first_token is None else self._first_token
                self._shown.extend(ids)
                return event
            case Finished():
                self.over = True
                return self._end(event)
            case _:
                return event

    def _progress(self, event: Prefill, done: int) -> Prefill | None:
        if self._prefill is not None and done <= self._prefill.done:
            return None
        cached = min(event.cached, done) if self._prefill is None else self._prefill.cached
        self._prefill = Prefill(done, len(self._request.prompt), cached)
        return self._prefill

    def _end(self, event: Finished) -> Finished:
        """The server's own times where it ran once; else ours, from the first run to the end of the last."""
        now = time.monotonic()
        admitted = now if self._admitted is None else self._admitted
        queued_ms = (admitted - self._arrived) * 1000
        if self._runs == 1:
            return replace(event, timings=replace(event.timings, queued_ms=queued_ms))
        first = now if self._first_token is None else self._first_token
        cached = 0 if self._prefill is None else self._prefill.cached
        return Finished(
            event.reason,
            Usage(len(self._request.prompt), cached, self._shown_before + event.usage.completion_tokens),
            Timings(queued_ms, (first - admitted) * 1000, (now - first) * 1000, event.timings.drafts_accepted),
        )
