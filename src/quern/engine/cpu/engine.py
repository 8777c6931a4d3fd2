"""The CPU engine: our own native code in this process, on a thread of its own."""

from __future__ import annotations

import asyncio
import itertools
import math
from collections.abc import AsyncGenerator, Callable, Set
from contextlib import aclosing, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path

import structlog

from quern.config_models import EngineSettings
from quern.engine.base import (
    EmbedRequest,
    EngineEvent,
    EngineInfo,
    EngineState,
    EngineStats,
    Finished,
    GenerateRequest,
    Vector,
    ended_before,
)
from quern.engine.cpu.load_estimate import LoadEstimate
from quern.engine.cpu.mailboxes import Mailboxes
from quern.engine.cpu.model import LoadModel, Model, ModelSpec
from quern.engine.cpu.native import NativeModel, NativeOptions
from quern.engine.cpu.scheduler import Embedded
from quern.engine.cpu.thread_watch import ThreadWatch
from quern.engine.cpu.worker import LOST, Reports, Worker
from quern.errors import ContextExceeded, EngineError, EngineFailed, EngineUnavailable, ModelLoadError
from quern.grammar.checker import GrammarChecker
from quern.grammar.compiler import CompiledGrammar, Constraint, Vocabulary
from quern.grammar.kinds import Grammar
from quern.machine import usable_cores
from quern.modelfiles.description import ModelFacts
from quern.modelfiles.sizes import kv_cache_bytes, size_on_disk
from quern.types import StepFacts

log = structlog.get_logger(__name__)

LONGEST_CONTEXT = 32768
DEFAULT_BATCH_TOKENS = 64
CLOSE_SECONDS = 20.0
"""How long the end of the thread is waited for: a step takes seconds at most."""

CLOSED = "The engine was closed before this answer was complete, so the answer was lost. Ask again once it is back."
STUCK = (
    "The engine did not come to the end of a step within engine.stuck_seconds, so this answer was given up. Unless it "
    "goes on by itself, the server has to be started anew; then ask again."
)


