"""Branches: the last answer again, an earlier message said otherwise, all of them seen, one of them chosen."""

from __future__ import annotations

import re
from typing import Any
from uuid import UUID

from fastapi import APIRouter, Request, Response
from pydantic import Field, model_validator

from quern.api.shared.conversation_json import seconds
from quern.api.shared.fields import RequestObject
from quern.api.shared.headers import CallerDep, Owner
from quern.api.shared.openapi import EVENTS
from quern.api.shared.request_body import JsonRoute
from quern.api.shared.request_turns import wait_until_ended
from quern.api.shared.sampling_fields import SHARED, with_sampling
from quern.api.shared.services import Services, ServicesDep
from quern.api.shared.turn_events import FROM_THE_FIRST, turn_stream
from quern.api.shared.turn_json import turn_json
from quern.records import StoredItem
from quern.turns.branch_tree import BranchTree, ForkPoint, Sibling, created_at
from quern.turns.request import Caller
from quern.turns.turn import Turn
from quern.types import Message, ToolCall, ToolResult

router = APIRouter(route_class=JsonRoute, prefix="/v1/conversations/{conversation_id}", tags=["conversations"])

BEGINNING = 200
"""Characters of a text, in the tree."""

SHOWN_ID = re.compile(r"(?:[a-z]{1,10}_)?([0-9a-f]{32}|[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12})")
"""The id of an item or a turn, as any dialect writes it."""


class AnotherAnswer(with_sampling(RequestObject, ("max_tokens", *SHARED))):
    """`POST …/regenerate`. The answer is drawn as the one before was, but for what is sent."""

    stream: bool = Field(default=False, description="Answer with the turn's events, as `GET /v1/turns/{id}/events`.")

    def sampling_changes(self) -> dict[str, Any]:
        """What is drawn otherwise."""
        return self.model_dump(include={"max_tokens", *SHARED}, exclude_none=True)


class EditedMessage(AnotherAnswer):
    """`POST …/items/{item_id}/edit`."""

    content: str = Field(description="What is said instead.")


class ChosenHead(RequestObject):
    """`POST …/head`: one of both."""

    turn_id: str | None = Field(default=None, description="A turn that is to be shown.")
    item_id: str | None = Field(default=None, description="Or an item.")

    @model_validator(mode="after")
    def _one(self) -> ChosenHead:
        if (self.turn_id is None) == (self.item_id is None):
            raise ValueError("Name one of both: turn_id or item_id")
        return self


@router.post("/regenerate", response_model=None, responses=EVENTS)
async def regenerate(
    conversation_id: str,
    request: Request,
    services: ServicesDep,
    caller: CallerDep,
    how: AnotherAnswer | None = None,
) -> dict[str, Any] | Response:
    """Have the last answer written once more, to the same. Both stay; the new one is shown and continued."""
    how = how or AnotherAnswer()
    turn = await services.branches.regenerate(conversation_id, caller, how.sampling_changes())
    return await _answer(turn, how, request, services, caller)


@router.post("/items/{item_id}/edit", response_model=None, responses=EVENTS)
async def edit(
    conversation_id: str,
    item_id: str,
    body: EditedMessage,
    request: Request,
    services: ServicesDep,
    caller: CallerDep,
) -> dict[str, Any] | Response:
    """Say something else in a message's place and go on from there. What was said before stays, on its own branch."""
    turn = await services.branches.edit(
        conversation_id, stored_id(item_id), body.content, caller, body.sampling_changes()
    )
    return await _answer(turn, body, request, services, caller)


@router.get("/branches")
async def list_branches(conversation_id: str, services: ServicesDep, owner: Owner) -> dict[str, Any]:
    """Every place from which the conversation goes on in more than one way, and those ways."""
    return _tree_json(conversation_id, await services.branches.tree(conversation_id, owner))


@router.post("/head")
async def choose_head(conversation_id: str, body: ChosenHead, services: ServicesDep, owner: Owner) -> dict[str, Any]:
    """Show and continue the branch with a turn or an item; where it goes on in more than one way, the one that was
    written last.
    """
    chosen = {name: stored_id(value) for name in ("turn_id", "item_id") if (value := getattr(body, name)) is not None}
    return _tree_json(conversation_id, await services.branches.choose(conversation_id, owner, **chosen))


def stored_id(shown: str) -> str:
    """The id under which an item or a turn is stored; what is none stays as it is, and names nothing."""
    known = SHOWN_ID.fullmatch(shown)
    return str(UUID(known[1])) if known is not None else shown


async def _answer(
    turn: Turn, how: AnotherAnswer, request: Request, services: Services, caller: Caller
) -> dict[str, Any] | Response:
    """The turn's events, or once it has ended the turn with what it wrote."""
    if how.stream:
        return turn_stream(services.turns, await services.turn_reports.open([turn.id], caller.owner), FROM_THE_FIRST)
    await wait_until_ended([turn], request)
    report = await services.turn_reports.report([turn.id], caller.owner)
    answer = turn.answer()
    return {**turn_json(report, names_keys=caller.principal.is_admin), "text": answer.text}


def _tree_json(conversation_id: str, tree: BranchTree) -> dict[str, Any]:
    last = tree.last_shown()
    head = {
        "branch": tree.head,
        "turn_id": last.turn_id if last is not None else None,
        "item_id": last.id if last is not None else None,
    }
    return {
        "object": "conversation.branches",
        "conversation_id": conversation_id,
        "head": head,
        "forks": [_fork_json(point) for point in tree.forks()],
    }


def _fork_json(point: ForkPoint) -> dict[str, Any]:
    return {
        "after": point.after.id if point.after is not None else None,
        "siblings": [_sibling_json(sibling) for sibling in point.siblings],
    }


def _sibling_json(sibling: Sibling) -> dict[str, Any]:
    first, turn = sibling.said or sibling.answer, sibling.turn
    return {
        "branch": sibling.branch,
        "shown": sibling.shown,
        "item_id": first.id if first is not None else None,
        "turn_id": turn.id if turn is not None else None,
        "state": turn.state.value if turn is not None else None,
        "said": _beginning(sibling.said),
        "answer": _beginning(sibling.answer),
        "created_at": seconds(created_at(sibling)),
    }


def _beginning(stored: StoredItem | None) -> str | None:
    """How an item's text begins; of a call its name and arguments."""
    match stored.item if stored is not None else None:
        case Message(_, content):
            text = content
        case ToolCall(_, name, arguments):
            text = f"{name} {arguments}"
        case ToolResult(_, output):
            text = output
        case None:
            return None
    return text[:BEGINNING]
