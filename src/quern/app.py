"""The only place that wires things together: settings in, a served application out."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import structlog

from quern.access.keys import Keys
from quern.access.limits import Limits
from quern.access.usage import UsageMeter
from quern.api.shared.body_budget import BodyBudget
from quern.api.shared.services import Services
from quern.config import EngineName, Settings, TitleSource
from quern.config_sources import Reload
from quern.engine.base import Engine
from quern.engine.engine_choice import ModelKind, choose, native_facts
from quern.engine.fake import FakeEngine
from quern.environment import otel_environment
from quern.errors import ConfigError
from quern.http_app import http_app
from quern.obs.metrics import Metrics
from quern.obs.tracing import Tracing, tracing_of
from quern.prompt.codec import TextCodec
from quern.store.branches import BranchStore
from quern.store.conversations import ConversationStore
from quern.store.database import Database
from quern.store.generations import GenerationStore
from quern.store.history import HistoryStore
from quern.store.idempotency import IdempotencyStore
from quern.store.journal_file import JournalFile
from quern.store.keys import KeyStore
from quern.store.responses import ResponseStore
from quern.store.search import SearchStore
from quern.store.storage import StorageStore
from quern.store.transfer import TransferStore
from quern.store.turns import TurnStore
from quern.store.usage import UsageStore
from quern.store.vacuum import Vacuum, prepare
from quern.turns.activity import ActivityService
from quern.turns.archive import TurnArchive
from quern.turns.branching import BranchService
from quern.turns.conversations import ConversationService
from quern.turns.embeddings import EmbeddingService
from quern.turns.history import HistoryLoader
from quern.turns.responses import ResponseService
from quern.turns.resumption import Resumption
from quern.turns.search import SearchService
from quern.turns.served_model import ModelService
from quern.turns.service import TurnService
from quern.turns.titling import Titling
from quern.turns.tokens import TokenService
from quern.turns.transfer import TransferService
from quern.turns.turn_reports import TurnReports

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class ServedModel:
    """A model's file or folder on disk, checked, and the name that clients see."""

    path: Path
    model_id: str


class _Stores:
    """What is kept, in one database."""

    def __init__(self, database: Database) -> None:
        self.conversations = ConversationStore(database)
        self.branches = BranchStore(database)
        self.search = SearchStore(database)
        self.transfer = TransferStore(database)
        self.turns = TurnStore(database)
        self.responses = ResponseStore(database)
        self.history = HistoryStore(database)
        self.generations = GenerationStore(database)
        self.idempotency = IdempotencyStore(database)
        self.keys = KeyStore(database)
        self.usage = UsageStore(database)
        self.storage = StorageStore(database)


