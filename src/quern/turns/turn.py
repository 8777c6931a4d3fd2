"""A turn that lives: its log, its readers and its end."""

from __future__ import annotations

import asyncio
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial

from quern.access.principal import Principal
from quern.engine.base import GenerateRequest, Logprob, Priority
from quern.events import Prefill, TurnEnded
from quern.turns.answer import Answer
from quern.turns.decoder import AnswerDecoder
from quern.turns.disconnect_policy import Abandonment, AttachedReaders
from quern.turns.event_log import TurnLog
from quern.turns.loops import NEVER, LoopLimits
from quern.turns.models import ServedModel
from quern.turns.plan import Told, TurnPlan
from quern.turns.recent import Queue, Said
from quern.types import Timings, TurnState, Usage


@dataclass(frozen=True, slots=True)
class Earlier:
    """What a turn took and was charged before it was interrupted."""

    usage: Usage = field(default_factory=Usage)
    timings: Timings = field(default_factory=Timings)


class Turn:
    """One admitted turn. Its runner writes the log; dialects read it inside `attach()`.

    `plan`: all that it was made of but its prompt; `prompt_tokens`: how long that is. `generated`: the ids that the
    model wrote, and `pieces` the text that each brought, and the end; `logprobs`: what a retry is told of them.
    `resumable`: it can be told again, and go on, after its end. `earlier`: what it took before it was interrupted,
    where it goes on. `arrived_at`, `admitted_at`, `running_at` and `first_token_at`: seconds of a monotonic clock.
    `said`: what its prompt was made of; `progress`: how far that is computed. `queue`: who was before it, once it had
    to wait; `occupied`: the `Occupancy` when it began to run. An urgent answer is one for its first `urgent_tokens`.
    `loop_limits`: when it goes round in circles.
    """

    def __init__(
        self,
        turn_id: str,
        *,
        model: ServedModel,
        principal: Principal,
        request_id: str,
        traceparent: str = "",
        plan: TurnPlan,
        said: Said,
        arrived_at: float,
        conversation_id: str | None,
        request: GenerateRequest,
        decoder: AnswerDecoder,
        abandonment: Abandonment,
        resumable: bool = True,
        urgent_tokens: int = 256,
        loop_limits: LoopLimits = NEVER,
    ) -> None:
        self.id = turn_id
        self.model = model
        self.principal = principal
        self.owner = principal.owner
        self.conversation_id = conversation_id
        self.request = request
        self.decoder = decoder
        self.plan = plan
        self.prompt_tokens = len(request.prompt)
        self.resumable = resumable
        self.loop_limits = loop_limits
        self.request_id = request_id
        self.traceparent = traceparent
        self.said = said
        self.arrived_at = arrived_at
        self.admitted_at = arrived_at
        self.created_at = datetime.now(UTC)
        self.started_at: datetime | None = None
        self.pieces: list[str] = []
        self.concluding = False
        self.log = TurnLog()
        self.generated: list[int] = []
        self.logprobs: list[Logprob] = []
        self.earlier = Earlier()
        self.progress: Prefill | None = None
        self.queue: Queue | None = None
        self.occupied = 0.0
        self.running_at: float | None = None
        self.first_token_at: float | None = None
        self.ending: tuple[TurnState, str] | None = None
        self.generation: asyncio.Task[TurnEnded] | None = None
        self.life: asyncio.Task[None] | None = None
        self._urgent_tokens = urgent_tokens
        self._readers = AttachedReaders(abandonment, self.log, partial(self.end_early, TurnState.CANCELLED))

    @contextmanager
    def attach(self, *, streamed: bool = False) -> Generator[TurnLog]:
        """Be a reader of the turn's log for as long as the block runs; `streamed`: one that gets its events as they
        come.
        """
        try:
            with self._readers.attach(streamed=streamed):
                self._reprioritise()
                yield self.log
        finally:
            self._reprioritise()

    @property
    def priority(self) -> Priority:
        """Under which it waits or runs now."""
        return self.request.current_priority

    @property
    def held(self) -> bool:
        """Whether it goes on without a reader, and is cancelled after a while."""
        return self._readers.held and self.ending is None

    def count(self, token_id: int) -> None:
        """One more token of the answer is there."""
        self.generated.append(token_id)
        self._reprioritise()

    def _reprioritise(self) -> None:
        """Nobody waits for what nobody reads, and what has become long was not urgent after all."""
        if self._readers.abandoned:
            self.request.override.priority = Priority.BACKGROUND
        elif self.request.priority is Priority.INTERACTIVE and self.generated_tokens > self._urgent_tokens:
            self.request.override.priority = Priority.NORMAL
        else:
            self.request.override.priority = None

    def end_early(self, state: TurnState, reason: str) -> None:
        """Ask the turn to end as `state` (cancelled or interrupted); the first such request decides."""
        if self.log.end is not None or self.ending is not None:
            return
        self.ending = (state, reason)
        if self.generation is not None:
            self.generation.cancel()

    def conclude(self) -> None:
        """Let the answer end with its next token, as a whole one: the caller has enough of it."""
        self.concluding = True

    @property
    def generated_tokens(self) -> int:
        """Tokens of the answer so far."""
        return len(self.generated)

    def timings(self, now: float) -> Timings:
        """Where its time went until now."""
        running = self.running_at if self.running_at is not None else now
        first_token = self.first_token_at if self.first_token_at is not None else now
        return Timings(
            queued_ms=(running - self.admitted_at) * 1000,
            prefill_ms=(first_token - running) * 1000,
            decode_ms=(now - first_token) * 1000,
        )

    def answer(self) -> Answer:
        """The answer so far."""
        return Answer(self.log.events)

    def go_on(self, told: Told, earlier: Earlier) -> None:
        """Begin after what was generated and told in an earlier life."""
        self.generated = list(self.request.generated)
        self.pieces = told.pieces
        self.log.extend(told.events)
        self.earlier = earlier