class CpuEngine:
    """Serves one model: `load` gets it, by default through the native module from `model_path`.

    `facts`: what its files say. `vocabulary`: the tokens that its prompts are made of; the prompts' tokenizer is one.
    `model_id` is for people. `on_step` is told of each step, in the engine's thread.
    """

    def __init__(
        self,
        model_path: Path,
        *,
        model_id: str,
        facts: ModelFacts,
        settings: EngineSettings,
        vocabulary: Vocabulary,
        load: LoadModel | None = None,
        on_step: Callable[[StepFacts], object] | None = None,
    ) -> None:
        self._model_path = model_path
        self._model_id = model_id
        self._facts = facts
        self._settings = settings
        self._vocabulary = vocabulary
        self._on_step = on_step
        self._load = load or partial(NativeModel.load, model_path, native_options(settings, facts))
        self._state = EngineState.NEW
        self._estimate: LoadEstimate | None = None
        self._info: EngineInfo | None = None
        self._worker: Worker | None = None
        self._grammars: GrammarChecker | None = None
        self._watch = ThreadWatch(
            settings.stuck_seconds,
            silent_seconds=lambda: self.stats().silent_seconds,
            on_stuck=self._give_up,
            on_going_on=partial(self._become, EngineState.READY),
            bring_up=self._bring_up,
        )
        self._watching: asyncio.Task[None] | None = None
        self._mailboxes = Mailboxes()
        self._keys = itertools.count(1)

    @property
    def info(self) -> EngineInfo:
        """What is served. Raises EngineUnavailable before `start` has returned."""
        if self._info is None:
            raise self._unavailable()
        return self._info

    async def start(self) -> None:
        """Load the model. Raises ModelLoadError with what to do about it."""
        self._state = EngineState.LOADING
        try:
            await self._bring_up()
        except BaseException:
            await self.close()
            raise
        if self.stats().state is EngineState.READY:
            self._watching = asyncio.get_running_loop().create_task(self._watch.run())

    async def close(self) -> None:
        """Stop and free everything; waiting and running generations end with EngineFailed at once."""
        self._state = EngineState.CLOSED
        self._mailboxes.fail(CLOSED)
        if self._watching is not None:
            self._watching.cancel()
            await asyncio.wait([self._watching])
        if self._worker is not None:
            self._worker.stop()
            if not await asyncio.to_thread(self._worker.join, CLOSE_SECONDS):
                log.error("engine_thread_left_behind", seconds=CLOSE_SECONDS)
        grammars, self._grammars = self._grammars, None
        if grammars is not None:  # its tables are large, and the engine itself is garbage only sometime later
            await asyncio.to_thread(grammars.close)

    def stats(self) -> EngineStats:
        """A snapshot; never blocks."""
        estimate = self._estimate if self._state in {EngineState.LOADING, EngineState.RESTARTING} else None
        worker = self._worker if self._state in {EngineState.READY, EngineState.STUCK} else None
        return EngineStats(
            self._state,
            running=self._mailboxes.running,
            waiting=self._mailboxes.waiting,
            load_progress=estimate.share if estimate is not None else float(self._state is EngineState.READY),
            load_remaining=estimate.remaining() if estimate is not None else 0.0,
            silent_seconds=worker.silent_seconds if worker is not None else 0.0,
            kv=worker.kv if worker is not None else None,
        )

    async def check_grammar(self, grammar: Grammar, owner: str = "") -> None:
        """Compile a grammar; see `Engine.check_grammar`."""
        await self._compiled(grammar, owner)

    def check_continuable(self, request: GenerateRequest) -> None:
        """Every request can go on, to the bit where it is greedy or has a seed; see `Engine.check_continuable`."""

    def forget(self, tags: Set[str]) -> None:
        """Drop what the KV cache holds for these alone; see `Engine.forget`."""
        if self._worker is not None:
            self._worker.forget(tags)

    async def generate(self, request: GenerateRequest) -> AsyncGenerator[EngineEvent]:
        """Generate one sequence; see `Engine.generate`.

        Raises ContextExceeded where it could never fit, and what `check_grammar` raises where that was not called.
        """
        self._ready_worker()
        prompt_tokens, max_tokens = len(request.prompt), request.sampling.max_tokens
        if prompt_tokens + max_tokens > self.info.context_length:
            raise ContextExceeded(prompt_tokens, max_tokens, self.info.context_length)
        constraint = None if request.grammar is None else await self._constraint(request, request.grammar)
        end = ended_before(request, complete=constraint is not None and constraint.complete)
        if end is not None:
            yield end
            return
        ended = with_end_ids(request, self._vocabulary.end_of_turn_ids)
        async with aclosing(self._events(ended, constraint)) as events:
            async for event in events:
                if not isinstance(event, Embedded):
                    yield event

    async def embed(self, request: EmbedRequest) -> Vector:
        """The embedding of one sequence; see `Engine.embed`."""
        self._ready_worker()
        if len(request.prompt) > self.info.context_length:
            raise ContextExceeded(len(request.prompt), 0, self.info.context_length)
        async with aclosing(self._events(request)) as events:
            async for event in events:
                if isinstance(event, Embedded):
                    return event.vector
        raise EngineFailed(LOST)

    async def _events(
        self, request: GenerateRequest | EmbedRequest, constraint: Constraint | None = None
    ) -> AsyncGenerator[EngineEvent | Embedded]:
        """What the worker says of a sequence, to its end. Closing it cancels. Raises what the worker ends it with."""
        worker = self._ready_worker()
        key = next(self._keys)
        mailbox = self._mailboxes.open(key)
        worker.submit(key, request, constraint)
        try:
            while True:
                await mailbox.filled.wait()
                mailbox.filled.clear()
                events, mailbox.events = mailbox.events, []
                for event in events:
                    if isinstance(event, EngineError):
                        raise event
                    yield event
                    if isinstance(event, Finished | Embedded):
                        return
        finally:
            if self._mailboxes.close(key):
                worker.cancel(key)

    async def _bring_up(self) -> None:
        """Start a thread and have it load the model. Raises ModelLoadError."""
        self._estimate = LoadEstimate()
        loaded: asyncio.Future[ModelSpec] = asyncio.get_running_loop().create_future()
        self._worker = self._make_worker(loaded, self._estimate)
        self._worker.start()
        self._info = self._describe(await loaded)
        if self._become(EngineState.READY):
            log.info("engine_ready", device=self._info.device, context_length=self._info.context_length)

    def _become(self, state: EngineState) -> bool:
        """False where it is closed, for good."""
        if self._state is not EngineState.CLOSED:
            self._state = state
        return self._state is state

    def _give_up(self) -> None:
        """A step does not end: nobody is to wait for it, and nobody new. Who is given up leaves when it ends."""
        worker = self._ready_worker()
        self._become(EngineState.STUCK)
        for key in self._mailboxes.fail(STUCK):
            worker.cancel(key)

    def _lose_thread(self) -> None:
        """It has ended by itself; another one will load the model again."""
        if self._become(EngineState.RESTARTING):
            self._mailboxes.fail(LOST)
            self._watch.ended()

    def _make_worker(self, loaded: asyncio.Future[ModelSpec], estimate: LoadEstimate) -> Worker:
        """Its reports come in its own thread; all but the progress and the steps go on in the event loop."""
        in_loop = loaded.get_loop().call_soon_threadsafe

        def load(progress: Callable[[float], None]) -> Model:
            with suppress(OSError):  # what is wrong with the file the loader says better
                estimate.expect(size_on_disk(self._model_path))
            model = self._load(progress)
            self._grammars = self._grammars or GrammarChecker(self._vocabulary, model.spec.vocabulary_size)
            return model

        return Worker(
            load,
            Reports(
                loading=estimate.report,
                loaded=partial(in_loop, partial(_succeed, loaded)),
                failed=partial(in_loop, partial(_fail, loaded)),
                notices=partial(in_loop, self._mailboxes.deliver),
                step=self._on_step or _nobody,
                ended=partial(in_loop, self._lose_thread),
            ),
            parallel=self._settings.parallel,
            shared_tokens=self._settings.batch_tokens or DEFAULT_BATCH_TOKENS,
        )

    def _describe(self, spec: ModelSpec) -> EngineInfo:
        size = self._vocabulary.vocabulary_size
        if size > spec.vocabulary_size:
            msg = (
                f"The tokenizer of {self._model_id} has {size} tokens and its weights are for "
                f"{spec.vocabulary_size}: they do not belong together. Fetch the model again, or choose another one."
            )
            raise ModelLoadError(msg)
        longest = self._settings.context_length or LONGEST_CONTEXT
        return EngineInfo(
            engine="cpu",
            model_id=self._model_id,
            context_length=min(longest, spec.context_length, spec.kv_blocks * spec.block_tokens),
            vocabulary_size=spec.vocabulary_size,
            parallel=self._settings.parallel,
            device=spec.device,
            quantisation=self._facts.quantisation,
        )

    async def _compiled(self, grammar: Grammar, owner: str) -> CompiledGrammar:
        if self._state is not EngineState.READY or self._grammars is None:
            raise self._unavailable()
        return await self._grammars.check(grammar, owner)

    async def _constraint(self, request: GenerateRequest, grammar: Grammar) -> Constraint:
        """How far a request's answer is in its grammar; in a thread, for a long answer takes a while to read."""
        compiled = await self._compiled(grammar, request.owner)
        return await asyncio.to_thread(compiled.constraint, request.generated)

    def _ready_worker(self) -> Worker:
        if self._state is not EngineState.READY or self._worker is None:
            raise self._unavailable()
        return self._worker

    def _unavailable(self) -> EngineUnavailable:
        seconds = max(1, math.ceil(self.stats().load_remaining))
        doing = {
            EngineState.NEW: "has not been started",
            EngineState.LOADING: "is still loading the model",
            EngineState.RESTARTING: "was lost and is starting again",
            EngineState.STUCK: "is stuck in a step",
        }.get(self._state, "has been closed")
        return EngineUnavailable(f"The engine {doing}. Try again in {seconds} s.", seconds)


