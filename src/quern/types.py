"""Pure values that every room shares. No I/O, no identity: ids and order belong to the store."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum


class Role(StrEnum):
    """Who speaks in a message."""

    SYSTEM = "system"
    USER = "user"
    ASSISTANT = "assistant"


@dataclass(frozen=True, slots=True)
class Message:
    """One message of a conversation, as plain text."""

    role: Role
    content: str


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """How tokens are drawn. Names and ranges follow the OpenAI, vLLM and llama.cpp conventions.

    `top_k=0`, `top_p=1`, `min_p=0`, `repetition_penalty=1`, `presence_penalty=0` and `frequency_penalty=0` switch the
    respective step off; `temperature=0` is greedy decoding. `logit_bias` maps a token id to a value added to its logit.
    """

    max_tokens: int = 4096
    temperature: float = 0.7
    top_p: float = 0.8
    top_k: int = 20
    min_p: float = 0.0
    repetition_penalty: float = 1.05
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    seed: int | None = None
    logit_bias: dict[int, float] = field(default_factory=dict[int, float])
    ignore_eos: bool = False


class FinishReason(StrEnum):
    """Why a completed turn ended."""

    STOP = "stop"
    LENGTH = "length"


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

    def tokens_per_second(self, completion_tokens: int) -> float | None:
        """Decode speed: the tokens after the first over `decode_ms`; None while that can't be told."""
        if completion_tokens < 2 or self.decode_ms <= 0:
            return None
        return (completion_tokens - 1) / self.decode_ms * 1000


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
