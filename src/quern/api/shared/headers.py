"""What a request's headers say: who calls, what to do should the connection close, which conversation goes on."""

from __future__ import annotations

from typing import Annotated, cast

from fastapi import Depends, Request

from quern.access.principal import Principal
from quern.api.shared.errors import validation_error
from quern.errors import InvalidRequest, NotAllowed
from quern.turns.request import Caller
from quern.types import DisconnectPolicy

DISCONNECT_HEADER = "x-quern-on-disconnect"
PRIORITY_HEADER = "x-quern-priority"
PRIORITIES = ("background", "normal")
CONVERSATION_HEADER = "x-quern-conversation"
IDEMPOTENCY_HEADER = "idempotency-key"
LONGEST_KEY = 255


def principal(request: Request) -> Principal:
    """Who asks, as `Authentication` found out."""
    return cast("Principal", request.state.principal)


PrincipalDep = Annotated[Principal, Depends(principal)]


def owner(principal: PrincipalDep) -> str:
    """Whose conversations the caller sees. Without keys, everybody is the same anonymous owner."""
    return principal.owner


def administrator(principal: PrincipalDep) -> Principal:
    """Who asks, where that is somebody who may run the server. Raises NotAllowed."""
    if not principal.is_admin:
        raise NotAllowed(
            "This is for administrators: it takes a key with the role admin, or `quern keys` on the server's machine."
        )
    return principal


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


def background(request: Request) -> bool | None:
    """Whether everybody else's requests go first; None leaves that to the request. None can be made urgent."""
    value = request.headers.get(PRIORITY_HEADER)
    if value is None:
        return None
    asked = value.strip().lower()
    if asked not in PRIORITIES:
        message = f"The header {PRIORITY_HEADER} takes one of {', '.join(PRIORITIES)}."
        raise validation_error(("header", PRIORITY_HEADER), "enum", message, value)
    return asked == PRIORITIES[0]


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


def idempotency_key(request: Request) -> str | None:
    """Under which name the same request may come again."""
    keys = request.headers.getlist(IDEMPOTENCY_HEADER)
    if not keys:
        return None
    key = keys[0].strip()
    if len(keys) > 1 or not 0 < len(key) <= LONGEST_KEY or not key.isprintable():
        message = f"The header Idempotency-Key takes one key of 1 to {LONGEST_KEY} printable characters, as a UUID."
        raise validation_error(("header", IDEMPOTENCY_HEADER), "idempotency_key", message, ", ".join(keys))
    return key


Owner = Annotated[str, Depends(owner)]


def caller(
    request: Request,
    principal: PrincipalDep,
    disconnect: Annotated[DisconnectPolicy | None, Depends(disconnect_policy)],
    background: Annotated[bool | None, Depends(background)],
    key: Annotated[str | None, Depends(idempotency_key)],
) -> Caller:
    """Who asks, under the request id that `RequestLog` settled."""
    traceparent: str = getattr(request.state, "traceparent", "")
    digest: bytes = getattr(request.state, "body_digest", b"")
    asks = Caller(principal, cast("str", request.state.request_id), disconnect, background, traceparent, digest, key)
    request.state.caller = asks
    return asks


AdminDep = Annotated[Principal, Depends(administrator)]
CallerDep = Annotated[Caller, Depends(caller)]
ConversationHeader = Annotated[str | None, Depends(conversation_header)]