def with_end_ids(request: GenerateRequest, end_ids: frozenset[int]) -> GenerateRequest:
    """The request, made to end where the model ends its turn; or never to draw that end, where it ignores it."""
    if not request.sampling.ignore_eos:
        return replace(request, stop_token_ids=request.stop_token_ids | end_ids)
    bias = {**request.sampling.logit_bias, **dict.fromkeys(end_ids, -math.inf)}
    return replace(request, sampling=replace(request.sampling, logit_bias=bias))


def native_options(settings: EngineSettings, facts: ModelFacts) -> NativeOptions:
    """How the settings have a model loaded."""
    return NativeOptions(
        threads=settings.threads or usable_cores(),
        kv_tokens=settings.kv_tokens,
        kv_type=settings.kv_type,
        kv_bytes=kv_cache_bytes(facts.kv_shape, settings.kv_tokens, settings.kv_type),
        quantise=settings.quantise,
    )


def _nobody(_step: StepFacts) -> None:
    """Is told of steps where nobody asks."""


def _succeed(loaded: asyncio.Future[ModelSpec], spec: ModelSpec) -> None:
    if not loaded.done():
        loaded.set_result(spec)


def _fail(loaded: asyncio.Future[ModelSpec], error: Exception) -> None:
    if not loaded.done():
        loaded.set_exception(error)
