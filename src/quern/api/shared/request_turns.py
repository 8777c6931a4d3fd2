"""The turns of one request: several answers to it are as many turns, started together and awaited to their ends."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, replace
from typing import Any

from starlette.requests import Request

from quern.api.shared.body_budget import release_body
from quern.api.shared.disconnects import ClientDisconnected, unless_disconnected
from quern.errors import InvalidRequest, TurnNotCompleted
from quern.events import TurnEnded
from quern.turns.request import TurnRequest
from quern.turns.service import TurnService
from quern.turns.turn import Turn
from quern.types import Loop, TurnState

LOOP = "loop"


async def start_choices(service: TurnService, request: TurnRequest, count: int) -> list[Turn]:
    """The turns of a request for `count` choices. Raises what `TurnService.start` raises."""
    if count > 1 and request.conversation_id is not None:
        raise InvalidRequest("A conversation goes on with one answer. Send n=1, or leave the conversation out.", "n")
    return await service.start_all(choices_of(request, count))


def choices_of(request: TurnRequest, count: int) -> list[TurnRequest]:
    """The request `count` times; with a seed, each further one has the next seed."""
    return [_numbered(request, index) for index in range(count)]


def name_ignored(request: Request, turns: Sequence[Turn]) -> None:
    """Name what the answers aren't kept to of the schemas that the request has, as its unknown fields are named."""
    sentences = dict.fromkeys(sentence for turn in turns for sentence in turn.plan.ignored)
    if sentences:
        request.state.ignored_fields = [*getattr(request.state, "ignored_fields", ()), *sentences]


async def wait_until_ended(turns: Sequence[Turn], request: Request) -> list[TurnEnded]:
    """The ends of all turns; where a loop ended one, the answer's header will say so. Raises ClientGone where the
    client went before, TurnNotCompleted for one that failed, and InvalidRequest where that was for what was asked.
    """
    release_body(request)
    with ExitStack() as readers:
        logs = [readers.enter_context(turn.attach()) for turn in turns]
        if not await unless_disconnected(request.receive, asyncio.gather(*(log.ended() for log in logs))):
            raise ClientDisconnected
        ends = [await log.ended() for log in logs]
    for end in ends:
        if end.by_request:
            raise InvalidRequest(end.error or end.state)
        if end.state is not TurnState.COMPLETED:
            raise TurnNotCompleted(end.state, end.error or end.state)
        if end.loop is not None:
            request.state.ended_for = LOOP
    return ends


def loop_json(loop: Loop | None) -> dict[str, Any] | None:
    """What a turn was ended for, as JSON."""
    return {**asdict(loop), "detail": loop.detail} if loop is not None else None


def _numbered(request: TurnRequest, index: int) -> TurnRequest:
    seed = request.sampling.seed
    return replace(request, sampling=replace(request.sampling, seed=None if seed is None else seed + index))
