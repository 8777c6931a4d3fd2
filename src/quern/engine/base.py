"""The engine's door: token ids in, token ids out; or a vector, where the model makes embeddings.

Text, JSON, chat templates, tools and stop strings never pass it, so every engine can be swapped under every dialect.
"""

from __future__ import annotations

from array import array
from collections.abc import AsyncGenerator, Set
from dataclasses import dataclass, field
from enum import IntEnum, StrEnum
from typing import Protocol, TypeAlias

from quern.events import Loading, Prefill, Queued
from quern.grammar.kinds import Grammar
from quern.sampling import SamplingParams
from quern.types import FinishReason, KvUsage, Timings, Usage


class Priority(IntEnum):
    """Who goes first when sequences are short; lower runs earlier, equals share by owner (`fair_shares.py`)."""

    INTERACTIVE = 0
    NORMAL = 1
    BACKGROUND = 2

    @property
    def label(self) -> str:
        """Its name for people and metrics."""
        return self.name.lower()


@dataclass(slots=True, eq=False)
class PriorityOverride:
    """A priority that takes the place of a request's own while it waits or runs; None: its own holds.

    Whoever made the request writes it; engines read it before each of their decisions, in any thread.
    """

    priority: Priority | None = None


@dataclass(frozen=True, slots=True)
class GenerateRequest:
    """One sequence to generate.

    `prompt`: token ids, at least one. `stop_token_ids`: generation ends before any of them is emitted. `cache_salt`:
    prefix reuse happens only between requests with the same salt, so that nobody can time another's prompt. `grammar`:
    only what it allows can be drawn; where it allows no more, the generation ends. Owners share the engine in
    proportion to their `weight`, which is greater than 0. `override` may change the priority later on. `cache_tag`: by
    which `Engine.forget` finds what is cached of it; without one that stays until its room is needed.

    `generated`: ids of the answer that were drawn before, in an earlier life of this request, in another process even.
    The generation goes on after them as if it had never stopped: every other value is what it was, and counts for the
    whole answer. Only `sampling.max_tokens` may be more than it was.
    """

    prompt: tuple[int, ...]
    sampling: SamplingParams
    stop_token_ids: frozenset[int] = frozenset()
    priority: Priority = Priority.NORMAL
    cache_salt: str = ""
    grammar: Grammar | None = None
    owner: str = ""
    weight: float = 1.0
    generated: tuple[int, ...] = ()
    cache_tag: str = field(default="", compare=False)
    override: PriorityOverride = field(default_factory=PriorityOverride, compare=False, repr=False)

    @property
    def known(self) -> tuple[int, ...]:
        """The prompt and what there is of the answer: what is computed before anything is drawn."""
        return self.prompt + self.generated

    @property
    def current_priority(self) -> Priority:
        """The one that holds now."""
        return self.priority if self.override.priority is None else self.override.priority


@dataclass(frozen=True, slots=True)
class EmbedRequest:
    """One sequence to embed. `prompt`: token ids, at least one, with the end of a text that the model was trained with.
    `cache_salt`, `owner`, `weight`, `cache_tag`: as in `GenerateRequest`.
    """

    prompt: tuple[int, ...]
    priority: Priority = Priority.NORMAL
    cache_salt: str = ""
    owner: str = ""
    weight: float = 1.0
    cache_tag: str = ""

    @property
    def known(self) -> tuple[int, ...]:
        """All that is computed."""
        return self.prompt

    @property
    def current_priority(self) -> Priority:
        """Its own, always."""
        return self.priority


Vector: TypeAlias = "array[float]"
"""An embedding: float32 (the type code `f`), its length 1."""


@dataclass(frozen=True, slots=True)
class Logprob:
    """Natural logarithms of probabilities before temperature and truncation: of the token that was drawn, and of the
    likeliest ones as (id, logarithm), best first.
    """

    value: float
    top: tuple[tuple[int, float], ...] = ()


@dataclass(frozen=True, slots=True)
class Tokens:
    """Newly generated ids, in order, at least one.

    `logprobs[i]` belongs to `ids[i]`; None where not asked for. `llamacpp` can't tell those of a character that is
    several tokens: its ids come as one event without any.
    """

    ids: tuple[int, ...]
    logprobs: tuple[Logprob, ...] | None = None


