"""What handlers work with: the services below the API, as app.py makes them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Annotated, cast

from fastapi import Depends, Request

from quern.access.keys import Keys
from quern.access.usage import UsageMeter
from quern.api.shared.body_budget import BodyBudget
from quern.config import GenerationSettings, UnknownFields
from quern.config_sources import Reload
from quern.turns.activity import ActivityService
from quern.turns.branching import BranchService
from quern.turns.conversations import ConversationService
from quern.turns.embeddings import EmbeddingService
from quern.turns.model_service import ModelService
from quern.turns.responses import ResponseService
from quern.turns.search import SearchService
from quern.turns.service import TurnService
from quern.turns.transfer import TransferService
from quern.turns.turn_reports import TurnReports


@dataclass(frozen=True, slots=True)
class Services:
    """Everything below the API, and the settings that requests are read with.

    `reload` reads all settings anew. It raises ConfigError where they can't be used, and EngineUnavailable in a server
    that is stopping.
    """

    turns: TurnService
    conversations: ConversationService
    branches: BranchService
    search: SearchService
    transfer: TransferService
    responses: ResponseService
    embeddings: EmbeddingService
    models: ModelService
    generation: GenerationSettings
    max_request_bytes: int
    unknown_fields: UnknownFields
    bodies: BodyBudget
    keys: Keys
    usage: UsageMeter
    activity: ActivityService
    turn_reports: TurnReports
    public_metrics: bool
    reload: Callable[[], Awaitable[Reload]]


def services_of(request: Request) -> Services:
    """The application's services."""
    return cast("Services", request.app.state.services)


ServicesDep = Annotated[Services, Depends(services_of)]
