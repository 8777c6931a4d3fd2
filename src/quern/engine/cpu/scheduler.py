"""What each step computes: pure decisions over sequences and KV blocks; no clock, no thread, no model.

Sequences join and leave between any two steps. One is let in when its prompt's blocks are there; its answer then gets a
block whenever one is full. Where none is left, the last in order gives all of its own back and waits again: what it had
published is likely still there when it returns, the rest is computed again, and nothing is drawn twice. Somebody of a
lower priority gives way in the same manner to a newcomer that finds no room.
"""

from __future__ import annotations

import bisect
from collections.abc import Sequence
from dataclasses import dataclass

from quern.engine.base import EmbedRequest, EngineEvent, GenerateRequest, Logprob, Tokens, Vector
from quern.engine.cpu.kv_blocks import BlockPool, PrefixChain
from quern.engine.cpu.model import Drawn, DrawnToken
from quern.engine.cpu.sequence import Part, SequenceState
from quern.engine.cpu.step_budget import Budget, Precedence, divide
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
        self._pool = BlockPool(blocks)
        self._block_tokens = block_tokens
        self._parallel = parallel
        self._budget = budget
        self._precedence = Precedence()
        self._waiting: list[SequenceState] = []
        self._running: dict[int, SequenceState] = {}

    @property
    def running(self) -> tuple[SequenceState, ...]:
        """Those that have blocks, first in order first."""
        return tuple(sorted(self._running.values(), key=_order))

    @property
    def waiting(self) -> tuple[SequenceState, ...]:
        """Those in line, first in line first."""
        return tuple(self._waiting)

    @property
    def kv(self) -> KvUsage:
        """What the KV blocks hold."""
        return self._pool.usage

    def submit(self, key: int, request: GenerateRequest | EmbedRequest, end: object, now: float) -> None:
        """Join the line. Keys grow: the greatest is the latest to arrive. `end`: as in `SequenceState`."""
        chain = PrefixChain(request.cache_salt, self._block_tokens)
        bisect.insort(self._waiting, SequenceState(key, request, end, now, chain), key=_order)

    def cancel(self, key: int) -> list[Notice]:
        """Drop a sequence, wherever it is; harmless where it has ended."""
        if key in self._running:
            self._leave(self._running[key])
            return [Notice(key, Released())]
        left = [sequence for sequence in self._waiting if sequence.key != key]
        found, self._waiting = len(left) < len(self._waiting), left
        return [Notice(key, Released())] if found else []

    def lose(self, message: str) -> list[Notice]:
        """End everyone who runs, and forget the KV cache; where nobody runs, end everyone who waits."""
        lost = self.running or self.waiting
        if not self._running:
            self._waiting.clear()
        self._running.clear()
        self._pool = BlockPool(self._pool.count)
        return [Notice(sequence.key, EngineFailed(message)) for sequence in lost]

    def plan(self, now: float) -> Step:
        """Decide the next step: blocks for those who write, then who is let in, then whose tokens are computed."""
        notices = [*self._make_room(), *self._admit(now), *self._positions()]
        return Step(self._parts(), notices)

    def apply(self, step: Step, drawn: Sequence[Drawn], now: float) -> list[Notice]:
        """Take in what came of each part of a step."""
        notices: list[Notice] = []
        for part, result in zip(step.parts, drawn, strict=True):
            sequence = part.sequence
            sequence.computed += part.count
            self._publish(sequence)
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
            if sequence.key not in self._running or self._missing(sequence) == 0:
                continue
            while not self._pool.available and sequence.key in self._running:
                notices.append(self._preempt(max(self._running.values(), key=_order)))
            if sequence.key in self._running:
                sequence.blocks += self._pool.allocate(1)
        return notices

    def _preempt(self, sequence: SequenceState) -> Notice:
        self._leave(sequence)
        sequence.blocks = []
        sequence.computed = sequence.published = 0
        bisect.insort(self._waiting, sequence, key=_order)
        return Notice(sequence.key, Preempted())

    def _admit(self, now: float) -> list[Notice]:
        """Let in as many as there is room for. The first in line that finds none holds back everyone behind it."""
        notices: list[Notice] = []
        while self._waiting:
            sequence = self._waiting[0]
            sequence.chain.extend(sequence.tokens)
            giving_way = self._giving_way(sequence)
            if giving_way is None:
                break
            self._waiting.pop(0)
            notices += [self._preempt(other) for other in giving_way]
            cached = self._give_blocks(sequence)
            self._running[sequence.key] = sequence
            if sequence.admitted is not None:
                notices.append(Notice(sequence.key, Resumed()))
            sequence.admit(cached, now)
            notices += _progress(sequence)
        return notices

    def _giving_way(self, sequence: SequenceState) -> list[SequenceState] | None:
        """Who has to give its blocks back for this one to be let in: the fewest that do, the last in order first.

        None where it can't be let in, for only those of a lower priority give way. They wait behind it, and don't take
        its room in turn: until somebody ends, they find no more than what was too little for it.
        """
        if self._has_room(sequence, without=[]):
            return []
        lower = [other for other in self.running if other.request.priority > sequence.request.priority]
        if not lower or not self._has_room(sequence, without=lower):
            return None
        counts = range(1, len(lower) + 1)
        return next(lower[-count:] for count in counts if self._has_room(sequence, without=lower[-count:]))

    def _has_room(self, sequence: SequenceState, *, without: Sequence[SequenceState]) -> bool:
        """Whether there would be a place and blocks for one more if some who run gave theirs back.

        A block for everyone who runs must be left over: without that a newcomer would soon be the one to be preempted.
        """
        running = len(self._running) - len(without)
        if running >= self._parallel:
            return False
        cached = self._cached_blocks(sequence)
        missing = self._blocks_for(len(sequence.tokens)) - len(cached)
        return missing + running <= self._pool.available_without([other.blocks for other in without], keeping=cached)

    def _cached_blocks(self, sequence: SequenceState) -> list[int]:
        """What is known of its prefix. The last token is always computed, or there would be nothing to draw from."""
        return self._pool.match(sequence.chain.digests[: (len(sequence.tokens) - 1) // self._block_tokens])

    def _give_blocks(self, sequence: SequenceState) -> int:
        """Blocks for all of its tokens, as many as possible from the cache; how many tokens those hold."""
        cached = self._cached_blocks(sequence)
        self._pool.hold(cached)
        sequence.blocks = cached + self._pool.allocate(self._blocks_for(len(sequence.tokens)) - len(cached))
        sequence.published = len(cached)
        return len(cached) * self._block_tokens

    def _positions(self) -> list[Notice]:
        """New positions in line. One that ran before waits without a word: its reader is past that."""
        notices: list[Notice] = []
        for position, sequence in enumerate(self._waiting, 1):
            if sequence.admitted is None and sequence.reported_position != position:
                sequence.reported_position = position
                notices.append(Notice(sequence.key, Queued(position)))
        return notices

    def _parts(self) -> tuple[Part, ...]:
        taking_part = self._precedence.taking_part(self.running)
        writing = [sequence for sequence in taking_part if sequence.writing]
        prompts = [sequence for sequence in taking_part if not sequence.writing]
        tokens = self._budget.tokens(writing=bool(writing))
        return (*(Part(sequence, 1) for sequence in writing), *divide(tokens, prompts))

    def _publish(self, sequence: SequenceState) -> None:
        """Make the blocks known that became full: answers too, for they are the history of the next turn."""
        sequence.chain.extend(sequence.tokens)
        for index in range(sequence.published, sequence.computed // self._block_tokens):
            digest = sequence.chain.digests[index]
            sequence.blocks[index] = self._pool.publish(sequence.blocks[index], digest)
            sequence.published = index + 1

    def _finish(self, sequence: SequenceState, reason: FinishReason, now: float) -> Notice:
        self._leave(sequence)
        return Notice(sequence.key, sequence.finished(reason, now))

    def _leave(self, sequence: SequenceState) -> None:
        self._pool.release(sequence.blocks)
        del self._running[sequence.key]

    def _missing(self, sequence: SequenceState) -> int:
        return self._blocks_for(len(sequence.tokens)) - len(sequence.blocks)

    def _blocks_for(self, tokens: int) -> int:
        return -(-tokens // self._block_tokens)


def _order(sequence: SequenceState) -> tuple[int, int]:
    return sequence.order


def _progress(sequence: SequenceState) -> list[Notice]:
    progress = sequence.progress()
    return [Notice(sequence.key, progress)] if progress is not None else []


def _logprobs(request: GenerateRequest, token: DrawnToken) -> tuple[Logprob, ...] | None:
    if request.sampling.logprobs is None:
        return None
    return (Logprob(token.logprob, tuple(token.top)),)
