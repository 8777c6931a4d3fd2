"""Turns: their state, what they took and why they were slow; followed, ended, gone on with."""

from __future__ import annotations

import re
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response
from pydantic import BaseModel, ConfigDict, Field

from quern.api.shared.dialect import Dialect
from quern.api.shared.error_styles import OPENAI_ERRORS
from quern.api.shared.headers import CallerDep, PrincipalDep
from quern.api.shared.openapi import EVENTS
from quern.api.shared.services import ServicesDep
from quern.api.shared.turn_events import FROM_THE_FIRST, LAST_EVENT_ID, Seen, count_of, turn_stream
from quern.api.shared.turn_json import record_json, turn_json
from quern.types import TurnState

router = APIRouter(tags=["turns"])

TURNS = Dialect((router,), errors=OPENAI_ERRORS, prefixes=("/v1/turns",))

SHOWN_ID = re.compile(
    r"(?:chatcmpl-|cmpl-|msg_|resp_)?([0-9a-f]{8})-?([0-9a-f]{4})-?([0-9a-f]{4})-?([0-9a-f]{4})-?([0-9a-f]{12})"
)
"""A turn's id as the dialects write it in their answers."""


LONGEST_PAGE = 100
NOTHING_MORE = {"description": "The last event was seen already, and the turn has ended"}


class GoOn(BaseModel):
    """How a turn goes on."""

    model_config = ConfigDict(extra="forbid")

    max_tokens: int | None = Field(
        default=None,
        ge=1,
        description=(
            "How many tokens more the answer may have. By default what is left of what it had; where its length ended "
            "it, as many again."
        ),
    )
    stream: bool = Field(default=False, description="Answer with the turn's events, as `/events` has them.")


@router.get("/v1/turns")
async def list_turns(
    services: ServicesDep,
    caller: PrincipalDep,
    limit: Annotated[int, Query(ge=1, le=LONGEST_PAGE)] = 20,
    after: str | None = None,
    state: TurnState | None = None,
    conversation_id: str | None = None,
) -> dict[str, Any]:
    """Your turns, the newest first. `after`: the id of the last one already seen."""
    page = await services.turn_reports.page(
        caller.owner, limit=limit, after=after, state=state, conversation_id=conversation_id
    )
    return {"object": "list", "data": [record_json(record) for record in page.items], "has_more": page.has_more}


@router.get("/v1/turns/{turn_id}")
async def turn_report(turn_id: str, services: ServicesDep, caller: PrincipalDep) -> dict[str, Any]:
    """State, usage and timings of one of your turns, and why it was slow: whom it waited for, what of its prompt the
    cache did not know and where that came from, how fast it was written and beside how many others. Takes the id of an
    answer in any dialect, or for a while the `x-request-id` of a request.
    """
    return turn_json(await services.turn_reports.report(_names(turn_id), caller.owner), names_keys=caller.is_admin)


@router.get("/v1/turns/{turn_id}/events", response_model=None, responses={**EVENTS, 204: NOTHING_MORE})
async def turn_events(
    turn_id: str,
    request: Request,
    services: ServicesDep,
    caller: PrincipalDep,
    after: Annotated[str | None, Query(description="The id of the last event that was seen.")] = None,
) -> Response:
    """The events of one of your turns: what was missed, then what happens, to its end. Server-sent events with an
    `id` each, to be taken up again with `Last-Event-ID` or `after`, by any number of readers, also after a restart of
    the server.
    """
    given = request.headers.get(LAST_EVENT_ID)
    seen = Seen(given, ("header", LAST_EVENT_ID)) if given and after is None else Seen(after, ("query", "after"))
    opened = await services.turn_reports.open(_names(turn_id), caller.owner)
    if seen.end and opened.log.end is not None and seen.events >= count_of(opened.log):
        return Response(status_code=204)  # so that browsers don't ask again (HTML standard, "Server-sent events")
    return turn_stream(services.turns, opened, seen)


@router.post("/v1/turns/{turn_id}/cancel")
async def cancel_turn(turn_id: str, services: ServicesDep, caller: PrincipalDep) -> dict[str, Any]:
    """End one of your turns; what it has written is kept. Harmless where it has ended."""
    found = await services.turn_reports.cancel(_names(turn_id), caller.owner)
    return await turn_report(found, services, caller)


@router.post("/v1/turns/{turn_id}/continue", response_model=None, responses=EVENTS)
async def continue_turn(
    turn_id: str, services: ServicesDep, caller: CallerDep, how: GoOn | None = None
) -> dict[str, Any] | Response:
    """Go on with one of your turns that was interrupted, cancelled, failed or stopped by its length, at the very token
    where it stopped. Its answer becomes one, under the same id.
    """
    how = how or GoOn()
    found = await services.turn_reports.record(_names(turn_id), caller.owner)
    turn = await services.turns.go_on(found.id, caller, how.max_tokens)
    if how.stream:
        opened = await services.turn_reports.open([turn.id], caller.owner)
        return turn_stream(services.turns, opened, FROM_THE_FIRST)
    return await turn_report(turn.id, services, caller.principal)


def _names(turn_id: str) -> list[str]:
    shown = SHOWN_ID.fullmatch(turn_id)
    # A request's id that the server made has a turn's form too, without dashes.
    return [turn_id] if shown is None else ["-".join(shown.groups()), turn_id]
