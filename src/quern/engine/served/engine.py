"""An engine whose model runs in a server: who may run is decided here, and the answer goes on when it gave way."""

from __future__ import annotations

import asyncio
import math
import time
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Set
from contextlib import aclosing
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from quern.engine.admission import Place
from quern.engine.base import (
    EmbedRequest,
    EngineEvent,
    EngineInfo,
    EngineState,
    EngineStats,
    GenerateRequest,
    ended_before,
)
from quern.engine.gate import Gate
from quern.engine.served.answer import Answer
from quern.engine.served.backend import Backend, Ready
from quern.engine.served.continuation import Restarts, of_whole, refusal, rest_of
from quern.engine.served.releases import Releases, SlotUse
from quern.engine.served.supervisor import Supervisor
from quern.errors import ContextExceeded, EngineFailed, EngineUnavailable, InvalidRequest, ModelLoadError
from quern.events import Queued
from quern.grammar.checker import GrammarChecker
from quern.grammar.compiler import CompiledGrammar, Vocabulary
from quern.grammar.json_schema import Llguidance
from quern.grammar.kinds import Grammar

ReadyT = TypeVar("ReadyT", bound=Ready)


@dataclass(frozen=True, slots=True)
class Room:
    """What a server has room for: tokens of KV cache that sequences reserve, and slots, those of sequences that are
    leaving among them; None: as many as there are places.
    """

    kv_tokens: int
    slots: int | None = None


class Run(SlotUse, Protocol):
    """One run of an answer on a server, which begins when it is made and is not queued there. `exact`: the ids that it
    has told are those that were drawn.
    """

    exact: bool

    @property
    def reusable(self) -> int:
        """Tokens of its prompt that are known to be cached."""
        ...

    def events(self) -> AsyncGenerator[EngineEvent]:
        """Generate. Raises EngineFailed, and ConnectionError where the server can't be reached."""
        ...


