"""What is kept, as values: the store reads and writes them, turns hand them on, dialects show them. Times are UTC."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date, datetime
from enum import StrEnum
from typing import Any, Generic, TypeVar

from quern.errors import InvalidRequest
from quern.events import TurnEnded
from quern.types import FinishReason, Item, Loop, Timings, TurnState, Usage

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Conversation:
    """A conversation. `updated_at` is when its last turn began or ended, or something was put into it. `metadata`: what
    its owner noted. `head`: the branch that is shown and continued; see `Branch`.
    """

    id: str
    owner: str
    created_at: datetime
    updated_at: datetime
    metadata: dict[str, str] | None = None
    title: str | None = None
    pinned: bool = False
    archived: bool = False
    head: int = 0


@dataclass(frozen=True, slots=True)
class Fork:
    """Where a branch begins: after the item at the position `after` of the path to the end of the branch `parent`; -1
    is before all of it.
    """

    parent: int
    after: int


@dataclass(frozen=True, slots=True)
class Branch:
    """Another path of a conversation, from where it leaves the one that was there. 0, which has no record, is what the
    conversation began with.
    """

    number: int
    fork: Fork
    created_at: datetime


@dataclass(frozen=True, slots=True)
class StoredItem:
    """An item with its identity. `position` counts from 0 within the conversation, or within the turn of a response
    that belongs to none. `turn_id` is None for what was put into a conversation without a turn. `branch`: the part of a
    conversation that has it.
    """

    id: str
    conversation_id: str | None
    turn_id: str | None
    position: int
    item: Item
    created_at: datetime
    branch: int = 0


@dataclass(frozen=True, slots=True)
class TurnRecord:
    """A turn as stored. `text` is the answer, or what there was of it, once the turn is terminal. `loop`: why it was
    completed before the model ended it.
    """

    id: str
    conversation_id: str | None
    owner: str
    request_id: str
    model_id: str
    state: TurnState
    finish_reason: FinishReason | None
    error: str | None
    text: str | None
    usage: Usage
    timings: Timings
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    repairs: int = 0
    loop: Loop | None = None
    branch: int = 0

    def end(self, stop: str | None = None) -> TurnEnded:
        """Its terminal event, once its state is terminal. `stop`: the stop string that ended it."""
        reason, usage, timings = self.finish_reason, self.usage, self.timings
        return TurnEnded(self.state, reason, self.error, usage, timings, stop, self.repairs, loop=self.loop)


@dataclass(frozen=True, slots=True)
class TurnCopy:
    """A turn with how it was sampled, and what was asked for beside what was said."""

    record: TurnRecord
    sampling: Mapping[str, Any]
    asked: Mapping[str, Any] | None


@dataclass(frozen=True, slots=True)
class ConversationCopy:
    """All of a conversation: branches by number, turns as they began, items by position."""

    conversation: Conversation
    branches: tuple[Branch, ...]
    turns: tuple[TurnCopy, ...]
    items: tuple[StoredItem, ...]


@dataclass(frozen=True, slots=True)
class NewResponse:
    """A turn that is kept as a response. `previous_id`: the turn of the response that it continues. `body`: what its
    caller asked for, as JSON, for the dialect to read again. `background`: its events are kept, not only its answer.
    """

    previous_id: str | None
    background: bool
    body: dict[str, Any]


@dataclass(frozen=True, slots=True)
class ResponseRecord:
    """A response as stored; see `NewResponse`."""

    turn: TurnRecord
    previous_id: str | None
    background: bool
    body: dict[str, Any]


class KeyRole(StrEnum):
    """What the holder of a key may do: use the server, or run it too."""

    USER = "user"
    ADMIN = "admin"


@dataclass(frozen=True, slots=True)
class KeyLimits:
    """The most that a key may do; what is None is as the settings say (`limits.*`), and 0 is no limit."""

    turns_at_once: int | None = None
    turns_waiting: int | None = None
    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    tokens_per_day: int | None = None
    storage_mib: int | None = None


@dataclass(frozen=True, slots=True)
class KeyRecord:
    """A key as stored. `id` is public and stays through `rotate`: it is the owner of what the key makes. `digest`: of
    the secret, as `access.secrets` computes it. `weight`: its part where the server is shared, next to others'.
    """

    id: str
    name: str
    role: KeyRole
    digest: bytes = field(repr=False)
    created_at: datetime
    expires_at: datetime | None = None
    revoked_at: datetime | None = None
    last_used_at: datetime | None = None
    weight: float = 1.0
    note: str = ""
    limits: KeyLimits = field(default_factory=KeyLimits)


@dataclass(frozen=True, slots=True)
class StorageQuota:
    """How many bytes of text an owner may have stored."""

    owner: str
    most_bytes: int


@dataclass(frozen=True, slots=True)
class UsageRecord:
    """What an owner has used on a day (UTC) with a model. `cached_tokens` are those of the prompts that a cache had;
    `compute_ms`: the time that prompts and answers took, summed over what ran side by side.
    """

    day: date
    owner: str
    model_id: str
    requests: int
    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int
    compute_ms: float


@dataclass(frozen=True, slots=True)
class AuditEntry:
    """An administrative act: who did what to which key or file. Never a prompt, never a secret."""

    at: datetime
    actor: str
    action: str
    subject: str
    details: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Page(Generic[T]):
    """A part of a longer list; `has_more` says whether anything comes after its last item."""

    items: tuple[T, ...]
    has_more: bool


def page_of(rows: list[T], limit: int) -> Page[T]:
    """The page of `limit` rows, from those rows and one more where there is one."""
    return Page(items=tuple(rows[:limit]), has_more=len(rows) > limit)


def unknown_cursor(kind: str, after: str) -> InvalidRequest:
    """What to raise for a cursor that is not in the list."""
    return InvalidRequest(
        f"There is no {kind} {after!r} to go on after: it was deleted, or the value is not from this list. Start "
        f"again without `after`.",
        field="after",
    )
