"""Turns that have ended: told again, and what it takes to go on with one that stopped."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

import structlog

from quern.engine.base import Logprob
from quern.errors import StoreError, TurnNotContinuable, TurnNotFound
from quern.records import TurnRecord
from quern.store.generations import GenerationRecord, GenerationStore
from quern.store.history import HistoryStore
from quern.store.idempotency import IdempotencyStore, NewKey
from quern.store.turn_rows import ReopenedTurn
from quern.store.turns import TurnStore
from quern.turns.clock_jumps import CarefulClock
from quern.turns.context_limit import room_for_answer
from quern.turns.decoder import AnswerDecoder
from quern.turns.event_log import TurnLog
from quern.turns.identity import is_derived
from quern.turns.models import Models, ServedModel
from quern.turns.new_turn import Assignment
from quern.turns.plan import TurnPlan, tell_again
from quern.turns.recent import Said
from quern.turns.request import TokenInput
from quern.turns.turn import Earlier, Turn

log = structlog.get_logger(__name__)

FORGET_EVERY = 600.0
"""Seconds."""

SERVER_STOPPED = (
    "The server stopped while this turn was running. The text so far is kept; ask again for a whole answer."
)
NO_TURN = (
    "There is no such turn: the id is wrong, or it was deleted. An answer's id names its turn, and so does its "
    "x-request-id for a while."
)
RUNS = "The turn runs already. Follow it: GET /v1/turns/{id}/events."
WHOLE = "The turn's answer is whole: the model ended it. There is nothing to go on with; ask the next question."
FORGOTTEN = (
    "What this turn would go on from is not kept any more (turns.resume_hours), so it can't. Ask again for the answer."
)
OTHER_MODEL = (
    "The turn was written by the model {then}, and {now} is served now, so it can't go on. Serve that model again, or "
    "ask again."
)


@dataclass(frozen=True, slots=True)
class Stopped:
    """A turn that has ended and can go on: `ended_as` it was, with a plan, its prompt's ids and its answer's."""

    record: TurnRecord
    plan: TurnPlan
    prompt: tuple[int, ...]
    generated: tuple[int, ...]
    answer_ids: tuple[str, ...]

    def assignment(self, *, keyed: bool = False) -> Assignment:
        """What is left to do; `keyed`: for a request with a key."""
        return Assignment(
            replace(self.plan, keyed=keyed or self.plan.keyed),
            self.prompt,
            Said((), TokenInput(self.prompt)),
            time.monotonic(),
            self.record.conversation_id,
            self.generated,
        )

    async def revive(self, turn: Turn, key: NewKey | None = None) -> ReopenedTurn:
        """Bring a new turn to where this one stopped; returns what is to be stored of that, with the request's key."""
        turn.go_on(
            await asyncio.to_thread(tell_again, turn.decoder, self.generated),
            Earlier(self.record.usage, self.record.timings),
        )
        turn.created_at, turn.started_at = self.record.created_at, self.record.started_at
        text = "".join(turn.pieces) if self.plan.kept else None
        plan, owner = turn.plan, turn.owner
        return ReopenedTurn(turn.id, owner, self.record.state, self.answer_ids, text, plan.dump(), plan.sampling, key)


@dataclass(frozen=True, slots=True)
class Ended:
    """A turn that has ended, and the events of its answer as they came, to be told again."""

    record: TurnRecord
    model: ServedModel
    plan: TurnPlan
    generated: tuple[int, ...]
    log: TurnLog

    def assignment(self) -> Assignment:
        """What it was, but for its prompt."""
        return Assignment(self.plan, (), Said((), TokenInput(())), time.monotonic(), self.record.conversation_id)

    def fill(self, turn: Turn) -> None:
        """Make a new turn that is not to run one that has."""
        turn.created_at, turn.started_at = self.record.created_at, self.record.started_at
        turn.prompt_tokens, turn.generated = self.record.usage.prompt_tokens, list(self.generated)
        turn.log.extend(self.log.events)
        turn.log.settle()


