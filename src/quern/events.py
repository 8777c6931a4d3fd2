"""What happens in a turn, as values: engines, parsers and the turn's log speak of the same events."""

from __future__ import annotations

from dataclasses import dataclass, field

from quern.types import FinishReason, Loop, Timings, ToolKind, TurnState, Usage


@dataclass(frozen=True, slots=True)
class Queued:
    """Waiting for a free sequence; `position` counts from 1."""

    position: int


@dataclass(frozen=True, slots=True)
class Loading:
    """Waiting for the model, which is being loaded; `progress`: 0 to 1."""

    progress: float


@dataclass(frozen=True, slots=True)
class Prefill:
    """Prompt tokens in the KV cache: `done` of `total`, of which `cached` were there before. Where an answer goes on,
    its tokens from before are among them.
    """

    done: int
    total: int
    cached: int


@dataclass(frozen=True, slots=True)
class TextDelta:
    """Whole characters that follow what came before; never empty."""

    text: str


@dataclass(frozen=True, slots=True)
class CallStarted:
    """The answer goes on with a call; `index` counts the answer's calls from 0; `name` is the tool's as the model wrote
    it, `kind` and `namespace` are those of the tool of that name.
    """

    index: int
    call_id: str
    name: str
    kind: ToolKind = ToolKind.FUNCTION
    namespace: str | None = None


@dataclass(frozen=True, slots=True)
class ArgumentsDelta:
    """More of a call's arguments, never empty; joined, they are the text of one JSON object unless the call is cut
    off.
    """

    index: int
    fragment: str


@dataclass(frozen=True, slots=True)
class CallEnded:
    """The arguments of a call are complete.

    `whole`: the model completed them, slips aside. If not, the end of the answer cut them off, or there is no telling
    what was meant, so such a call must not be carried out. `written`: all of such a call so far, as the model wrote it.
    """

    index: int
    whole: bool = True
    written: str | None = field(default=None, compare=False)


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """A token's bytes and the natural logarithm of its probability; `top`: the likeliest tokens', best first."""

    token: bytes
    logprob: float
    top: tuple[TokenLogprob, ...] = ()


@dataclass(frozen=True, slots=True)
class TextLogprobs:
    """The tokens of the text that comes next, where they were asked for."""

    tokens: tuple[TokenLogprob, ...]


@dataclass(frozen=True, slots=True)
class TurnEnded:
    """The terminal event: the last one, exactly once. `error` is a sentence unless the turn was completed.

    `stop`: the stop string that ended it, if one did. `repairs`: slips of the model that were mended in its calls.
    `by_request`: it failed for what was asked, and would again. `loop`: it was completed before the model ended it,
    for this.
    """

    state: TurnState
    finish_reason: FinishReason | None = None
    error: str | None = None
    usage: Usage = field(default_factory=Usage)
    timings: Timings = field(default_factory=Timings)
    stop: str | None = None
    repairs: int = 0
    by_request: bool = False
    loop: Loop | None = None

    @property
    def whole(self) -> bool:
        """Whether nothing can follow any more: neither was the answer cut short, nor did it meet its limit."""
        return self.state is TurnState.COMPLETED and self.finish_reason is not FinishReason.LENGTH


AnswerEvent = TextDelta | CallStarted | ArgumentsDelta | CallEnded
TurnEvent = Loading | Queued | Prefill | TextLogprobs | AnswerEvent | TurnEnded