@dataclass(frozen=True, slots=True)
class Finished:
    """The last event of a generation that came to its own end.

    `usage` is of the whole answer: what was generated before counts among its completion tokens, and neither among its
    prompt tokens nor, where that came from the cache, among the cached ones. `timings` are of this life.
    """

    reason: FinishReason
    usage: Usage
    timings: Timings


EngineEvent = Loading | Queued | Prefill | Tokens | Finished


def ended_before(request: GenerateRequest, *, complete: bool = False) -> Finished | None:
    """The end of a request that has nothing left to draw after what was generated before; None where it has.

    `complete`: its grammar allows nothing more. That comes before the limit, as in an answer that never stopped.
    """
    if not complete and len(request.generated) < request.sampling.max_tokens:
        return None
    reason = FinishReason.STOP if complete else FinishReason.LENGTH
    return Finished(reason, Usage(len(request.prompt), 0, len(request.generated)), Timings())


@dataclass(frozen=True, slots=True)
class EngineInfo:
    """What an engine serves.

    `context_length`: the most tokens that one sequence may hold. `parallel`: sequences decoded at once. `device` and
    `quantisation` are for people.
    """

    engine: str
    model_id: str
    context_length: int
    vocabulary_size: int
    parallel: int
    device: str
    quantisation: str


class EngineState(StrEnum):
    """An engine's life. `RESTARTING`: it was lost and is coming back by itself. `STUCK`: a step doesn't end, and
    nothing but the process's end can end it; it may go on by itself. `UNLOADED`: it will be loaded when somebody asks
    for it.
    """

    NEW = "new"
    UNLOADED = "unloaded"
    LOADING = "loading"
    READY = "ready"
    RESTARTING = "restarting"
    STUCK = "stuck"
    CLOSED = "closed"


@dataclass(frozen=True, slots=True)
class EngineStats:
    """A snapshot. `load_progress` is 0 to 1; `load_remaining` is an estimate in seconds while loading, else 0. `kv`:
    None where the engine can't tell.

    `silent_seconds`: how long an engine that has something to compute has not come to the end of a step. One without
    work, or one that loads or restarts, is never silent.
    """

    state: EngineState
    running: int = 0
    waiting: int = 0
    load_progress: float = 0.0
    load_remaining: float = 0.0
    silent_seconds: float = 0.0
    kv: KvUsage | None = None


class Engine(Protocol):
    """What every engine is. `info` may be read once `start` has returned."""

    @property
    def info(self) -> EngineInfo: ...

    async def start(self) -> None:
        """Load the model. Raises ModelLoadError with what to do about it."""
        ...

    async def close(self) -> None:
        """Stop and free everything; running generations end with EngineFailed. May be called twice."""
        ...

    async def check_grammar(self, grammar: Grammar, owner: str = "") -> None:
        """Compile a grammar that an owner asks for, so that `generate` finds it ready.

        Raises InvalidRequest where it can't be kept to, with a sentence that says which part, and EngineUnavailable
        where nothing runs yet.
        """
        ...

    def check_continuable(self, request: GenerateRequest) -> None:
        """Whether a request can go on after any part of its answer, as if it had never stopped; `generated` may be
        empty yet. Without a seed what comes then is drawn anew.

        Raises InvalidRequest with a sentence where it can't.
        """
        ...

    def generate(self, request: GenerateRequest) -> AsyncGenerator[EngineEvent]:
        """Generate one sequence.

        Yields `Queued` while no sequence is free, `Prefill`, `Tokens`, then exactly one `Finished`. Raises
        EngineUnavailable where nothing runs yet and EngineFailed where the generation is lost. Closing the generator
        cancels: the sequence is free again within one engine step.

        What was generated before is prefilled like the prompt and not told again. Where that is the whole answer,
        `Finished` is the only event. Raises what `check_continuable` does, and InvalidRequest where what there is of an
        answer does not follow its grammar.
        """
        ...

    async def embed(self, request: EmbedRequest) -> Vector:
        """The embedding of one sequence; only for models that make them.

        Requests wait and run among all others. Cancelling frees the sequence within one engine step. Raises
        EngineUnavailable where nothing runs yet, EngineFailed where the vector is lost, and ContextExceeded where the
        sequence could never fit.
        """
        ...

    def forget(self, tags: Set[str]) -> None:
        """Drop what is cached of requests with these tags and with no others: nothing of it is reused any more.
        Nothing to do for an engine without a cache. Never blocks.
        """
        ...

    def stats(self) -> EngineStats:
        """A snapshot; never blocks."""
        ...
