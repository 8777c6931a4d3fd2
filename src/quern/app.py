"""The only place that wires things together: settings in, a served application out."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import structlog
from fastapi import FastAPI
from starlette.routing import BaseRoute

from quern import __version__
from quern.access.keys import Keys
from quern.access.limits import Limits
from quern.access.usage import UsageMeter
from quern.api.admin.dialect import ADMIN
from quern.api.anthropic.dialect import ANTHROPIC
from quern.api.api_page import API_PAGE
from quern.api.code.dialect import CODE
from quern.api.health import HEALTH
from quern.api.llamacpp.dialect import LLAMACPP
from quern.api.metrics import METRICS
from quern.api.metrics import PATH as METRICS_PATH
from quern.api.models import MODELS
from quern.api.ollama.dialect import OLLAMA
from quern.api.openai.dialect import OPENAI
from quern.api.shared.authentication import Authentication
from quern.api.shared.body_budget import BodyBudget, BudgetedBodies
from quern.api.shared.cross_origin import CorsHeaders, CrossOrigin, Origins, ServedHosts
from quern.api.shared.dialect import Dialects
from quern.api.shared.error_styles import OPENAI_ERRORS
from quern.api.shared.errors import install_error_handlers
from quern.api.shared.openapi import document_errors
from quern.api.shared.paths import AnyMethod, Paths, TidyPaths
from quern.api.shared.rate_limits import RateLimits
from quern.api.shared.request_body import BodyLimit
from quern.api.shared.request_log import RequestLog
from quern.api.shared.services import Services
from quern.api.shared.websockets import NoWebSockets
from quern.api.turns import TURNS
from quern.api.usage import USAGE
from quern.config import EngineName, ServerSettings, Settings
from quern.config_sources import Reload
from quern.engine.base import Engine
from quern.engine.engine_choice import ModelKind, choose, native_facts
from quern.engine.fake import FakeEngine
from quern.environment import otel_environment
from quern.errors import ConfigError
from quern.obs.metrics import Metrics
from quern.obs.tracing import Tracing, tracing_of
from quern.prompt.codec import TextCodec
from quern.store.conversations import ConversationStore
from quern.store.database import Database
from quern.store.history import HistoryStore
from quern.store.keys import KeyStore
from quern.store.responses import ResponseStore
from quern.store.turns import TurnStore
from quern.store.usage import UsageStore
from quern.turns.activity import ActivityService
from quern.turns.conversations import ConversationService
from quern.turns.embeddings import EmbeddingService
from quern.turns.history import HistoryLoader
from quern.turns.responses import ResponseService
from quern.turns.served_model import ModelService
from quern.turns.service import TurnService
from quern.turns.tokens import TokenService
from quern.turns.turn_reports import TurnReports

log = structlog.get_logger(__name__)

DIALECTS = (CODE, OPENAI, LLAMACPP, OLLAMA, ANTHROPIC, MODELS, HEALTH, API_PAGE, ADMIN, USAGE, METRICS, TURNS)
DESCRIPTION = "Code generation with Qwen-Coder models: one shot or in conversations that survive whatever happens."


@dataclass(frozen=True, slots=True)
class ServedModel:
    """A model's file or folder on disk, checked, and the name that clients see."""

    path: Path
    model_id: str


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
        self.metrics = metrics = metrics if metrics is not None else Metrics(settings.metrics.max_keys)
        self.on_reload: Callable[[], Awaitable[Reload]] | None = None
        self.engine = engine
        self.engine_reason = engine_reason
        self.codec = codec
        self.database = database or Database(settings.database_url)
        conversation_store = ConversationStore(self.database)
        turn_store = TurnStore(self.database)
        response_store = ResponseStore(self.database)
        history = HistoryStore(self.database)
        self.keys = Keys(
            KeyStore(self.database),
            open_without_keys=settings.server.loopback,
            anonymous=settings.server.allow_anonymous,
            share_cache=settings.access.share_cache,
        )
        self.usage = UsageMeter(Limits(settings.limits), UsageStore(self.database), current=self.keys.current)
        self.turns = TurnService(
            engine=engine,
            codec=codec,
            history=HistoryLoader(response_store, history),
            turns=turn_store,
            usage=self.usage,
            metrics=metrics,
            tracing=self.tracing,
            settings=settings.turns,
        )
        self.embeddings = EmbeddingService(
            engine, codec, self.turns, self.usage, metrics=metrics, settings=settings.turns
        )
        self.activity = ActivityService(engine, self.turns, metrics)
        services = Services(
            turns=self.turns,
            conversations=ConversationService(conversation_store, history, turn_store, self.turns),
            responses=ResponseService(codec, response_store, history, self.turns),
            tokens=TokenService(codec, engine),
            embeddings=self.embeddings,
            model=ModelService(engine, codec, self.turns, frozenset(settings.model.aliases)),
            generation=settings.generation,
            max_request_bytes=settings.server.max_request_bytes,
            unknown_fields=settings.server.unknown_fields,
            bodies=BodyBudget(settings.server.body_bytes),
            keys=self.keys,
            usage=self.usage,
            activity=self.activity,
            turn_reports=TurnReports(engine, codec, turn_store, self.turns),
            public_metrics=settings.metrics.public,
            reload=self._reload_on_request,
        )
        self.asgi = _build_asgi(services, settings, metrics, self.tracing)

    @asynccontextmanager
    async def running(self) -> AsyncGenerator[asyncio.Task[None]]:
        """Open the database and serve; yields the task that loads the model, so that its outcome can be awaited.

        Requests are answered meanwhile: liveness at once, turns with a 503 until the model is there.
        """
        await self.database.open()
        try:
            async with self.keys.running(), self.usage.running(), self.turns.running():
                loop = asyncio.get_running_loop()
                loading = loop.create_task(self.engine.start())
                watching = loop.create_task(self.activity.watch_event_loop())
                try:
                    yield loading
                finally:
                    loading.cancel()
                    watching.cancel()
                    await asyncio.wait([loading, watching])
                    await self.drain(0)
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
        kind = ModelKind(codec.facts.architecture, codec.quantisation, folder=model.path.is_dir())
        choice = choose(settings.engine, native_facts(), kind)
    except ConfigError:
        codec.close()
        raise
    log.info("engine_chosen", engine=choice.name.value, reason=choice.reason)
    metrics = Metrics(settings.metrics.max_keys)
    cpu = choice.name is EngineName.CPU
    engine = _cpu(settings, model, codec, metrics) if cpu else _llamacpp(settings, model, codec)
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


