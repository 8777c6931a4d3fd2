"""What a caller asks for, whichever dialect it speaks."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

from quern.access.principal import Principal
from quern.engine.base import Priority
from quern.records import Fork, NewResponse
from quern.sampling import SamplingParams
from quern.store.idempotency import NewKey
from quern.types import DisconnectPolicy, Item, Language, Message, Role, Tool


class CallMode(StrEnum):
    """Whether the model calls tools."""

    AUTO = "auto"
    NONE = "none"
    REQUIRED = "required"


@dataclass(frozen=True, slots=True)
class ToolUse:
    """The tools that the model is shown. `only`: the one that it must call, with `CallMode.REQUIRED`. Without
    `parallel` the answer ends after its first call.
    """

    tools: tuple[Tool, ...] = ()
    mode: CallMode = CallMode.AUTO
    only: str | None = None
    parallel: bool = True


@dataclass(frozen=True, slots=True)
class ChatInput:
    """Something is said, and answered. `instructions` stand before everything else and are not remembered.

    `prefill`: the answer goes on after it, as the assistant has said it already; in what is remembered it is a part of
    the answer. `schema`: the JSON schema (as text) that the answer keeps to, where it calls no tool; `language`: what
    it is a text of instead, and then it calls none unless that is demanded. `items_field`, `schema_field`: the fields
    of the request that have the items, and the schema or the language.
    """

    items: tuple[Item, ...]
    instructions: str | None = None
    tool_use: ToolUse = ToolUse()
    schema: str | None = None
    language: Language | None = None
    schema_field: str | None = None
    items_field: str = "prompt"
    prefill: str = ""


def split_prefill(items: tuple[Item, ...], *, alone: bool = False) -> tuple[tuple[Item, ...], str]:
    """What is said, and how its answer begins: where an assistant's message comes last, the answer goes on after it.

    `alone`: also where it is the only item, since there is more before it.
    """
    last = items[-1] if len(items) > 1 or (alone and items) else None
    if isinstance(last, Message) and last.role is Role.ASSISTANT and last.content:
        return items[:-1], last.content
    return items, ""


@dataclass(frozen=True, slots=True)
class TokenInput:
    """Token ids are continued. `stop_token_ids`: where that ends, besides the end of a turn. `schema`, `language`,
    `schema_field`: as in `ChatInput`.
    """

    ids: tuple[int, ...]
    stop_token_ids: frozenset[int] = frozenset()
    schema: str | None = None
    language: Language | None = None
    schema_field: str | None = None


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks, under which request id, and what a turn is to do should the connection close; `disconnect=None` takes
    the policy from the settings. `background`: whether the answer can wait for everybody else's; None leaves that to
    the request. `traceparent`: the request's span, where there are traces. `idempotency_key`: under which the same
    request may come again. `turn_ids`: its turns, once they are there; `adopted`: those of them that another request
    had started.
    """

    principal: Principal
    request_id: str
    disconnect: DisconnectPolicy | None = None
    background: bool | None = None
    traceparent: str = ""
    body_digest: bytes = b""
    idempotency_key: str | None = None
    turn_ids: list[str] = field(default_factory=list[str], compare=False)
    adopted: list[str] = field(default_factory=list[str], compare=False)

    def priority(self, own: Priority) -> Priority:
        """That of a request which would have its `own`. Nobody can claim to be urgent."""
        if self.background is None:
            return own
        return Priority.BACKGROUND if self.background else Priority.NORMAL

    @property
    def owner(self) -> str:
        """Whose conversations it sees."""
        return self.principal.owner

    @property
    def known_by(self) -> tuple[str, bytes] | None:
        """The same where the same owner sends the same request again; None where that can't be told."""
        return (self.owner, self.body_digest) if self.body_digest else None


@dataclass(frozen=True, slots=True)
class TurnRequest:
    """One turn. `conversation_id=None` with `remember` begins a conversation; without it the turn is one shot, unless
    it is kept as a `response`. `previous_id`: the turn of the response that it continues. `fit_answer`: where there is
    no room for `sampling.max_tokens`, a shorter answer will do. In the `background` everybody else's goes before it.
    `key`: under which a retry finds the turn. `fork`: where it begins another branch of its conversation; without one
    it goes on with the head. `model`: whose answer is wanted, by any of its names; None takes the default.
    """

    caller: Caller
    input: ChatInput | TokenInput
    sampling: SamplingParams
    remember: bool = False
    conversation_id: str | None = None
    previous_id: str | None = None
    response: NewResponse | None = None
    stops: tuple[str, ...] = ()
    priority: Priority = Priority.NORMAL
    background: bool = False
    fit_answer: bool = False
    key: NewKey | None = None
    fork: Fork | None = None
    model: str | None = None

    @property
    def priority_asked(self) -> Priority:
        """Its priority, as its caller wants it."""
        return self.caller.priority(Priority.BACKGROUND if self.background else self.priority)

    @property
    def kept(self) -> bool:
        """Whether what is said outlives the turn."""
        return self.remember or self.response is not None
