"""A turn that lives: its log, its readers, and what happens when the last of them has gone."""

from __future__ import annotations

import asyncio
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime

from quern.engine.base import GenerateRequest
from quern.events import TurnEnded
from quern.store.records import JournalEntry
from quern.turns.answer import Answer
from quern.turns.decoder import AnswerDecoder
from quern.turns.log import TurnLog
from quern.types import DisconnectPolicy, TurnState


@dataclass(frozen=True, slots=True)
class Abandonment:
    """What a turn does without readers; `hold_seconds` counts for `DisconnectPolicy.HOLD` only."""

    policy: DisconnectPolicy
    hold_seconds: float


class Turn:
    """One admitted turn. Its runner writes the log; dialects read it inside `attach()`.

    `kept`: what is said outlives it; with `keeps_events` also how its text came. `fitted`: the answer gets less room
    than was asked for, as there is no more. `pieces`: all that the model wrote, as it came.
    """

    def __init__(
        self,
        turn_id: str,
        *,
        owner: str,
        conversation_id: str | None,
        request: GenerateRequest,
        decoder: AnswerDecoder,
        abandonment: Abandonment,
        kept: bool,
        keeps_events: bool = False,
        fitted: bool = False,
    ) -> None:
        self.id = turn_id
        self.owner = owner
        self.conversation_id = conversation_id
        self.request = request
        self.decoder = decoder
        self.kept = kept
        self.keeps_events = keeps_events
        self.fitted = fitted
        self.created_at = datetime.now(UTC)
        self.started_at: datetime | None = None
        self.pieces: list[str] = []
        self.concluding = False
        self.log = TurnLog()
        self.generated_tokens = 0
        self.first_token_at: float | None = None
        self.ending: tuple[TurnState, str] | None = None
        self.generation: asyncio.Task[TurnEnded] | None = None
        self.life: asyncio.Task[None] | None = None
        self._abandonment = abandonment
        self._readers = 0
        self._hold: asyncio.TimerHandle | None = None

    @contextmanager
    def attach(self) -> Generator[TurnLog]:
        """Be a reader of the turn's log for as long as the block runs."""
        self._readers += 1
        if self._hold is not None:
            self._hold.cancel()
            self._hold = None
        try:
            yield self.log
        finally:
            self._readers -= 1
            if self._readers == 0 and self.log.end is None:
                self._abandon()

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

    def answer(self) -> Answer:
        """The answer so far."""
        return Answer(self.log.events)

    def journal(self) -> tuple[JournalEntry, ...]:
        """All that was written, piece by piece."""
        return tuple(JournalEntry(self.id, number, piece) for number, piece in enumerate(self.pieces, 1))

    def _abandon(self) -> None:
        match self._abandonment.policy:
            case DisconnectPolicy.CANCEL:
                self.end_early(TurnState.CANCELLED, "The client closed the connection.")
            case DisconnectPolicy.HOLD:
                seconds = self._abandonment.hold_seconds
                self._hold = asyncio.get_running_loop().call_later(
                    seconds,
                    self.end_early,
                    TurnState.CANCELLED,
                    f"The client closed the connection and nobody came back within {seconds:g} s.",
                )
            case DisconnectPolicy.FINISH:
                return