def _build_asgi(services: Services, settings: Settings, metrics: Metrics, tracing: Tracing | None) -> FastAPI:
    dialects = Dialects(DIALECTS, default_style=OPENAI_ERRORS)
    # As they are: `include_router` would analyse each of them again, for this application, at its first request.
    routes: list[BaseRoute] = [route for router in dialects.routers for route in router.routes]
    app = FastAPI(
        title="Quern",
        version=__version__,
        description=DESCRIPTION,
        routes=routes,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
    )
    app.state.services = services
    install_error_handlers(app, dialects.style_of)
    document_errors(app, dialects.style_of)
    _add_middleware(app, dialects, services, settings.server)
    app.add_middleware(RequestLog, dialects=dialects, count=metrics.request_ended, traces=tracing)
    if settings.server.cors_origins:
        app.add_middleware(CorsHeaders, origins=Origins(settings.server.cors_origins))
    app.add_middleware(TidyPaths)
    return app


def _add_middleware(app: FastAPI, dialects: Dialects, services: Services, settings: ServerSettings) -> None:
    """What a request passes once it is logged and before it reaches its route, innermost first."""

    def needs_no_key(path: str) -> bool:
        return dialects.is_open(path) or (services.public_metrics and path == METRICS_PATH)

    paths, origins, style_of = Paths(app.routes), Origins(settings.cors_origins), dialects.style_of
    app.add_middleware(BodyLimit, limit=settings.max_request_bytes, style_of=style_of)
    app.add_middleware(BudgetedBodies, budget=services.bodies, limit=settings.max_request_bytes, style_of=style_of)
    app.add_middleware(AnyMethod, paths=paths, style_of=style_of)
    app.add_middleware(RateLimits, usage=services.usage, style_of=style_of)
    app.add_middleware(Authentication, keys=services.keys, is_open=needs_no_key, style_of=style_of)
    app.add_middleware(NoWebSockets, style_of=style_of)  # no matter which methods a path takes
    app.add_middleware(
        CrossOrigin,
        hosts=ServedHosts(settings, lambda: services.keys.closed),
        origins=origins,
        methods_of=paths.methods_of,
        is_open=dialects.is_open,
        style_of=style_of,
    )
