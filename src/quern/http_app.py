"""The HTTP side as a whole: all dialects, and what every request passes on its way to its route."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from starlette.routing import BaseRoute

from quern import __version__
from quern.api.admin.dialect import ADMIN
from quern.api.anthropic.dialect import ANTHROPIC
from quern.api.api_page import API_PAGE
from quern.api.code.dialect import CODE
from quern.api.conversations.dialect import CONVERSATIONS
from quern.api.health import HEALTH
from quern.api.llamacpp.dialect import LLAMACPP
from quern.api.metrics import METRICS
from quern.api.metrics import PATH as METRICS_PATH
from quern.api.models import MODELS
from quern.api.ollama.dialect import OLLAMA
from quern.api.openai.dialect import OPENAI
from quern.api.shared.authentication import Authentication
from quern.api.shared.body_budget import BudgetedBodies
from quern.api.shared.cross_origin import CorsHeaders, CrossOrigin, Origins, ServedHosts
from quern.api.shared.dialect import Dialects
from quern.api.shared.error_styles import OPENAI_ERRORS
from quern.api.shared.errors import install_error_handlers
from quern.api.shared.lost_connections import LostConnections
from quern.api.shared.openapi import document_errors
from quern.api.shared.paths import AnyMethod, Paths, TidyPaths
from quern.api.shared.rate_limits import RateLimits
from quern.api.shared.request_body import BodyLimit
from quern.api.shared.request_log import RequestLog
from quern.api.shared.services import Services
from quern.api.shared.websockets import NoWebSockets
from quern.api.turns import TURNS
from quern.api.usage import USAGE
from quern.config import ServerSettings, Settings
from quern.obs.metrics import Metrics
from quern.obs.tracing import Tracing

DIALECTS = (
    CODE,
    CONVERSATIONS,
    OPENAI,
    LLAMACPP,
    OLLAMA,
    ANTHROPIC,
    MODELS,
    HEALTH,
    API_PAGE,
    ADMIN,
    USAGE,
    METRICS,
    TURNS,
)
DESCRIPTION = "Code generation with Qwen-Coder models: one shot or in conversations that survive whatever happens."


def http_app(services: Services, settings: Settings, metrics: Metrics, tracing: Tracing | None) -> FastAPI:
    """The application that answers requests with these services."""
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
    app.add_middleware(LostConnections, turns=services.turns)
    bodies: dict[str, Any] = {
        "limit": settings.max_request_bytes,
        "style_of": style_of,
        "streamed": dialects.streamed_paths,
    }
    app.add_middleware(BodyLimit, **bodies)
    app.add_middleware(BudgetedBodies, budget=services.bodies, **bodies)
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
