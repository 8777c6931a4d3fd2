"""Pure values that every room shares. No I/O, no identity: ids and order belong to the store."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any


class Role(StrEnum):
    """Who speaks in a message."""

    SYSTEM = "system"
    USER = "user"
    ASSISTANT = "assistant"
    TOOL = "tool"


@dataclass(frozen=True, slots=True)
class Message:
    """What somebody says in a conversation, as plain text. A tool speaks in a `ToolResult`, not here."""

    role: Role
    content: str


class ToolKind(StrEnum):
    """How a client describes a tool and reads its calls. To the model all are functions: `Tool.parameters`.

    A custom tool takes one text, the argument `CUSTOM_INPUT`; the others are OpenAI's own, which the client runs.
    """

    FUNCTION = "function"
    CUSTOM = "custom"
    LOCAL_SHELL = "local_shell"
    SHELL = "shell"
    APPLY_PATCH = "apply_patch"


CUSTOM_INPUT = "input"


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A call that the model makes. `arguments`: a JSON object, as text; `id` names the call to its result.

    `namespace`: the group of tools in which a client has the tool; `name` begins with it.
    """

    id: str
    name: str
    arguments: str
    kind: ToolKind = ToolKind.FUNCTION
    namespace: str | None = None


@dataclass(frozen=True, slots=True)
class ToolResult:
    """What a call of such a tool gave back, as text."""

    call_id: str
    output: str
    kind: ToolKind = ToolKind.FUNCTION


Item = Message | ToolCall | ToolResult
"""One step of a conversation. A model's answer is a message, calls, or a message and then calls."""


class GrammarSyntax(StrEnum):
    """How a text's grammar is written: Lark, or a regular expression of Rust's crate `regex`."""

    LARK = "lark"
    REGEX = "regex"


@dataclass(frozen=True, slots=True)
class InputGrammar:
    """What a custom tool's text may look like."""

    syntax: GrammarSyntax
    definition: str


@dataclass(frozen=True, slots=True)
class Tool:
    """A function that the model may call. `parameters`: the JSON schema of its arguments, an object's.

    `strict`: where a call is demanded, all of the schema is enforced or the request refused; else as much as can be.
    `kind`, `namespace`: see `ToolCall`. `input_grammar`: what the text of a custom tool keeps to.
    """

    name: str
    description: str = ""
    parameters: Mapping[str, Any] = field(default_factory=dict[str, Any])
    strict: bool = False
    kind: ToolKind = ToolKind.FUNCTION
    namespace: str | None = None
    input_grammar: InputGrammar | None = None


class Syntax(StrEnum):
    """How a language is written down."""

    LARK = "lark"
    REGEX = "regex"


@dataclass(frozen=True, slots=True)
class Language:
    """Which texts an answer may be: those of a Lark grammar with llguidance's extensions, whose first rule is `start`,
    or those that a regular expression matches as a whole.
    """

    syntax: Syntax
    definition: str


class FinishReason(StrEnum):
    """Why a completed turn ended."""

    STOP = "stop"
    LENGTH = "length"
    TOOL_CALLS = "tool_calls"


class AttachedBy(StrEnum):
    """How a retry was known to be one: by its key, or by a connection that was lost."""

    KEY = "key"
    CONNECTION = "connection"


class LoopKind(StrEnum):
    """What went round in circles: an answer's tokens, or a conversation's calls."""

    TOKENS = "tokens"
    CALLS = "calls"


@dataclass(frozen=True, slots=True)
class Loop:
    """What a turn was ended for: its answer's last tokens, or its conversation's last calls, are at least so many
    `repeats` of a `period`, in tokens or calls.
    """

    kind: LoopKind
    period: int
    repeats: int

    @property
    def detail(self) -> str:
        """The same as a sentence."""
        length = self.period * self.repeats
        if self.kind is LoopKind.TOKENS:
            return f"loop: the last {length} tokens repeat a period of {self.period}, {self.repeats} times."
        what = "the same call" if self.period == 1 else f"the same {self.period} calls in turn"
        return f"loop: the last {length} calls were {what} with the same results, and the answer made the next one."


@dataclass(frozen=True, slots=True)
class Usage:
    """Token counts of one turn. `cached_tokens` is the part of the prompt whose KV cache was reused."""

    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0


@dataclass(frozen=True, slots=True)
class Timings:
    """Where one turn's time went, in milliseconds. `decode_ms` starts with the first token."""

    queued_ms: float = 0.0
    prefill_ms: float = 0.0
    decode_ms: float = 0.0
    drafts_accepted: int = 0

    def __add__(self, other: Timings) -> Timings:
        """One time after the other."""
        return Timings(
            self.queued_ms + other.queued_ms,
            self.prefill_ms + other.prefill_ms,
            self.decode_ms + other.decode_ms,
            self.drafts_accepted + other.drafts_accepted,
        )

    def tokens_per_second(self, completion_tokens: int) -> float | None:
        """Decode speed: the tokens after the first over `decode_ms`; None while that can't be told."""
        if completion_tokens < 2 or self.decode_ms <= 0:
            return None
        return (completion_tokens - 1) / self.decode_ms * 1000


@dataclass(frozen=True, slots=True)
class KvUsage:
    """Blocks of the KV cache: held by sequences, kept for prompts to come, empty."""

    used: int
    cached: int
    free: int


@dataclass(frozen=True, slots=True)
class StepFacts:
    """A step that an engine has computed: its sequences, their tokens, those that gave way before it, its time."""

    rows: int
    tokens: int
    preempted: int
    seconds: float


class TurnState(StrEnum):
    """A turn's life: queued, running, then exactly one terminal state."""

    QUEUED = "queued"
    RUNNING = "running"
    COMPLETED = "completed"
    CANCELLED = "cancelled"
    FAILED = "failed"
    INTERRUPTED = "interrupted"

    @property
    def terminal(self) -> bool:
        """Whether nothing more will happen to the turn."""
        return self not in ACTIVE_STATES


ACTIVE_STATES = frozenset({TurnState.QUEUED, TurnState.RUNNING})


class DisconnectPolicy(StrEnum):
    """What a turn does once its last reader has gone."""

    CANCEL = "cancel"
    FINISH = "finish"
    HOLD = "hold"