class Application:
    """A wired server: `asgi` answers while `running()` lasts. `engine_reason`: why it is this engine, as a sentence.
    `database`: the one of the settings, where it was claimed before. `metrics`: those that the engine counts its steps
    in, where it does. `tracing`: in place of what the settings ask for. `on_reload`: what an administrator who asks for
    a reload sets going, as `Services.reload`; whoever knows where the settings come from sets it.
    """

    def __init__(
        self,
        settings: Settings,
        engine: Engine,
        codec: TextCodec,
        engine_reason: str = "",
        database: Database | None = None,
        *,
        metrics: Metrics | None = None,
        tracing: Tracing | None = None,
    ) -> None:
        endpoint = settings.tracing.otlp_endpoint
        self.tracing = tracing if tracing is not None else tracing_of(endpoint, otel_environment())
        self.metrics = metrics if metrics is not None else Metrics(settings.metrics.max_keys)
        self.on_reload: Callable[[], Awaitable[Reload]] | None = None
        self.engine = engine
        self.engine_reason = engine_reason
        self.codec = codec
        self._settings = settings
        self.database = database or Database(settings.database_url, reserve_bytes=settings.store.reserve_bytes)
        stores = _Stores(self.database)
        self.keys = Keys(
            stores.keys,
            open_without_keys=settings.server.loopback,
            anonymous=settings.server.allow_anonymous,
            share_cache=settings.access.share_cache,
        )
        self.usage = UsageMeter(Limits(settings.limits), stores.usage, stores.storage, current=self.keys.current)
        self.archive = TurnArchive(codec, stores.turns, stores.generations, stores.history, stores.idempotency)
        self.turns = TurnService(
            engine=engine,
            codec=codec,
            history=HistoryLoader(stores.responses, stores.history),
            turns=stores.turns,
            archive=self.archive,
            keys=stores.idempotency,
            usage=self.usage,
            metrics=self.metrics,
            tracing=self.tracing,
            settings=settings.turns,
            titles=settings.conversations.titles is not TitleSource.OFF,
            journal_file=JournalFile(file) if (file := self.database.named_file) is not None else None,
        )
        self.titles = Titling(self.turns, stores.conversations)
        if settings.conversations.titles is TitleSource.MODEL:
            self.turns.when_ended = self.titles.turn_ended
        self.conversations = ConversationService(
            stores.conversations,
            stores.history,
            stores.turns,
            self.turns,
            search=stores.search,
            responses=stores.responses,
            usage=self.usage,
            settings=settings.conversations,
        )
        self.embeddings = EmbeddingService(
            engine, codec, self.turns, self.usage, metrics=self.metrics, settings=settings.turns
        )
        self.activity = ActivityService(engine, self.turns, self.metrics)
        self.asgi = http_app(self._services(settings, stores), settings, self.metrics, self.tracing)

    def _services(self, settings: Settings, stores: _Stores) -> Services:
        engine, codec, turns = self.engine, self.codec, self.turns
        return Services(
            turns=turns,
            conversations=self.conversations,
            branches=BranchService(
                stores.conversations, stores.branches, stores.turns, turns, settings.generation.sampling()
            ),
            search=SearchService(stores.search),
            transfer=TransferService(
                stores.transfer, self.usage, settings.data_dir, settings.conversations.max_import_bytes
            ),
            responses=ResponseService(codec, stores.responses, stores.history, self.archive, turns),
            tokens=TokenService(codec, engine),
            embeddings=self.embeddings,
            model=ModelService(engine, codec, turns, frozenset(settings.model.aliases)),
            generation=settings.generation,
            max_request_bytes=settings.server.max_request_bytes,
            unknown_fields=settings.server.unknown_fields,
            bodies=BodyBudget(settings.server.body_bytes),
            keys=self.keys,
            usage=self.usage,
            activity=self.activity,
            turn_reports=TurnReports(engine, codec, stores.turns, turns, self.archive),
            public_metrics=settings.metrics.public,
            reload=self._reload_on_request,
        )

    @asynccontextmanager
    async def running(self) -> AsyncGenerator[asyncio.Task[None]]:
        """Open the database and serve; yields the task that loads the model, so that its outcome can be awaited.

        Requests are answered meanwhile: liveness at once, turns with a 503 until the model is there.
        """
        await self.database.open()
        try:
            await prepare(self.database)
            async with self.keys.running(), self.usage.running(), self.turns.running():
                loop = asyncio.get_running_loop()
                loading = loop.create_task(self.engine.start())
                watching = loop.create_task(self.activity.watch_event_loop())
                resuming = loop.create_task(self._resume_after(loading))
                forgetting = loop.create_task(self.conversations.forget())
                vacuuming = loop.create_task(Vacuum(self.database).run())
                try:
                    yield loading
                finally:
                    loading.cancel()
                    watching.cancel()
                    resuming.cancel()
                    forgetting.cancel()
                    vacuuming.cancel()
                    await asyncio.wait([loading, watching, resuming, forgetting, vacuuming])
                    await self.drain(0)
                    await self.titles.close()
                    await self.engine.close()
        finally:
            await self.database.close()
            await asyncio.to_thread(self.codec.close)
            if self.tracing is not None:
                await asyncio.to_thread(self.tracing.close)

    @asynccontextmanager
    async def administered(self) -> AsyncGenerator[None]:
        """Answer what administrators ask, and nothing else: no model is loaded, no turn is begun or recovered."""
        await self.database.open()
        try:
            async with self.keys.running():
                yield
        finally:
            await self.database.close()
            await asyncio.to_thread(self.codec.close)

    async def reload(self, settings: Settings) -> None:
        """Take other limits from now on, and the keys that the database has; `settings` differ from those before in
        reloadable ones only. Raises StoreError.
        """
        self.usage.limits.defaults = settings.limits
        self.turns.reload(settings.turns)
        self.embeddings.reload(settings.turns)
        await self.keys.reload()

    async def _resume_after(self, loading: asyncio.Task[None]) -> None:
        await asyncio.wait([loading])
        if not loading.cancelled() and loading.exception() is None:
            which = self._settings.turns.resume_interrupted
            await Resumption(self.archive, self.turns, which, self.keys.principal).run()

    async def _reload_on_request(self) -> Reload:
        if self.on_reload is None:
            raise ConfigError("This server was not started by `quern serve`, so there are no settings to read anew.")
        return await self.on_reload()

    async def drain(self, grace_seconds: float) -> None:
        """Refuse what is new, let what runs finish for `grace_seconds`, then end the rest."""
        await asyncio.gather(self.turns.drain(grace_seconds), self.embeddings.drain(grace_seconds))

    def interrupt(self) -> None:
        """End everything that runs, at once."""
        self.turns.interrupt()
        self.embeddings.interrupt()


