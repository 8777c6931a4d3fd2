"""What each step computes: pure decisions over sequences and KV blocks; no clock, no thread, no model.

Sequences join and leave between any two steps. One is let in when its prompt's blocks are there; its answer then gets a
block whenever one is full. Where none is left, somebody gives all of its own back and waits again: what it had
published is likely still there when it returns, the rest is computed again, and nothing is drawn twice. Somebody of a
lower priority, or of an owner with more than its share, gives way in the same manner to a newcomer that finds no room.
"""

from __future__ import annotations

from collections.abc import Sequence, Set
from dataclasses import dataclass

from quern.engine.base import EmbedRequest, EngineEvent, GenerateRequest, Logprob, Tokens, Vector
from quern.engine.cpu.kv_blocks import PrefixChain
from quern.engine.cpu.model import Drawn, DrawnToken
from quern.engine.cpu.sequence import Part, SequenceState
from quern.engine.cpu.sequence_blocks import SequenceBlocks
from quern.engine.cpu.step_budget import Budget, Precedence, divide
from quern.engine.fair_shares import Claim, FairShares
from quern.errors import EngineError, EngineFailed, GrammarExhausted
from quern.events import Queued
from quern.types import FinishReason, KvUsage


@dataclass(frozen=True, slots=True)
class Preempted:
    """The sequence lost its blocks and waits; it goes on later by itself."""


@dataclass(frozen=True, slots=True)
class Resumed:
    """A preempted sequence has blocks again."""


@dataclass(frozen=True, slots=True)
class Released:
    """A cancelled sequence has given back what it had."""


@dataclass(frozen=True, slots=True)
class Embedded:
    """A sequence was embedded, which is its end."""

    vector: Vector


@dataclass(frozen=True, slots=True)
class Notice:
    """News of the sequence with this key. An error is its end, as `Finished` is."""

    key: int
    event: EngineEvent | Embedded | Preempted | Resumed | Released | EngineError


@dataclass(frozen=True, slots=True)
class Step:
    """What to compute next, nothing where `parts` is empty; `notices` are known before that."""

    parts: tuple[Part, ...]
    notices: list[Notice]


