"""One sequence on its way through the engine: what it has, what it still needs, what its reader was told."""

from __future__ import annotations

from dataclasses import dataclass, field

from quern.engine.base import EmbedRequest, Finished, GenerateRequest, Priority
from quern.engine.cpu.kv_blocks import PrefixChain
from quern.engine.fair_shares import MINIMUM_RUN, Claim
from quern.events import Prefill
from quern.types import FinishReason, Timings, Usage


@dataclass(slots=True, eq=False)
class SequenceState:
    """`key` grows with every arrival. Times are in seconds of one monotonic clock.

    `end`: the model's own: a sampler that draws when a step reaches the sequence's end, or where its embedding goes.
    `tokens`: the prompt, then what was drawn; it came with `known` of them. `computed` of them have their keys and
    values in `blocks`, of which the first `published` are known to the pool. `reported`: how many of those it came with
    the reader knows to be done. `furthest`: how many tokens were computed before it last lost its blocks. `claim`: its
    claim to a place.
    """

    key: int
    request: GenerateRequest | EmbedRequest
    end: object
    arrived: float
    chain: PrefixChain
    claim: Claim = field(init=False)
    tokens: list[int] = field(init=False)
    known: int = field(init=False)
    blocks: list[int] = field(default_factory=list[int])
    computed: int = 0
    published: int = 0
    cached: int = 0
    reported: int = -1
    reported_position: int = 0
    admitted: float | None = None
    first_token: float | None = None
    furthest: int = 0
    _settled_at: int = 0

    def __post_init__(self) -> None:
        self.tokens = list(self.request.known)
        self.known = len(self.tokens)
        longest = self.request.sampling.max_tokens if isinstance(self.request, GenerateRequest) else 0
        self.claim = Claim(self.key, len(self.request.prompt) + longest, self.request)

    @property
    def order(self) -> tuple[Priority, int]:
        """Who comes first in a step."""
        return self.priority, self.key

    @property
    def priority(self) -> Priority:
        """The one under which it waits or runs."""
        return self.claim.priority

    @property
    def settled(self) -> bool:
        """Whether it has run long enough to give way to another owner or a higher priority: what was computed again
        after the last time has paid off.
        """
        return self.computed >= self._settled_at

    @property
    def pending(self) -> int:
        """Tokens to compute before the next one can be drawn; 1 for a sequence that is writing its answer."""
        return len(self.tokens) - self.computed

    @property
    def writing(self) -> bool:
        """Whether it is writing its answer, one token a step."""
        return self.pending == 1 and isinstance(self.request, GenerateRequest)

    @property
    def generated(self) -> int:
        """Tokens of the answer so far."""
        return len(self.tokens) - len(self.request.prompt)

    def admit(self, cached: int, now: float) -> None:
        """It has its blocks, the first `cached` tokens of them from before."""
        self.computed = cached
        if self.admitted is None:
            self.admitted = now
            self.cached = cached
        else:
            self._settled_at = self.furthest + max(MINIMUM_RUN, self.furthest - cached)

    def advance(self, count: int) -> int:
        """`count` more tokens are computed; how many of them never were before."""
        before = max(self.computed, self.furthest)
        self.computed += count
        return max(0, self.computed - before)

    def rewind(self) -> None:
        """It lost its blocks."""
        self.furthest = max(self.furthest, self.computed)
        self.computed = self.published = 0

    def append(self, token_id: int, request: GenerateRequest, *, complete: bool) -> FinishReason | None:
        """A token was drawn: it becomes part of the answer to its request, unless it only ends that. Why the answer
        ends with it, None where it goes on. `complete`: the grammar allows nothing after it.
        """
        if token_id in request.stop_token_ids:
            return FinishReason.STOP
        self.tokens.append(token_id)
        if complete:
            return FinishReason.STOP
        return FinishReason.LENGTH if self.generated >= request.sampling.max_tokens else None

    def progress(self) -> Prefill | None:
        """How far that is which it came with, where the reader doesn't know that yet.

        A sequence that lost its blocks computes its prompt again; its reader is told nothing that goes backwards.
        """
        done = min(self.computed, self.known)
        if done <= self.reported:
            return None
        self.reported = done
        return Prefill(done, self.known, self.cached)

    def finished(self, reason: FinishReason, now: float) -> Finished:
        """Its last event."""
        admitted = self.admitted if self.admitted is not None else now
        first = self.first_token if self.first_token is not None else now
        prompt_tokens = len(self.request.prompt)
        return Finished(
            reason,
            Usage(prompt_tokens, min(self.cached, prompt_tokens), self.generated),
            Timings(
                queued_ms=(admitted - self.arrived) * 1000,
                prefill_ms=(first - admitted) * 1000,
                decode_ms=(now - first) * 1000,
            ),
        )


@dataclass(frozen=True, slots=True)
class Part:
    """One sequence's part of a step: its next `count` tokens."""

    sequence: SequenceState
    count: int

    @property
    def reaches_end(self) -> bool:
        """Whether the step computes the sequence's last token: the next one is drawn, or its embedding is there."""
        return self.count == self.sequence.pending
