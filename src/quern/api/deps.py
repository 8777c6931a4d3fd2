"""What handlers are given: the services that app.py wired, and who calls."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, cast

from fastapi import Depends, Request

from quern.config import GenerationSettings
from quern.engine.base import Engine
from quern.turns.conversations import ConversationService
from quern.turns.service import TurnService

ANONYMOUS = "anonymous"


@dataclass(frozen=True, slots=True)
class Services:
    """Everything below the API, wired."""

    turns: TurnService
    conversations: ConversationService
    engine: Engine
    generation: GenerationSettings
    max_request_bytes: int


def services(request: Request) -> Services:
    """The application's services."""
    return cast("Services", request.app.state.services)


def owner() -> str:
    """Whose conversations the caller sees. Without keys, everybody is the same anonymous owner."""
    return ANONYMOUS


def request_id(request: Request) -> str:
    """The request's id, as the middleware settled it."""
    return cast("str", request.state.request_id)


Wired = Annotated[Services, Depends(services)]
Owner = Annotated[str, Depends(owner)]
RequestId = Annotated[str, Depends(request_id)]