class Scheduler:
    """`parallel` sequences at once over `blocks` KV blocks of `block_tokens` tokens.

    Every sequence must fit all of the blocks at its longest; that is for the caller to see to.
    """

    def __init__(self, *, blocks: int, block_tokens: int, parallel: int, budget: Budget) -> None:
        self._blocks = SequenceBlocks(blocks, block_tokens)
        self._block_tokens = block_tokens
        self._parallel = parallel
        self._budget = budget
        self._precedence = Precedence()
        self._shares = FairShares(parallel)
        self._sequences: dict[int, SequenceState] = {}
        self._running: dict[int, SequenceState] = {}

    @property
    def running(self) -> tuple[SequenceState, ...]:
        """Those that have blocks, in the order of a step."""
        return tuple(sorted(self._running.values(), key=_order))

    @property
    def waiting(self) -> tuple[SequenceState, ...]:
        """Those in line, first in line first."""
        return tuple(self._sequences[claim.number] for claim in self._shares.line())

    @property
    def kv(self) -> KvUsage:
        """What the KV blocks hold."""
        return self._blocks.usage

    def submit(self, key: int, request: GenerateRequest | EmbedRequest, end: object, now: float) -> None:
        """Join the line. Keys grow: the greatest is the latest to arrive. `end`: as in `SequenceState`."""
        sequence = SequenceState(key, request, end, now, PrefixChain(request.cache_salt, self._block_tokens))
        self._shares.arrive(sequence.claim)
        self._sequences[key] = sequence

    def cancel(self, key: int) -> list[Notice]:
        """Drop a sequence, wherever it is; harmless where it has ended."""
        if key not in self._sequences:
            return []
        self._leave(self._sequences[key])
        return [Notice(key, Released())]

    def lose(self, message: str) -> list[Notice]:
        """End everyone who runs, and forget the KV cache; where nobody runs, end everyone who waits."""
        lost = self.running or self.waiting
        for sequence in lost:
            self._leave(sequence)
        self._blocks = SequenceBlocks(self._blocks.count, self._block_tokens)
        return [Notice(sequence.key, EngineFailed(message)) for sequence in lost]

    def forget(self, tags: Set[str]) -> None:
        """Drop what the KV cache holds for these tags alone."""
        self._blocks.forget(tags)

    def plan(self, now: float) -> Step:
        """Decide the next step: blocks for those who write, then who is let in, then whose tokens are computed."""
        self._shares.refresh()
        notices = [*self._make_room(), *self._admit(now), *self._positions()]
        return Step(self._parts(), notices)

    def apply(self, step: Step, drawn: Sequence[Drawn], now: float) -> list[Notice]:
        """Take in what came of each part of a step."""
        notices: list[Notice] = []
        for part, result in zip(step.parts, drawn, strict=True):
            sequence = part.sequence
            self._shares.charge(sequence.claim, sequence.advance(part.count))
            self._blocks.publish(sequence)
            notices += _progress(sequence)
            if result.failure:
                self._leave(sequence)
                notices.append(Notice(sequence.key, GrammarExhausted(result.failure)))
            elif isinstance(sequence.request, GenerateRequest):
                notices += self._draw(sequence, sequence.request, result, now)
            elif result.vector is not None:
                self._leave(sequence)
                notices.append(Notice(sequence.key, Embedded(result.vector)))
        return notices

    def _draw(self, sequence: SequenceState, request: GenerateRequest, drawn: Drawn, now: float) -> list[Notice]:
        """Take in the tokens that were drawn for an answer."""
        notices: list[Notice] = []
        for token in drawn.tokens:
            sequence.first_token = now if sequence.first_token is None else sequence.first_token
            end = sequence.append(token.id, request, complete=drawn.complete and token is drawn.tokens[-1])
            if token.id not in request.stop_token_ids:
                notices.append(Notice(sequence.key, Tokens((token.id,), _logprobs(request, token))))
            if end is not None:
                notices.append(self._finish(sequence, end, now))
        return notices

    def _make_room(self) -> list[Notice]:
        """Give each sequence the block that its next token needs."""
        notices: list[Notice] = []
        for sequence in self.running:
            while sequence.key in self._running and self._blocks.lack(sequence):
                if not self._blocks.extend(sequence):
                    notices.append(self._preempt(self._shares.last()))
        return notices

    def _preempt(self, claim: Claim) -> Notice:
        sequence = self._running.pop(claim.number)
        self._blocks.release(sequence)
        sequence.rewind()
        self._shares.stop(claim)
        return Notice(sequence.key, Preempted())

    def _admit(self, now: float) -> list[Notice]:
        """Let in as many as there is room for."""
        notices: list[Notice] = []
        while self._shares.line():
            claim = self._shares.line()[0]
            giving_way = self._giving_way(claim)
            if giving_way is None:
                places_left = len(self._running) < self._parallel
                claim = self._shares.next_to_start(self._has_room) if places_left else None
            if claim is None:
                break
            notices += [self._preempt(other) for other in giving_way or ()]
            notices += self._let_in(self._sequences[claim.number], now)
        return notices

    def _let_in(self, sequence: SequenceState, now: float) -> list[Notice]:
        cached = self._blocks.give(sequence)
        self._running[sequence.key] = sequence
        self._shares.start(sequence.claim)
        resumed = [] if sequence.admitted is None else [Notice(sequence.key, Resumed())]
        sequence.admit(cached, now)
        return [*resumed, *_progress(sequence)]

    def _giving_way(self, claim: Claim) -> list[Claim] | None:
        """Who has to give its blocks back for the first in line to be let in: the fewest that do. None where it can't
        be let in.

        They wait behind it, and don't take its room in turn: until somebody ends, they find no more than what was too
        little for it.
        """
        if self._has_room(claim):
            return []
        held = sum(len(other.blocks) for other in self._running.values() if other.priority is claim.priority)
        needed = self._blocks.needed(self._sequences[claim.number])
        if self._shares.is_too_urgent(claim, held + needed, self._blocks.count):
            return None
        return self._shares.make_way(
            claim,
            enough=lambda yielding: self._has_room(claim, without=yielding),
            settled=lambda other: self._running[other.number].settled,
        )

    def _has_room(self, claim: Claim, without: Sequence[Claim] = ()) -> bool:
        """Whether there would be a place and blocks for one more if some who run gave theirs back."""
        running = len(self._running) - len(without)
        if running >= self._parallel:
            return False
        others = [self._running[other.number] for other in without]
        return self._blocks.have_room(self._sequences[claim.number], running=running, without=others)

    def _positions(self) -> list[Notice]:
        """Steps forward in line; others with less than their share may go back and forth before it. One that ran before
        waits without a word: its reader is past that.
        """
        notices: list[Notice] = []
        for position, sequence in enumerate(self.waiting, 1):
            if sequence.admitted is None and not 0 < sequence.reported_position <= position:
                sequence.reported_position = position
                notices.append(Notice(sequence.key, Queued(position)))
        return notices

    def _parts(self) -> tuple[Part, ...]:
        taking_part = self._precedence.taking_part(self.running)
        writing = [sequence for sequence in taking_part if sequence.writing]
        prompts = [sequence for sequence in taking_part if not sequence.writing]
        tokens = self._budget.tokens(writing=bool(writing))
        return (*(Part(sequence, 1) for sequence in writing), *divide(tokens, prompts, self._shares))

    def _finish(self, sequence: SequenceState, reason: FinishReason, now: float) -> Notice:
        self._leave(sequence)
        return Notice(sequence.key, sequence.finished(reason, now))

    def _leave(self, sequence: SequenceState) -> None:
        self._shares.leave(sequence.claim)
        self._blocks.release(sequence)
        self._running.pop(sequence.key, None)
        del self._sequences[sequence.key]


def _order(sequence: SequenceState) -> tuple[int, int]:
    return sequence.order


def _progress(sequence: SequenceState) -> list[Notice]:
    progress = sequence.progress()
    return [Notice(sequence.key, progress)] if progress is not None else []


def _logprobs(request: GenerateRequest, token: DrawnToken) -> tuple[Logprob, ...] | None:
    if request.sampling.logprobs is None:
        return None
    return (Logprob(token.logprob, tuple(token.top)),)
