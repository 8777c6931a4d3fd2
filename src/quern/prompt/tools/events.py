"""What a model's answer consists of."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class AnswerText:
    """Prose; never empty."""

    text: str


@dataclass(frozen=True, slots=True)
class CallStarted:
    """A call begins; `index` counts calls from 0."""

    index: int
    name: str


@dataclass(frozen=True, slots=True)
class CallArguments:
    """More of a call's arguments; joined fragments are the text of one JSON object."""

    index: int
    fragment: str


@dataclass(frozen=True, slots=True)
class CallEnded:
    """The call is whole."""

    index: int


AnswerEvent = AnswerText | CallStarted | CallArguments | CallEnded


class AnswerParser(Protocol):
    """Finds the calls in an answer that comes in pieces."""

    @property
    def repairs(self) -> int:
        """How many slips of the model were mended so far."""
        ...

    def push(self, text: str) -> list[AnswerEvent]:
        """Take what comes next."""
        ...

    def finish(self) -> list[AnswerEvent]:
        """The answer is over: what was held back, and the end of a call that was cut off."""
        ...
