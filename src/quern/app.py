"""The only place that wires things together: settings in, a served application out."""

from __future__ import annotations

import asyncio
import os
import socket
import uuid
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager

import structlog

from quern.access.keys import Keys
from quern.access.limits import Limits
from quern.access.usage import UsageMeter
from quern.api.shared.body_budget import BodyBudget
from quern.api.shared.services import Services
from quern.config import ResumeInterrupted, Settings, TitleSource
from quern.config_models import EngineName
from quern.config_sources import Reload
from quern.environment import otel_environment
from quern.errors import ConfigError
from quern.http_app import http_app
from quern.obs.metrics import Metrics
from quern.obs.tracing import Tracing, tracing_of
from quern.records import TurnRecord
from quern.served_models import ModelFile, fake_model, models_of
from quern.store.announcements import Announcements
from quern.store.branches import BranchStore
from quern.store.conversations import ConversationStore
from quern.store.database import Database
from quern.store.generations import GenerationStore
from quern.store.history import HistoryStore
from quern.store.idempotency import IdempotencyStore
from quern.store.instances import InstanceStore
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
from quern.turns.elsewhere import Elsewhere
from quern.turns.embeddings import EmbeddingService
from quern.turns.history import HistoryLoader
from quern.turns.instance import Instance
from quern.turns.model_service import ModelService
from quern.turns.models import Models, ServedModel
from quern.turns.responses import ResponseService
from quern.turns.resumption import Resumption
from quern.turns.search import SearchService
from quern.turns.service import TurnService
from quern.turns.shared_use import SharedUse
from quern.turns.titling import Titling
from quern.turns.transfer import TransferService
from quern.turns.turn_reports import TurnReports

log = structlog.get_logger(__name__)


class _Stores:
    """What is kept, in one database."""

    def __init__(self, database: Database, instance_id: str | None) -> None:
        self.conversations = ConversationStore(database)
        self.branches = BranchStore(database)
        self.search = SearchStore(database)
        self.transfer = TransferStore(database)
        self.turns = TurnStore(database, instance_id)
        self.responses = ResponseStore(database)
        self.history = HistoryStore(database)
        self.generations = GenerationStore(database)
        self.idempotency = IdempotencyStore(database)
        self.keys = KeyStore(database)
        self.usage = UsageStore(database)
        self.storage = StorageStore(database)