class ServedEngine(ABC, Generic[ReadyT]):
    """Keeps a server up and lets requests through to it: we own admission, so that its own queue stays empty.

    `llguidance`: whose keeps answers to their grammars there. `most_silent`: seconds without a word of running answers
    after which the server counts as stuck.
    """

    name: str

    def __init__(
        self,
        backend: Backend[ReadyT],
        vocabulary: Vocabulary,
        *,
        llguidance: Llguidance,
        most_silent: float = math.inf,
    ) -> None:
        self.backend = backend
        self._vocabulary = vocabulary
        self._llguidance = llguidance
        self._info: EngineInfo | None = None
        self._gate: Gate | None = None
        self._ready: ReadyT | None = None
        self._grammars: GrammarChecker | None = None
        self._releases = Releases()
        self._generating, self._heard_at = 0, 0.0
        self._supervisor = Supervisor(
            backend,
            on_ready=self._begin,
            on_lost=self._pause,
            on_failed=self._refuse_waiting,
            silent_seconds=self._silent_seconds,
            most_silent=most_silent,
        )

    @abstractmethod
    def _describe(self, ready: ReadyT) -> EngineInfo:
        """What a server serves. Raises ModelLoadError where it is the wrong one."""

    @abstractmethod
    def _room(self, ready: ReadyT) -> Room:
        """What it has room for; a new one has room for as much as the one before."""

    @abstractmethod
    def _run(self, ready: ReadyT, request: GenerateRequest, grammar: CompiledGrammar | None) -> Run:
        """Begin a run."""

    @abstractmethod
    def _restarts(self, request: GenerateRequest) -> Restarts | None:
        """What of a request the server would begin anew, if it had to go on; None where it goes on as it was."""

    def _no_grammars(self, ready: ReadyT) -> str:
        """Why the server can't keep to grammars, as a sentence; empty where it can."""
        del ready
        return ""

    def _reserved(self, prompt_tokens: int, max_tokens: int) -> int:
        """Tokens of KV cache that a sequence is let in with."""
        return prompt_tokens + max_tokens

    @property
    def info(self) -> EngineInfo:
        """What is served. Raises EngineUnavailable before `start` has returned."""
        if self._info is None:
            raise self._unavailable()
        return self._info

    async def start(self) -> None:
        """Load the model, or connect. Raises ModelLoadError with what to do about it."""
        loading = asyncio.ensure_future(asyncio.to_thread(self._load_grammars))
        try:
            await self._supervisor.start()
        finally:
            await loading

    async def close(self) -> None:
        """Stop and free everything; waiting and running generations end with EngineFailed."""
        await self._supervisor.close()
        self._pause()
        if self._gate is not None:
            self._gate.refuse_waiting(EngineFailed("The engine was closed while this request waited its turn."))
        await self._releases.close()
        grammars, self._grammars = self._grammars, None
        if grammars is not None:  # its tables are large, and the engine itself is garbage only sometime later
            await asyncio.to_thread(grammars.close)

    def forget(self, tags: Set[str]) -> None:
        """Nothing: such a server has no way to drop what its cache has of some requests. What was cached under their
        salt is given up when the room is needed. See `Engine.forget`.
        """

    def stats(self) -> EngineStats:
        """A snapshot; never blocks. A sequence counts as running until the server has really freed it."""
        return EngineStats(
            self._supervisor.state,
            running=self._gate.running if self._gate is not None else 0,
            waiting=self._gate.waiting if self._gate is not None else 0,
            load_progress=self._supervisor.progress,
            load_remaining=self._supervisor.remaining,
            silent_seconds=self._silent_seconds(),
        )

    async def check_grammar(self, grammar: Grammar, owner: str = "") -> None:
        """See `Engine.check_grammar`."""
        await self._compiled(grammar, owner)

    def check_continuable(self, request: GenerateRequest) -> None:
        """Not what the server can only begin at its beginning; `continuation.py` says how exactly the others go on."""
        restarts = self._restarts(request)
        if restarts is not None:
            raise refusal(restarts, self.name)

    async def generate(self, request: GenerateRequest) -> AsyncGenerator[EngineEvent]:
        """Generate one sequence; see `Engine.generate`.

        Raises ContextExceeded where it could never fit, and what `check_grammar` raises where that was not called.
        """
        if request.generated:
            self.check_continuable(request)
        end = ended_before(request)
        if end is not None:
            yield end
            return
        async with aclosing(self._generate(rest_of(request))) as events:
            async for event in events:
                yield of_whole(event, request)

    async def _generate(self, request: GenerateRequest) -> AsyncGenerator[EngineEvent]:
        """Generate one sequence that begins at its beginning."""
        grammar = await self._compiled(request.grammar, request.owner) if request.grammar is not None else None
        resumable = self._restarts(request) is None
        gate, place = self._arrive(request, request.sampling.max_tokens, resumable=resumable)
        answer = Answer(request)
        run: Run | None = None
        try:
            async with aclosing(gate.positions(place)) as positions:
                async for position in positions:
                    yield Queued(position)
            while not answer.over:
                await gate.turn(place)
                computed = answer.computed
                run = self._run(self._server(), answer.next_run(), grammar)
                gate.recomputes(place, computed - run.reusable)
                async with aclosing(self._watched(run.events())) as events:
                    async for event in events:
                        told = answer.tell(event)
                        if told is not None:
                            gate.charge(place, told)
                            yield told
                        if gate.gives_way(place) and answer.remaining:
                            break
                        place.resumable = place.resumable and run.exact
                if not answer.over:
                    await self._releases.free(run)
                    run = None
                    gate.vacate(place)
        except ConnectionError as error:
            raise self._unavailable() from error
        finally:
            self._releases.leave(gate, place, run)

    async def _watched(self, events: AsyncGenerator[EngineEvent]) -> AsyncGenerator[EngineEvent]:
        """The events of a sequence that runs; the server says something of each at every step."""
        self._heard_at = time.monotonic() if not self._generating else self._heard_at
        self._generating += 1
        try:
            async with aclosing(events):
                async for event in events:
                    self._heard_at = time.monotonic()
                    yield event
        finally:
            self._generating -= 1

    def _silent_seconds(self) -> float:
        return time.monotonic() - self._heard_at if self._generating and self._ready else 0.0

    def _load_grammars(self) -> None:
        size = self._vocabulary.vocabulary_size
        self._grammars = GrammarChecker(self._vocabulary, size, self._llguidance)

    async def _compiled(self, grammar: Grammar, owner: str) -> CompiledGrammar:
        ready = self._server()
        if self._grammars is None:
            raise self._unavailable()
        if why := self._no_grammars(ready):
            raise InvalidRequest(why)
        return await self._grammars.check(grammar, owner)

    def _begin(self, ready: ReadyT) -> None:
        """A server is ready: check that it is the right one, and let requests in."""
        info = self._describe(ready)
        if self._info not in {None, info}:
            msg = "The inference server came back with another model or other limits. Restart Quern to use it."
            raise ModelLoadError(msg)
        self._info = info
        self._ready = ready
        room = self._room(ready)
        if self._gate is None:
            self._gate = Gate(info.parallel, room.kv_tokens, room.slots)
        self._gate.resume()

    def _pause(self) -> None:
        self._ready = None
        if self._gate is not None:
            self._gate.pause()

    def _refuse_waiting(self, error: ModelLoadError) -> None:
        if self._gate is not None:
            msg = f"The inference server was lost and could not be brought back at once. {error}"
            self._gate.refuse_waiting(EngineFailed(msg))

    def _arrive(
        self, request: GenerateRequest | EmbedRequest, max_tokens: int, *, resumable: bool
    ) -> tuple[Gate, Place]:
        self._server()
        if self._gate is None:
            raise self._unavailable()
        prompt_tokens, context_length = len(request.prompt), self.info.context_length
        if prompt_tokens + max_tokens > context_length:
            raise ContextExceeded(prompt_tokens, max_tokens, context_length)
        reserved = self._reserved(prompt_tokens, max_tokens)
        return self._gate, self._gate.arrive(reserved, request, resumable=resumable)

    def _server(self) -> ReadyT:
        """The one that is ready. Raises EngineUnavailable."""
        if self._ready is None:
            raise self._unavailable()
        return self._ready

    def _unavailable(self) -> EngineUnavailable:
        seconds = max(1, math.ceil(self._supervisor.remaining))
        doing = {
            EngineState.NEW: "has not been started",
            EngineState.LOADING: "is still loading the model",
            EngineState.RESTARTING: "was lost and is starting again",
            EngineState.CLOSED: "has been closed",
        }.get(self._supervisor.state, "can't be reached at the moment")
        return EngineUnavailable(f"The engine {doing}. Try again in {seconds} s.", seconds)
