"""What is written of a turn, as values, and the columns of turns."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Row

from quern.records import Fork, NewResponse, StorageQuota, TurnRecord, UsageRecord
from quern.sampling import SamplingParams
from quern.store.generations import GenerationEnd
from quern.store.idempotency import NewKey
from quern.store.items import NewItem
from quern.types import FinishReason, Loop, LoopKind, Timings, TurnState, Usage


@dataclass(frozen=True, slots=True)
class NewTurn:
    """An admitted turn. `conversation_id` is None for a turn outside of conversations; `new_conversation` says to
    create it. `items`: what was said to the model; kept with a conversation or a response only. `plan`, `prompt`: as
    in `store.generations`; without a plan nothing is kept there. `quota`: within which its owner has to stay
    where it is kept. `key`: under which its request is known. `fork`: where
    it begins a branch of its conversation; without one it goes on with the head. `asked`: what was asked for beside
    what was said, for another answer to the same; kept with a conversation only. `title`: the conversation's, where it
    has none.
    """

    id: str
    owner: str
    request_id: str
    model_id: str
    items: tuple[NewItem, ...]
    sampling: SamplingParams
    created_at: datetime
    conversation_id: str | None
    new_conversation: bool
    plan: dict[str, Any] | None = None
    prompt: bytes = b""
    response: NewResponse | None = None
    key: NewKey | None = None
    fork: Fork | None = None
    asked: dict[str, Any] | None = None
    title: str | None = None
    quota: StorageQuota | None = None

    @property
    def kept(self) -> bool:
        """Whether what was said is stored: one-shot turns have no memory."""
        return self.conversation_id is not None or self.response is not None


@dataclass(frozen=True, slots=True)
class JournalEntry:
    """The tokens `first` to `last` of an unfinished turn's answer, counted from 1. `pieces`: the text that each
    brought, which may be empty; None where no text is kept. `ids`: the tokens; None where they are not.
    """

    turn_id: str
    first: int
    last: int
    pieces: tuple[str, ...] | None
    ids: tuple[int, ...] | None = None

    def after(self, saved: int) -> JournalEntry:
        """What of it comes after the tokens that are saved."""
        known = max(0, saved - self.first + 1)
        pieces = self.pieces[known:] if self.pieces is not None else None
        return JournalEntry(
            self.turn_id, self.first + known, self.last, pieces, self.ids[known:] if self.ids is not None else None
        )


@dataclass(frozen=True, slots=True)
class TurnEnd:
    """How a turn ended. `text`: all that the model wrote, or wrote so far; None where none is to be kept. `items`: the
    same as an answer, for the history of what follows.
    `started_at`: None where it never ran, or that is saved. `used`: what it adds to its owner's usage. `generation`:
    what is kept to tell the answer again, or to go on with it. `loop`: for what it was ended before the model ended it.
    """

    turn_id: str
    state: TurnState
    finish_reason: FinishReason | None
    error: str | None
    text: str | None
    usage: Usage
    timings: Timings
    finished_at: datetime
    items: tuple[NewItem, ...] = ()
    repairs: int = 0
    loop: Loop | None = None
    started_at: datetime | None = None
    used: UsageRecord | None = None
    generation: GenerationEnd | None = None


@dataclass(frozen=True, slots=True)
class AskedTurn:
    """How a turn was sampled, what was asked for beside what was said, and the model that answered."""

    sampling: dict[str, Any]
    asked: dict[str, Any] | None
    model_id: str


@dataclass(frozen=True, slots=True)
class ReopenedTurn:
    """A turn that goes on. `ended_as`: how it had ended; `answer_ids`: the items of its answer, which it gets anew;
    `text`: what its answer has for sure; `plan`, `sampling`: those of the whole answer; `key`: under which a retry of
    the request to go on finds it.
    """

    id: str
    owner: str
    ended_as: TurnState
    answer_ids: tuple[str, ...]
    text: str | None
    plan: dict[str, Any]
    sampling: SamplingParams
    key: NewKey | None = None


def queued_columns(turn: NewTurn, branch: int) -> dict[str, Any]:
    """A new turn's row."""
    return {
        "id": turn.id,
        "conversation_id": turn.conversation_id,
        "owner": turn.owner,
        "request_id": turn.request_id,
        "model_id": turn.model_id,
        "state": TurnState.QUEUED,
        "sampling": asdict(turn.sampling),
        "created_at": turn.created_at,
        "branch": branch,
        "asked": turn.asked if turn.conversation_id is not None else None,
        **asdict(Usage()),
        **asdict(Timings()),
    }


def ended_columns(end: TurnEnd) -> dict[str, Any]:
    """What changes in a turn's row when it ends."""
    return {
        "state": end.state,
        "finish_reason": end.finish_reason,
        "error": end.error,
        "text": end.text,
        "finished_at": end.finished_at,
        "repairs": end.repairs,
        "loop": asdict(end.loop) if end.loop is not None else None,
        **({"started_at": end.started_at} if end.started_at is not None else {}),
        **asdict(end.usage),
        **asdict(end.timings),
    }


def turn_record(row: Row[Any]) -> TurnRecord:
    """A turn from a row of all its columns."""
    return TurnRecord(
        id=row.id,
        conversation_id=row.conversation_id,
        owner=row.owner,
        request_id=row.request_id,
        model_id=row.model_id,
        state=row.state,
        finish_reason=row.finish_reason,
        error=row.error,
        text=row.text,
        usage=Usage(row.prompt_tokens, row.cached_tokens, row.completion_tokens),
        timings=Timings(row.queued_ms, row.prefill_ms, row.decode_ms, row.drafts_accepted),
        created_at=row.created_at,
        started_at=row.started_at,
        finished_at=row.finished_at,
        repairs=row.repairs,
        loop=_loop(row.loop),
        branch=row.branch,
    )


def _loop(stored: Mapping[str, Any] | None) -> Loop | None:
    return Loop(LoopKind(stored["kind"]), stored["period"], stored["repeats"]) if stored is not None else None