class Application:
    """A wired server: `asgi` answers while `running()` lasts. `models`: those that are served, the default first.
    `database`: the one of the settings, where it was claimed before. `metrics`: those that the engines count their
    steps in, where they do. `tracing`: in place of what the settings ask for. `on_reload`: what an administrator who
    asks for a reload sets going, as `Services.reload`; whoever knows where the settings come from sets it.
    """

    def __init__(
        self,
        settings: Settings,
        models: Sequence[ServedModel],
        database: Database | None = None,
        *,
        metrics: Metrics | None = None,
        tracing: Tracing | None = None,
    ) -> None:
        endpoint = settings.tracing.otlp_endpoint
        self.tracing = tracing if tracing is not None else tracing_of(endpoint, otel_environment())
        self.metrics = metrics if metrics is not None else Metrics(settings.metrics.max_keys)
        self.on_reload: Callable[[], Awaitable[Reload]] | None = None
        self.models = Models(models)
        self._settings = settings
        self.database = database or Database(
            settings.database_url, reserve_bytes=settings.store.reserve_bytes, pool_size=settings.store.pool_size
        )
        instance_id = None if self.database.embedded else str(uuid.uuid4())
        stores = _Stores(self.database, instance_id)
        self.keys = Keys(
            stores.keys,
            open_without_keys=settings.server.loopback,
            anonymous=settings.server.allow_anonymous,
            share_cache=settings.access.share_cache,
        )
        self.usage = UsageMeter(Limits(settings.limits), stores.usage, stores.storage, current=self.keys.current)
        self.archive = TurnArchive(self.models, stores.turns, stores.generations, stores.history, stores.idempotency)
        announcements = Announcements(self.database)
        self.elsewhere = Elsewhere(self.archive, stores.turns, stores.generations, announcements, self._goes_on)
        self.turns = TurnService(
            models=self.models,
            history=HistoryLoader(stores.responses, stores.history),
            turns=stores.turns,
            archive=self.archive,
            keys=stores.idempotency,
            usage=self.usage,
            metrics=self.metrics,
            tracing=self.tracing,
            settings=settings.turns,
            elsewhere=self.elsewhere,
            titles=settings.conversations.titles is not TitleSource.OFF,
            journal_file=JournalFile(file) if (file := self.database.named_file) is not None else None,
        )
        self.instance = self._instance(instance_id, announcements) if instance_id is not None else None
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
        self.embeddings = EmbeddingService(self.turns, self.usage, metrics=self.metrics, settings=settings.turns)
        self.activity = ActivityService(self.models, self.turns, self.metrics)
        self.asgi = http_app(self._services(settings, stores), settings, self.metrics, self.tracing)

    def _instance(self, instance_id: str, announcements: Announcements) -> Instance:
        """This server among others on the same database."""
        return Instance(
            InstanceStore(self.database, instance_id),
            announcements,
            self.turns,
            self.elsewhere,
            SharedUse(instance_id, announcements, self.usage, self.turns.owner_turns),
            address=f"{socket.gethostname()}, pid {os.getpid()}",
            lease_seconds=self._settings.store.lease_seconds,
            on_keys=self.keys.reload,
            on_taken_over=self._resume,
        )

    def _services(self, settings: Settings, stores: _Stores) -> Services:
        models, turns = self.models, self.turns
        return Services(
            turns=turns,
            conversations=self.conversations,
            branches=BranchService(
                stores.conversations,
                stores.branches,
                stores.turns,
                turns,
                models=models,
                defaults=settings.generation.sampling(),
            ),
            search=SearchService(stores.search),
            transfer=TransferService(
                stores.transfer, self.usage, settings.data_dir, settings.conversations.max_import_bytes
            ),
            responses=ResponseService(models, stores.responses, stores.history, self.elsewhere, turns),
            embeddings=self.embeddings,
            models=ModelService(models, turns),
            generation=settings.generation,
            max_request_bytes=settings.server.max_request_bytes,
            unknown_fields=settings.server.unknown_fields,
            bodies=BodyBudget(settings.server.body_bytes),
            keys=self.keys,
            usage=self.usage,
            activity=self.activity,
            turn_reports=TurnReports(models, stores.turns, turns, self.archive, self.elsewhere),
            public_metrics=settings.metrics.public,
            reload=self._reload_on_request,
        )

    @asynccontextmanager
    async def running(self) -> AsyncGenerator[asyncio.Task[None]]:
        """Open the database and serve; yields the task that loads the models, so that its outcome can be awaited.

        Requests are answered meanwhile: liveness at once, turns with a 503 until their model is there.
        """
        await self.database.open()
        try:
            await prepare(self.database)
            async with self.keys.running(), self.usage.running(), self._registered(), self.turns.running():
                loop = asyncio.get_running_loop()
                loading = loop.create_task(self._load())
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
                    for model in self.models:
                        await model.engine.close()
        finally:
            await self.database.close()
            await asyncio.to_thread(self._close_codecs)
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
            await asyncio.to_thread(self._close_codecs)

    async def reload(self, settings: Settings) -> None:
        """Take other limits from now on, and the keys that the database has; `settings` differ from those before in
        reloadable ones only. Raises StoreError.
        """
        self.usage.limits.defaults = settings.limits
        self.turns.reload(settings.turns)
        self.embeddings.reload(settings.turns)
        await self.keys.reload()

    async def _load(self) -> None:
        """One after the other: each load uses all cores. Raises ModelLoadError."""
        for model in self.models:
            await model.engine.start()

    def _close_codecs(self) -> None:
        for model in self.models:
            model.codec.close()

    @asynccontextmanager
    async def _registered(self) -> AsyncGenerator[None]:
        """Among the servers that share the database, where that can be shared."""
        if self.instance is None:
            yield
            return
        async with self.instance.registered():
            yield

    async def _resume_after(self, loading: asyncio.Task[None]) -> None:
        await asyncio.wait([loading])
        if not loading.cancelled() and loading.exception() is None:
            await self._resume()

    async def _resume(self) -> None:
        """Go on with what was interrupted, as the settings say."""
        which = self._settings.turns.resume_interrupted
        await Resumption(self.archive, self.turns, which, self.keys.principal).run()

    def _goes_on(self, record: TurnRecord) -> bool:
        """Whether some server goes on with a turn that one of them was lost with."""
        match self._settings.turns.resume_interrupted:
            case ResumeInterrupted.OFF:
                return False
            case ResumeInterrupted.CONVERSATIONS:
                return record.conversation_id is not None
            case ResumeInterrupted.ALL:
                return True

    async def _reload_on_request(self) -> Reload:
        if self.on_reload is None:
            raise ConfigError("This server was not started by `quern serve`, so there are no settings to read anew.")
        return await self.on_reload()

    async def drain(self, grace_seconds: float) -> None:
        """Refuse what is new, let what runs finish for `grace_seconds`, then end the rest."""
        await asyncio.gather(self.turns.drain(grace_seconds), self.embeddings.drain(grace_seconds))
        await self.elsewhere.stop()

    def interrupt(self) -> None:
        """End everything that runs, at once."""
        self.turns.interrupt()
        self.embeddings.interrupt()


def build_app(settings: Settings, files: Sequence[ModelFile], database: Database | None = None) -> Application:
    """Wire a server. `files`: nothing for the fake engine; `database` as in `Application`. Reads the models'
    vocabularies, so it may take seconds.

    Raises ConfigError or ModelError.
    """
    metrics = Metrics(settings.metrics.max_keys)
    if settings.engine.name is EngineName.FAKE:
        return Application(settings, [fake_model(settings)], database, metrics=metrics)
    models = models_of(files, settings, metrics)
    return Application(settings, models, database, metrics=metrics)
