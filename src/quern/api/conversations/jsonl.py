"""Conversations as JSON Lines: the format of exports, version 1; docs/api.md describes it.

The first line says what it is and the last one how much there was, so that a file that was cut off is noticed. Between
them is a line for each conversation, then for each of its branches but the first, each turn and each item.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from datetime import datetime
from typing import Annotated, Any, Literal
from uuid import UUID

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

from quern.api.shared.sse import to_json
from quern.records import ConversationCopy, TurnCopy
from quern.types import (
    FinishReason,
    Item,
    LoopKind,
    Message,
    Role,
    ToolCall,
    ToolKind,
    ToolResult,
    TurnState,
)

FORMAT = "quern.conversations"
VERSION = 1
MOST = 2**31 - 2
"""The greatest position and number."""

Number = Annotated[int, Field(ge=0, le=MOST)]
Milliseconds = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class Line(BaseModel):
    """A line. What it has besides is from a later version and can't be left out unseen."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class ConversationLine(Line):
    """Begins a conversation: what follows is its, up to the next one."""

    type: Literal["conversation"] = "conversation"
    id: UUID
    created_at: AwareDatetime
    updated_at: AwareDatetime
    metadata: dict[str, str] | None
    title: str | None
    pinned: bool
    archived: bool
    head: Number


class BranchLine(Line):
    """A branch: it begins after the item at the position `after` of the path to the end of `parent`."""

    type: Literal["branch"] = "branch"
    number: Annotated[int, Field(ge=1, le=MOST)]
    parent: Number
    after: Annotated[int, Field(ge=-1, le=MOST)]
    created_at: AwareDatetime


class UsageObject(Line):
    """Tokens."""

    prompt_tokens: Number
    cached_tokens: Number
    completion_tokens: Number


class TimingsObject(Line):
    """Where the time went."""

    queued_ms: Milliseconds
    prefill_ms: Milliseconds
    decode_ms: Milliseconds
    drafts_accepted: Number


class LoopObject(Line):
    """What a turn was ended for."""

    kind: LoopKind
    period: Number
    repeats: Number


class TurnLine(Line):
    """A turn."""

    type: Literal["turn"] = "turn"
    id: UUID
    branch: Number
    request_id: str
    model: str
    state: TurnState
    finish_reason: FinishReason | None
    error: str | None
    text: str | None
    usage: UsageObject
    timings: TimingsObject
    created_at: AwareDatetime
    started_at: AwareDatetime | None
    finished_at: AwareDatetime | None
    repairs: Number
    loop: LoopObject | None
    sampling: dict[str, Any]
    asked: dict[str, Any] | None


class MessageObject(Line):
    """Something said."""

    kind: Literal["message"] = "message"
    role: Literal[Role.SYSTEM, Role.USER, Role.ASSISTANT]
    content: str


class CallObject(Line):
    """A call of a tool."""

    kind: Literal["call"] = "call"
    tool: ToolKind
    call_id: str
    name: str
    namespace: str | None
    arguments: str


class ResultObject(Line):
    """What a call gave back."""

    kind: Literal["result"] = "result"
    tool: ToolKind
    call_id: str
    output: str


class ItemLine(Line):
    """An item. `turn_id`: null for what was put there without a turn."""

    type: Literal["item"] = "item"
    id: UUID
    turn_id: UUID | None
    branch: Number
    position: Number
    created_at: AwareDatetime
    said: Annotated[MessageObject | CallObject | ResultObject, Field(discriminator="kind")]


class EndLine(Line):
    """Says that nothing is missing."""

    type: Literal["end"] = "end"
    conversations: Number


def first_line(now: datetime) -> bytes:
    """Says what it is."""
    return _encoded({"type": FORMAT, "version": VERSION, "exported_at": now.isoformat()})


def last_line(conversations: int) -> bytes:
    """Says how much there was."""
    return _encoded(EndLine(conversations=conversations).model_dump(mode="json"))


def encoded(copy: ConversationCopy) -> bytes:
    """The lines of a conversation. Takes milliseconds for a megabyte."""
    return b"".join(_encoded(line.model_dump(mode="json")) for line in _lines(copy))


def _encoded(line: dict[str, Any]) -> bytes:
    return f"{to_json(line)}\n".encode()


def _lines(copy: ConversationCopy) -> Iterator[Line]:
    one = copy.conversation
    yield ConversationLine(
        id=UUID(one.id),
        created_at=one.created_at,
        updated_at=one.updated_at,
        metadata=one.metadata,
        title=one.title,
        pinned=one.pinned,
        archived=one.archived,
        head=one.head,
    )
    for branch in copy.branches:
        yield BranchLine(number=branch.number, created_at=branch.created_at, **asdict(branch.fork))
    for turn in copy.turns:
        yield _turn_line(turn)
    for stored in copy.items:
        yield ItemLine(
            id=UUID(stored.id),
            turn_id=UUID(stored.turn_id) if stored.turn_id is not None else None,
            branch=stored.branch,
            position=stored.position,
            created_at=stored.created_at,
            said=_said(stored.item),
        )


def _turn_line(turn: TurnCopy) -> TurnLine:
    record = turn.record
    return TurnLine(
        id=UUID(record.id),
        branch=record.branch,
        request_id=record.request_id,
        model=record.model_id,
        state=record.state,
        finish_reason=record.finish_reason,
        error=record.error,
        text=record.text,
        usage=UsageObject(**asdict(record.usage)),
        timings=TimingsObject(**asdict(record.timings)),
        created_at=record.created_at,
        started_at=record.started_at,
        finished_at=record.finished_at,
        repairs=record.repairs,
        loop=LoopObject(**asdict(record.loop)) if record.loop is not None else None,
        sampling=dict(turn.sampling),
        asked=dict(turn.asked) if turn.asked is not None else None,
    )


def _said(item: Item) -> MessageObject | CallObject | ResultObject:
    match item:
        case Message(role, content):
            return MessageObject.model_construct(kind="message", role=role, content=content)
        case ToolCall(call_id, name, arguments, kind, namespace):
            return CallObject(tool=kind, call_id=call_id, name=name, namespace=namespace, arguments=arguments)
        case ToolResult(call_id, output, kind):
            return ResultObject(tool=kind, call_id=call_id, output=output)