class TurnArchive:
    """Turns that have ended, as they are kept. What another owner has does not exist."""

    def __init__(
        self,
        models: Models,
        turns: TurnStore,
        generations: GenerationStore,
        history: HistoryStore,
        keys: IdempotencyStore,
    ) -> None:
        self._models = models
        self._keys = keys
        self._turns = turns
        self._generations = generations
        self._history = history

    async def forget(self) -> None:
        """Forget what was kept for long enough, from time to time, until cancelled."""
        clock = CarefulClock()
        while True:
            try:
                now = clock.now()
                await self._keys.forget(now)
                forgotten = await self._generations.forget(now)
            except StoreError as error:
                log.warning("old_turns_not_forgotten", error=str(error))
            else:
                log.debug("old_turns_forgotten", turns=forgotten)
            await asyncio.sleep(FORGET_EVERY)

    async def interrupted(self, *, conversations_only: bool) -> list[TurnRecord]:
        """Everybody's turns that the server's stop interrupted and that can go on, the oldest first."""
        return await self._turns.interrupted(SERVER_STOPPED, conversations_only=conversations_only)

    async def record(self, names: Sequence[str], owner: str) -> TurnRecord:
        """A turn of one of these ids as stored. Raises TurnNotFound."""
        found = await self._turns.by_ids(names)
        record = next((one for one in found if one.owner == owner), None)
        if record is None:
            raise TurnNotFound(NO_TURN)
        return record

    def model_of(self, record: TurnRecord) -> ServedModel:
        """The model that wrote a turn. Raises TurnNotContinuable where that is not served any more."""
        model = self._models.by_id(record.model_id)
        if model is None:
            served = " and ".join(one.name for one in self._models)
            raise TurnNotContinuable(OTHER_MODEL.format(then=record.model_id, now=served))
        return model

    async def stopped(self, record: TurnRecord, context_length: int, more_tokens: int | None) -> Stopped:
        """A turn that can go on, with `more_tokens` for its answer; without them as many as it had, and where those
        were too few, as many again. Raises TurnNotContinuable and ContextExceeded.
        """
        if not record.state.terminal:
            raise TurnNotContinuable(RUNS)
        if record.end().whole:
            raise TurnNotContinuable(WHOLE)
        kept = await self._generations.get(record.id)
        if kept is None or kept.prompt is None:
            raise TurnNotContinuable(FORGOTTEN)
        plan = _with_room(TurnPlan.load(kept.plan), len(kept.prompt), len(kept.generated), context_length, more_tokens)
        answer = await self._history.of_turn(record.id)
        answer_ids = tuple(item.id for item in answer if is_derived(item.id))
        return Stopped(record, plan, kept.prompt, kept.generated, answer_ids)

    async def ended(self, record: TurnRecord) -> Ended | None:
        """A turn that has ended; None where what it wrote is not kept any more, or can't be read without its model."""
        kept, model = await self._generations.get(record.id), self._models.by_id(record.model_id)
        if kept is None or model is None:
            return None
        plan = TurnPlan.load(kept.plan)
        log = await asyncio.to_thread(_told, record, plan.decoder(model.codec, record.id), kept)
        return Ended(record, model, plan, kept.generated, log)


def _told(record: TurnRecord, decoder: AnswerDecoder, kept: GenerationRecord) -> TurnLog:
    logprobs = [Logprob(value, tuple((one, of_it) for one, of_it in top)) for value, top in kept.logprobs]
    log = TurnLog(tell_again(decoder, kept.generated, logprobs).events)
    log.settle()
    log.extend([*decoder.decode((), last=True).events, *decoder.output.finish()])
    if record.state.terminal:
        log.append(record.end(decoder.stop))
    return log


def _with_room(
    plan: TurnPlan, prompt_tokens: int, generated_tokens: int, context_length: int, more_tokens: int | None
) -> TurnPlan:
    """The plan for the whole answer. Raises ContextExceeded."""
    most = plan.sampling.max_tokens
    if more_tokens is not None:
        most = generated_tokens + more_tokens
    elif generated_tokens >= most:
        most += most
    fit = plan.fitted or more_tokens is None
    room = room_for_answer(prompt_tokens, most, context_length, fit=fit)
    return replace(plan, sampling=replace(plan.sampling, max_tokens=room))
