"""Turns awaited to their ends, for answers in one piece."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import ExitStack

from starlette.requests import Request

from quern.api.shared.connection import unless_gone
from quern.errors import TurnNotCompleted
from quern.events import TurnEnded
from quern.turns.turn import Turn
from quern.types import TurnState


async def wait_until_ended(turns: Sequence[Turn], request: Request) -> list[TurnEnded] | None:
    """The ends of all turns; None where the client has gone before. Raises TurnNotCompleted for one that failed."""
    with ExitStack() as readers:
        logs = [readers.enter_context(turn.attach()) for turn in turns]
        if not await unless_gone(request.receive, asyncio.gather(*(log.ended() for log in logs))):
            return None
        ends = [await log.ended() for log in logs]
    for end in ends:
        if end.state is not TurnState.COMPLETED:
            raise TurnNotCompleted(end.state, end.error or end.state)
    return ends
