"""The llama.cpp engine: GGUF models through llama-server, in a child process of ours or at `engine.url`."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from pathlib import Path

from quern.config import EngineSettings
from quern.engine.admission import Place
from quern.engine.base import (
    EmbedRequest,
    EngineEvent,
    EngineInfo,
    EngineState,
    EngineStats,
    GenerateRequest,
    Vector,
    ended_before,
)
from quern.engine.gate import Gate
from quern.engine.llamacpp.answer import Answer
from quern.engine.llamacpp.backend import Backend, Connected, RemoteServer
from quern.engine.llamacpp.continuation import of_whole, require_continuable, rest_of
from quern.engine.llamacpp.embedding_call import EmbeddingCall
from quern.engine.llamacpp.process import InferenceProcess
from quern.engine.llamacpp.releases import Releases
from quern.engine.llamacpp.request import resumable
from quern.engine.llamacpp.slot_generation import SlotGeneration
from quern.engine.llamacpp.supervisor import Supervisor
from quern.engine.slots import SlotTable, with_spare
from quern.errors import ContextExceeded, EngineFailed, EngineUnavailable, InvalidRequest, ModelLoadError
from quern.events import Queued
from quern.grammar.checker import GrammarChecker
from quern.grammar.compiler import CompiledGrammar, Vocabulary
from quern.grammar.json_schema import Llguidance
from quern.grammar.kinds import Grammar
from quern.machine import usable_cores

LONGEST_CONTEXT = 32768
DEFAULT_BATCH_TOKENS = 128
NO_LLGUIDANCE = (
    "The llama-server at engine.url does not keep answers to llguidance's grammars, so neither the form of an answer "
    "nor a call of a tool can be demanded of it. Run a llama-server there that is built with LLAMA_LLGUIDANCE, or use "
    "the engine cpu (engine.name)."
)


class LlamaCppEngine:
    """Serves one GGUF file. We own admission and slots, so that llama-server's own queue stays empty.

    `quantisation` and `model_id` are for people. `vocabulary`: the tokens that its prompts are made of; a server at
    `settings.url` with more or fewer holds another model. `embeds`: the model makes embeddings, and writes no text.
    """

    def __init__(
        self,
        model_path: Path,
        *,
        model_id: str,
        quantisation: str,
        settings: EngineSettings,
        vocabulary: Vocabulary,
        embeds: bool = False,
    ) -> None:
        self._embeds = embeds
        # llama-server wants room for one token more, also where none is drawn.
        self._kept_free = int(embeds)
        self._model_id = model_id
        self._quantisation = quantisation
        self._vocabulary = vocabulary
        self._settings = settings
        self._longest = min(settings.context_length or LONGEST_CONTEXT, settings.kv_tokens)
        self._info: EngineInfo | None = None
        self._gate: Gate | None = None
        self._connected: Connected | None = None
        self._slots = SlotTable(0)
        self._grammars: GrammarChecker | None = None
        self._releases = Releases()
        self._embedding: set[EmbeddingCall] = set()
        self._generating, self._heard_at = 0, 0.0
        self.backend = self._choose_backend(model_path)
        self._supervisor = Supervisor(
            self.backend,
            on_ready=self._begin,
            on_lost=self._pause,
            on_failed=self._refuse_waiting,
            silent_seconds=self._silent_seconds,
            # A server of somebody else's may take larger steps, and works for others meanwhile.
            most_silent=settings.stuck_seconds if settings.url is None else math.inf,
        )

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
        if self._grammars is not None:
            await asyncio.to_thread(self._grammars.close)

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

    def _silent_seconds(self) -> float:
        return time.monotonic() - self._heard_at if self._generating and self._connected else 0.0

    async def check_grammar(self, grammar: Grammar, owner: str = "") -> None:
        """See `Engine.check_grammar`."""
        await self._compiled(grammar, owner)

    def check_continuable(self, request: GenerateRequest) -> None:
        """Not with a seed of its own, nor under a grammar; `continuation.py` says how exactly the others do."""
        require_continuable(request)

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
        gate, place = self._arrive(request, request.sampling.max_tokens, resumable=resumable(request))
        answer = Answer(request)
        run: SlotGeneration | None = None
        try:
            async with aclosing(gate.positions(place)) as positions:
                async for position in positions:
                    yield Queued(position)
            while not answer.over:
                await gate.turn(place)
                computed = answer.computed
                run = self._run(answer.next_run(), grammar)
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

    async def embed(self, request: EmbedRequest) -> Vector:
        """The embedding of one sequence; see `Engine.embed`."""
        gate, place = self._arrive(request, 0, resumable=False)
        call: EmbeddingCall | None = None
        try:
            await gate.turn(place)
            if self._connected is None:
                raise self._unavailable()
            call = EmbeddingCall(self._connected.server, self._embedding)
            vector = await call.embed(request.prompt)
        except ConnectionError as error:
            raise self._unavailable() from error
        else:
            gate.embedded(place)
            return vector
        finally:
            self._releases.leave(gate, place, call)

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

    def _load_grammars(self) -> None:
        size = self._vocabulary.vocabulary_size
        self._grammars = GrammarChecker(self._vocabulary, size, Llguidance.LLAMA_CPP)

    async def _compiled(self, grammar: Grammar, owner: str) -> CompiledGrammar:
        if self._connected is None or self._grammars is None:
            raise self._unavailable()
        if not self._connected.keeps_to_grammars:
            raise InvalidRequest(NO_LLGUIDANCE)
        return await self._grammars.check(grammar, owner)

    def _choose_backend(self, model_path: Path) -> Backend:
        settings = self._settings
        if settings.url is not None:
            key = settings.api_key.get_secret_value() if settings.api_key is not None else ""
            return RemoteServer(settings.url, key, self._most_slots(), embeds=self._embeds)
        return InferenceProcess(
            model_path,
            slots=self._most_slots(),
            kv_tokens=settings.kv_tokens,
            sequence_tokens=self._longest + self._kept_free,
            threads=settings.threads or usable_cores(),
            batch_tokens=settings.batch_tokens or DEFAULT_BATCH_TOKENS,
            hung_seconds=settings.hung_seconds,
            embeds=self._embeds,
        )

    def _most_slots(self) -> int:
        """Some to spare, but not more than can each have their own part of the cache where `parallel` can: one pool for
        all costs more. On a server of somebody else's that is its own business. Embeddings never give way.
        """
        parallel, url = self._settings.parallel, self._settings.url
        parts = self._settings.kv_tokens // (self._longest + self._kept_free)
        if self._embeds:
            return parallel
        return with_spare(parallel) if url is not None or parts < parallel else min(with_spare(parallel), parts)

    def _begin(self, connected: Connected) -> None:
        """A server is ready: check that it is the right one, and let requests in."""
        info = self._describe(connected)
        if self._info not in {None, info}:
            msg = "The inference server came back with another model or other limits. Restart Quern to use it."
            raise ModelLoadError(msg)
        self._info = info
        self._connected = connected
        slots = min(self._most_slots(), connected.facts.slots)
        self._slots = SlotTable(slots)
        if self._gate is None:
            kv_tokens = min(self._settings.kv_tokens, connected.facts.slots * connected.facts.context_length)
            self._gate = Gate(info.parallel, kv_tokens, slots)
        self._gate.resume()

    def _describe(self, connected: Connected) -> EngineInfo:
        facts = connected.facts
        size = self._vocabulary.vocabulary_size
        if facts.vocabulary_size != size:
            msg = (
                f"The inference server's model has {facts.vocabulary_size} tokens in its vocabulary and "
                f"{self._model_id} has {size}: they are not the same model. Let the server at "
                f"engine.url load the model that model.name names."
            )
            raise ModelLoadError(msg)
        return EngineInfo(
            engine="llamacpp",
            model_id=self._model_id,
            context_length=min(self._longest, facts.context_length - self._kept_free),
            vocabulary_size=facts.vocabulary_size,
            parallel=min(self._settings.parallel, facts.slots),
            device=connected.device,
            quantisation=self._quantisation,
        )

    def _pause(self) -> None:
        self._connected = None
        if self._gate is not None:
            self._gate.pause()

    def _refuse_waiting(self, error: ModelLoadError) -> None:
        if self._gate is not None:
            msg = f"The inference server was lost and could not be brought back at once. {error}"
            self._gate.refuse_waiting(EngineFailed(msg))

    def _arrive(
        self, request: GenerateRequest | EmbedRequest, max_tokens: int, *, resumable: bool
    ) -> tuple[Gate, Place]:
        if self._connected is None or self._gate is None:
            raise self._unavailable()
        tokens = len(request.prompt) + max_tokens
        if tokens > self.info.context_length:
            raise ContextExceeded(len(request.prompt), max_tokens, self.info.context_length)
        return self._gate, self._gate.arrive(tokens, request, resumable=resumable)

    def _run(self, request: GenerateRequest, grammar: CompiledGrammar | None) -> SlotGeneration:
        if self._connected is None:
            raise self._unavailable()
        return SlotGeneration(request, self._connected.server, self._slots, grammar=grammar)

    def _unavailable(self) -> EngineUnavailable:
        seconds = max(1, math.ceil(self._supervisor.remaining))
        doing = {
            EngineState.NEW: "has not been started",
            EngineState.LOADING: "is still loading the model",
            EngineState.RESTARTING: "was lost and is starting again",
            EngineState.CLOSED: "has been closed",
        }.get(self._supervisor.state, "can't be reached at the moment")
        return EngineUnavailable(f"The engine {doing}. Try again in {seconds} s.", seconds)