def build_app(settings: Settings, model: ServedModel | None, database: Database | None = None) -> Application:
    """Wire a server. `model` is None for the fake engine only; `database` as in `Application`. Reads the model's
    vocabulary, so it may take seconds.

    Raises ConfigError or ModelError.
    """
    if settings.engine.name is EngineName.FAKE:
        return Application(settings, *fake_engine(settings), database=database)
    if model is None:
        msg = "This engine needs a model file."
        raise ConfigError(msg)
    codec = TextCodec.load(model.path)
    try:
        facts = codec.facts
        kind = ModelKind(facts.architecture, codec.quantisation, folder=model.path.is_dir(), embeds=facts.embeds)
        choice = choose(settings.engine, native_facts(), kind)
    except ConfigError:
        codec.close()
        raise
    log.info("engine_chosen", engine=choice.name.value, reason=choice.reason)
    metrics = Metrics(settings.metrics.max_keys)
    engine = _engine(choice.name, settings, model, codec, metrics)
    return Application(settings, engine, codec, choice.reason, database, metrics=metrics)


def fake_engine(settings: Settings) -> tuple[Engine, TextCodec]:
    """An engine without a model, and its codec."""
    codec = TextCodec.builtin()
    engine = FakeEngine(
        parallel=settings.engine.parallel,
        context_length=settings.engine.context_length or 32768,
        vocabulary_size=codec.vocabulary_size,
    )
    return engine, codec


def _engine(name: EngineName, settings: Settings, model: ServedModel, codec: TextCodec, metrics: Metrics) -> Engine:
    match name:
        case EngineName.CPU:
            return _cpu(settings, model, codec, metrics)
        case EngineName.VLLM:
            return _vllm(settings, model, codec)
        case EngineName.REMOTE:
            return _remote(settings, model, codec)
        case _:
            return _llamacpp(settings, model, codec)


def _cpu(settings: Settings, model: ServedModel, codec: TextCodec, metrics: Metrics) -> Engine:
    from quern.engine.cpu.engine import CpuEngine  # noqa: PLC0415 (brings the native module along)

    return CpuEngine(
        model.path,
        model_id=model.model_id,
        facts=codec.facts,
        vocabulary=codec.tokenizer,
        settings=settings.engine,
        on_step=metrics.step,
    )


def _vllm(settings: Settings, model: ServedModel, codec: TextCodec) -> Engine:
    from quern.engine.completions.engine import CompletionsEngine  # noqa: PLC0415 (what one engine needs)
    from quern.engine.vllm.process import VllmProcess  # noqa: PLC0415

    process = VllmProcess(
        model.path,
        served_name=model.model_id,
        facts=codec.facts,
        settings=settings.engine,
        engines_dir=settings.engines_dir,
    )
    return CompletionsEngine(
        process,
        name="vllm",
        model_id=model.model_id,
        quantisation=codec.quantisation,
        settings=settings.engine,
        vocabulary=codec.tokenizer,
    )


def _remote(settings: Settings, model: ServedModel, codec: TextCodec) -> Engine:
    from quern.engine.completions.engine import CompletionsEngine  # noqa: PLC0415 (what one engine needs)
    from quern.engine.remote.backend import RemoteServers  # noqa: PLC0415

    servers = RemoteServers(settings.engine.remote, codec.tokenizer, connections=settings.engine.parallel)
    return CompletionsEngine(
        servers,
        name="remote",
        model_id=model.model_id,
        quantisation=codec.quantisation,
        settings=settings.engine,
        vocabulary=codec.tokenizer,
    )


def _llamacpp(settings: Settings, model: ServedModel, codec: TextCodec) -> Engine:
    from quern.engine.llamacpp.engine import LlamaCppEngine  # noqa: PLC0415 (brings xllamacpp's client along)

    return LlamaCppEngine(
        model.path,
        model_id=model.model_id,
        quantisation=codec.quantisation,
        vocabulary=codec.tokenizer,
        settings=settings.engine,
        embeds=codec.facts.embeds,
    )
