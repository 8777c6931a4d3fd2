"""Tells the turns of a request that its connection was lost, so that a retry finds them."""

from __future__ import annotations

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from quern.turns.request import Caller
from quern.turns.service import TurnService


class LostConnections:
    """Listens along with whoever answers. Pure ASGI."""

    def __init__(self, app: ASGIApp, turns: TurnService) -> None:
        self._app = app
        self._turns = turns

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        sent = False

        async def listening() -> Message:
            message = await receive()
            caller: Caller | None = scope["state"].get("caller")
            if message["type"] == "http.disconnect" and caller is not None and not sent:
                self._turns.connection_lost(caller)
            return message

        async def sending(message: Message) -> None:
            nonlocal sent
            await send(message)
            sent = message["type"] == "http.response.body" and not message.get("more_body", False)

        await self._app(scope, listening, sending)
