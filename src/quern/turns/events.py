"""What happens in a turn, numbered: the one log that every dialect reads."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass, field

from quern.types import FinishReason, Timings, TurnState, Usage


@dataclass(frozen=True, slots=True)
class TurnQueued:
    """Waiting for a free sequence; `position` counts from 1."""

    position: int


@dataclass(frozen=True, slots=True)
class TurnPrefill:
    """Prompt tokens read: `done` of `total`, `cached` of them reused."""

    done: int
    total: int
    cached: int


@dataclass(frozen=True, slots=True)
class TurnText:
    """Whole characters that follow what came before; never empty."""

    text: str


@dataclass(frozen=True, slots=True)
class TurnCallStarted:
    """The answer goes on with a call; `index` counts the answer's calls from 0."""

    index: int
    call_id: str
    name: str


@dataclass(frozen=True, slots=True)
class TurnCallArguments:
    """More of a call's arguments; joined, they are the text of one JSON object, unless the call is cut off."""

    index: int
    fragment: str


@dataclass(frozen=True, slots=True)
class TurnCallEnded:
    """The arguments of a call are whole, or, as the last of an answer, cut off by its end; then they are no JSON."""

    index: int
    whole: bool = True


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """A token's bytes and the natural logarithm of its probability; `top`: the likeliest tokens', best first."""

    token: bytes
    logprob: float
    top: tuple[TokenLogprob, ...] = ()


@dataclass(frozen=True, slots=True)
class TurnLogprobs:
    """The tokens of the text that comes next, where they were asked for."""

    tokens: tuple[TokenLogprob, ...]


@dataclass(frozen=True, slots=True)
class TurnEnded:
    """The terminal event: the last one, exactly once. `error` is a sentence unless the turn was completed.

    `stop`: the stop string that ended it, if one did. `repairs`: slips of the model that were mended in its calls.
    """

    state: TurnState
    finish_reason: FinishReason | None = None
    error: str | None = None
    usage: Usage = field(default_factory=Usage)
    timings: Timings = field(default_factory=Timings)
    stop: str | None = None
    repairs: int = 0


AnswerEvent = TurnText | TurnCallStarted | TurnCallArguments | TurnCallEnded
TurnEvent = TurnQueued | TurnPrefill | TurnLogprobs | AnswerEvent | TurnEnded


@dataclass(frozen=True, slots=True)
class NumberedEvent:
    """An event and its place in the turn, counted from 1 without gaps."""

    number: int
    event: TurnEvent


class TurnLog:
    """Append-only; any number of readers, each at its own pace. Lives on one event loop."""

    def __init__(self) -> None:
        self._events: list[NumberedEvent] = []
        self._grown = asyncio.Event()

    @property
    def end(self) -> TurnEnded | None:
        """The terminal event, once there is one."""
        last = self._events[-1].event if self._events else None
        return last if isinstance(last, TurnEnded) else None

    def append(self, event: TurnEvent) -> NumberedEvent:
        """Number an event and wake the readers. Raises RuntimeError after the terminal event."""
        if self.end is not None:
            msg = f"a turn that has ended can't go on with {event!r}"
            raise RuntimeError(msg)
        numbered = NumberedEvent(len(self._events) + 1, event)
        self._events.append(numbered)
        self._grown.set()
        self._grown = asyncio.Event()
        return numbered

    def snapshot(self) -> Sequence[NumberedEvent]:
        """Everything so far."""
        return tuple(self._events)

    async def read(self, after: int = 0) -> AsyncGenerator[Sequence[NumberedEvent]]:
        """Everything after event number `after`, in batches of what is there, until the terminal event."""
        while True:
            grown = self._grown
            batch = self._events[after:]
            if batch:
                after = batch[-1].number
                yield batch
                if isinstance(batch[-1].event, TurnEnded):
                    return
            else:
                await grown.wait()

    async def ended(self) -> TurnEnded:
        """Wait for the terminal event."""
        while self.end is None:
            await self._grown.wait()
        return self.end
