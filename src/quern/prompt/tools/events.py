"""What a model's answer consists of where it may call tools: prose and calls, told while they arrive."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import groupby
from typing import Protocol


@dataclass(frozen=True, slots=True)
class AnswerText:
    """Prose; never empty."""

    text: str


@dataclass(frozen=True, slots=True)
class CallStarted:
    """A call begins. `index` counts the answer's calls from 0; `name` is the tool's as the model wrote it."""

    index: int
    name: str


@dataclass(frozen=True, slots=True)
class CallArguments:
    """The next piece of a call's arguments, never empty; a call's pieces join to the text of one JSON object."""

    index: int
    fragment: str


@dataclass(frozen=True, slots=True)
class CallEnded:
    """A call's arguments are complete.

    `whole`: the model completed them, slips aside; if not, the end of the answer cut them off, and what they still
    needed to be JSON was added. More could have followed then, so such a call should not be carried out.
    """

    index: int
    whole: bool = True


AnswerEvent = AnswerText | CallStarted | CallArguments | CallEnded


class AnswerParser(Protocol):
    """Finds the calls in one answer. However the text is split over calls, the same comes out, only in other pieces."""

    @property
    def repairs(self) -> int:
        """How many slips of the model were mended so far."""
        ...

    def push(self, text: str) -> list[AnswerEvent]:
        """Take the next text, of any length; return what is now certain."""
        ...

    def finish(self) -> list[AnswerEvent]:
        """End of the answer: return what was held back; a call that was cut off is completed."""
        ...


def merged(events: Iterable[AnswerEvent]) -> list[AnswerEvent]:
    """The same events, with neighbouring pieces of prose, or of one call's arguments, joined."""
    result: list[AnswerEvent] = []
    for (kind, index), group in groupby(events, key=lambda event: (type(event), getattr(event, "index", None))):
        if kind is AnswerText:
            result.append(AnswerText("".join(event.text for event in group if isinstance(event, AnswerText))))
        elif kind is CallArguments and index is not None:
            fragments = (event.fragment for event in group if isinstance(event, CallArguments))
            result.append(CallArguments(index, "".join(fragments)))
        else:
            result += group
    return result
