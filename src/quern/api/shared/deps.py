"""What handlers are given: the services that app.py wired, and who calls."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, cast

from fastapi import Depends, Request

from quern.api.shared.errors import validation_error
from quern.config import GenerationSettings
from quern.engine.base import Engine
from quern.errors import InvalidRequest, ModelNotServed
from quern.prompt.prompt import Prompt
from quern.turns.conversations import ConversationService
from quern.turns.responses import ResponseService
from quern.turns.service import TurnService
from quern.types import DisconnectPolicy

ANONYMOUS = "anonymous"
DISCONNECT_HEADER = "x-quern-on-disconnect"
CONVERSATION_HEADER = "x-quern-conversation"
ANY_NAME = "*"


@dataclass(frozen=True, slots=True)
class Services:
    """Everything below the API, wired. `aliases`: further names of the model."""

    turns: TurnService
    conversations: ConversationService
    responses: ResponseService
    prompt: Prompt
    engine: Engine
    generation: GenerationSettings
    aliases: frozenset[str]
    max_request_bytes: int

    def check_model(self, name: str | None) -> str:
        """The served model's id. Raises ModelNotServed where the request asks for another one, and EngineUnavailable
        while it is not known. An empty name asks for none: llama.vim sends it where nothing is configured.
        """
        self.turns.check_serving()
        served = self.engine.info.model_id
        if not name or name == served or {name, ANY_NAME} & self.aliases:
            return served
        raise ModelNotServed(
            f"The model {name!r} is not served here; {served!r} is. Ask for that one, or let the server take this name "
            f"for it too (setting model.aliases)."
        )


def services(request: Request) -> Services:
    """The application's services."""
    return cast("Services", request.app.state.services)


def owner() -> str:
    """Whose conversations the caller sees. Without keys, everybody is the same anonymous owner."""
    return ANONYMOUS


def request_id(request: Request) -> str:
    """The request's id, as the middleware settled it."""
    return cast("str", request.state.request_id)


def disconnect_policy(request: Request) -> DisconnectPolicy | None:
    """What the caller wants should its connection close; None leaves it to the settings."""
    value = request.headers.get(DISCONNECT_HEADER)
    if value is None:
        return None
    try:
        return DisconnectPolicy(value.strip().lower())
    except ValueError:
        names = ", ".join(DisconnectPolicy)
        message = f"The header {DISCONNECT_HEADER} takes one of {names}."
        raise validation_error(("header", DISCONNECT_HEADER), "enum", message, value) from None


def conversation_header(request: Request) -> str | None:
    """The conversation that a request of a dialect without conversations belongs to."""
    return request.headers.get(CONVERSATION_HEADER)


def no_conversation_header(request: Request) -> None:
    """For dialects that name a conversation in a field, or have none. Raises InvalidRequest for the header."""
    if CONVERSATION_HEADER in request.headers:
        raise InvalidRequest(
            f"The header {CONVERSATION_HEADER} is for /v1/chat/completions and /v1/messages. Responses name a "
            f"conversation in the field conversation; completions continue none. Leave the header out.",
            field=CONVERSATION_HEADER,
        )


Wired = Annotated[Services, Depends(services)]
Owner = Annotated[str, Depends(owner)]
RequestId = Annotated[str, Depends(request_id)]


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks, under which request id, and what to do should the connection close."""

    owner: Owner
    request_id: RequestId
    disconnect: Annotated[DisconnectPolicy | None, Depends(disconnect_policy)]


Calling = Annotated[Caller, Depends()]
ConversationHeader = Annotated[str | None, Depends(conversation_header)]
