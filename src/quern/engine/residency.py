"""Several models in one memory: those that don't fit beside the others are loaded when they are asked for.

Who asks for a model that is not loaded waits until it is. Idle ones make room for it, the least recently used first;
where those are not enough, busy ones take nothing new and make room once what they do is done. So a running sequence
never loses its model, and a model that is always busy can't keep another one out for ever.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Collection, Generator, Sequence, Set
from contextlib import aclosing, contextmanager, suppress
from dataclasses import dataclass, replace

import structlog

from quern.engine.base import (
    EmbedRequest,
    Engine,
    EngineEvent,
    EngineInfo,
    EngineState,
    EngineStats,
    GenerateRequest,
    Vector,
)
from quern.errors import EngineUnavailable, ModelLoadError
from quern.events import Loading
from quern.grammar.kinds import Grammar

log = structlog.get_logger(__name__)

LEAST_SECONDS = 10.0
"""So long a busy model is not asked to make room after it was loaded: two that take turns would only be loaded."""

TELL_SECONDS = 0.5
RETRY_SECONDS = 5


@dataclass(frozen=True, slots=True)
class Loaded:
    """A model in memory. `size`: bytes; `busy`: sequences of it wait or run; `used_at`, `loaded_at`: seconds of a
    monotonic clock.
    """

    name: str
    size: int
    busy: bool
    used_at: float
    loaded_at: float


def make_room(size: int, budget: int, loaded: Collection[Loaded]) -> tuple[list[str], bool]:
    """Which models have to go for one of `size` bytes, within a `budget` for all: idle ones, the least recently used
    first, then those that are busy, the longest loaded first. The second value: whether none of them is busy.
    """
    free = budget - sum(one.size for one in loaded)
    going: list[Loaded] = []
    for one in sorted(loaded, key=lambda one: (one.busy, one.loaded_at if one.busy else one.used_at)):
        if free >= size:
            break
        free += one.size
        going.append(one)
    needed = _without_the_superfluous(going, free - size)
    return [one.name for one in needed], not any(one.busy for one in needed)


def _without_the_superfluous(going: Sequence[Loaded], spare: int) -> list[Loaded]:
    """Small ones were chosen before a large one that is enough alone."""
    needed = list(going)
    for one in going:
        if one.size <= spare:
            needed.remove(one)
            spare -= one.size
    return needed


class Residency:
    """The memory that models share: `budget` bytes. Loads one after the other, in the order in which they are asked
    for.
    """

    def __init__(self, budget: int) -> None:
        self._budget = budget
        self._engines: list[OnDemandEngine] = []
        self._turn = asyncio.Lock()
        self._changed = asyncio.Event()

    def add(self, engine: OnDemandEngine) -> None:
        """It is one of those that share it. Raises ModelLoadError where it could never fit."""
        if engine.size > self._budget:
            msg = (
                f"The model {engine.name} takes {engine.size / 1e9:.1f} GB (weights and KV cache), and all models "
                f"together may have {self._budget / 1e9:.1f} GB. Choose a smaller model, lower its engine.kv_tokens, "
                f"or raise server.model_memory_gb."
            )
            raise ModelLoadError(msg)
        self._engines.append(engine)

    def fits(self, size: int) -> bool:
        """Whether so many bytes are free."""
        return sum(one.size for one in self._loaded()) + size <= self._budget

    def changed(self) -> None:
        """A model has nothing to do any more, or is gone."""
        self._changed.set()

    async def bring_in(self, wanted: OnDemandEngine) -> None:
        """Load a model, once there is room. Raises ModelLoadError."""
        async with self._turn:
            if not wanted.ready:
                await self._empty_room_for(wanted)
                await wanted.load()

    async def let_go(self, engine: OnDemandEngine) -> None:
        """Unload a model that has nothing to do."""
        async with self._turn:
            loaded = engine.loaded
            if loaded is not None and not loaded.busy:
                await engine.unload()

    async def _empty_room_for(self, wanted: OnDemandEngine) -> None:
        try:
            while True:
                self._changed.clear()
                names, idle = make_room(wanted.size, self._budget, self._loaded())
                going = [one for one in self._engines if one.name in names]
                if idle:
                    break
                age = time.monotonic() - max(one.loaded_at for one in going)
                for one in going:
                    one.leaving = age >= LEAST_SECONDS
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._changed.wait(), None if age >= LEAST_SECONDS else LEAST_SECONDS - age)
            for one in going:
                await one.unload()
        finally:
            for one in self._engines:
                one.leaving = False

    def _loaded(self) -> list[Loaded]:
        return [loaded for one in self._engines if (loaded := one.loaded) is not None]


class OnDemandEngine:
    """An engine that is there when somebody asks. `make` makes it anew for each load; `size`: bytes of memory that it
    takes. After `keep_alive` seconds without work it goes by itself; None is never.
    """

    def __init__(
        self,
        name: str,
        make: Callable[[], Engine],
        residency: Residency,
        *,
        size: int,
        preload: bool = True,
        keep_alive: float | None = None,
    ) -> None:
        self.name = name
        self.size = size
        self.leaving = False
        self.used_at = self.loaded_at = time.monotonic()
        self._make = make
        self._residency = residency
        self._preload = preload
        self._keep_alive = keep_alive
        self._engine = make()
        self._state = EngineState.UNLOADED
        self._in_memory = False
        self._info: EngineInfo | None = None
        self._at_work = 0
        self._waiting = 0
        self._coming: asyncio.Task[None] | None = None
        self._going: asyncio.Task[None] | None = None
        residency.add(self)

    @property
    def info(self) -> EngineInfo:
        """What is served, also while it is not loaded. Raises EngineUnavailable before it ever was."""
        if self._info is None:
            msg = f"The model {self.name} was not loaded yet. Try again in {RETRY_SECONDS} s."
            raise EngineUnavailable(msg, RETRY_SECONDS)
        return self._info

    @property
    def seen(self) -> bool:
        """Whether it was loaded before, so that `info` is known."""
        return self._info is not None

    @property
    def ready(self) -> bool:
        """Whether it takes work at once."""
        return self._state is EngineState.READY and not self.leaving

    @property
    def loaded(self) -> Loaded | None:
        """Itself, while it takes memory."""
        if not self._in_memory:
            return None
        begins = self._waiting > 0 and not self.leaving  # who waited for it has not begun yet
        return Loaded(self.name, self.size, self._at_work > 0 or begins, self.used_at, self.loaded_at)

    async def start(self) -> None:
        """Load it where that is wanted and it fits beside those that are loaded; else somebody has to ask. Raises
        ModelLoadError.
        """
        if self._preload and self._residency.fits(self.size):
            await self._residency.bring_in(self)

    async def close(self) -> None:
        """Stop and free everything, for good."""
        tasks = [task for task in (self._coming, self._going) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self.unload()
        self._state = EngineState.CLOSED

    async def ask(self) -> None:
        """Return once it is loaded. Raises EngineUnavailable where it can't be."""
        while not self.ready:
            if self._state is EngineState.CLOSED:
                msg = "The engine has been closed."
                raise EngineUnavailable(msg, RETRY_SECONDS)
            coming = self._coming
            if coming is None or coming.done():
                coming = self._coming = asyncio.get_running_loop().create_task(self._residency.bring_in(self))
            self._waiting += 1
            try:
                await asyncio.wait([coming])  # who asks no more leaves it to the others
                coming.result()
            except ModelLoadError as error:
                msg = f"The model {self.name} can't be loaded at the moment. {error}"
                raise EngineUnavailable(msg, RETRY_SECONDS) from error
            finally:
                self._waiting -= 1

    async def load(self) -> None:
        """Have it loaded; the residency's business. Raises ModelLoadError."""
        self._state, self._in_memory = EngineState.LOADING, True
        try:
            await self._engine.start()
        except BaseException:
            await self.unload()
            raise
        self._info, self._state = self._engine.info, EngineState.READY
        self.used_at = self.loaded_at = time.monotonic()
        log.info("model_loaded", model=self.name, bytes=self.size)

    async def unload(self) -> None:
        """Free its memory; the residency's business."""
        if not self._in_memory:
            return
        self._state = EngineState.UNLOADED
        await self._engine.close()
        self._engine, self._in_memory = self._make(), False
        log.info("model_unloaded", model=self.name)

    def stats(self) -> EngineStats:
        """A snapshot; never blocks."""
        if self._state in {EngineState.UNLOADED, EngineState.CLOSED}:
            return EngineStats(self._state, waiting=self._waiting)
        stats = self._engine.stats()
        return replace(stats, waiting=stats.waiting + self._waiting)

    async def check_grammar(self, grammar: Grammar, owner: str = "") -> None:
        """See `Engine.check_grammar`; loads it where it has to."""
        await self.ask()
        with self._work() as engine:
            await engine.check_grammar(grammar, owner)

    def check_continuable(self, request: GenerateRequest) -> None:
        """See `Engine.check_continuable`."""
        self._engine.check_continuable(request)

    def forget(self, tags: Set[str]) -> None:
        """See `Engine.forget`; while it is not loaded it knows nothing."""
        self._engine.forget(tags)

    async def generate(self, request: GenerateRequest) -> AsyncGenerator[EngineEvent]:
        """See `Engine.generate`; loads it where it has to, and tells how far that is."""
        while not self.ready:
            asking = asyncio.ensure_future(self.ask())
            try:
                while not asking.done():
                    yield Loading(self.stats().load_progress)
                    await asyncio.wait([asking], timeout=TELL_SECONDS)
                asking.result()
            finally:
                asking.cancel()
        with self._work() as engine:
            async with aclosing(engine.generate(request)) as events:
                async for event in events:
                    yield event

    async def embed(self, request: EmbedRequest) -> Vector:
        """See `Engine.embed`; loads it where it has to."""
        await self.ask()
        with self._work() as engine:
            return await engine.embed(request)

    @contextmanager
    def _work(self) -> Generator[Engine]:
        """It is busy for as long as the block runs; nothing may be awaited between `ask` and this."""
        self._at_work += 1
        if self._going is not None:
            self._going.cancel()
        try:
            yield self._engine
        finally:
            self._at_work -= 1
            self.used_at = time.monotonic()
            if not self._at_work:
                self._residency.changed()
                if self._keep_alive is not None:
                    self._going = asyncio.get_running_loop().create_task(self._go(self._keep_alive))

    async def _go(self, seconds: float) -> None:
        await asyncio.sleep(seconds)
        await self._residency.let_go(self)
