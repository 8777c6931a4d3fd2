"""What the parser of answers, the readers of the formats and their users know of each other."""

from __future__ import annotations

import re
from collections.abc import Iterable
from itertools import groupby
from typing import Protocol

from quern.events import AnswerEvent, ArgumentsDelta, TextDelta
from quern.grammar.parameter_types import ParameterTypes

LONGEST_NAME = 200
"""Characters of a tool's or an argument's name; what goes on for longer is prose."""

FENCE = "```"
"""Opens a code block, and closes it."""
NAME_LIKE = re.compile(r"[\w$-]+")


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
        """End of the answer: return what was held back.

        The arguments of a call that is not whole are completed to be JSON all the same; its `CallEnded` tells.
        """
        ...


def merged(events: Iterable[AnswerEvent]) -> list[AnswerEvent]:
    """The same events, with neighbouring pieces of prose, or of one call's arguments, joined."""
    result: list[AnswerEvent] = []
    for (kind, index), group in groupby(events, key=lambda event: (type(event), getattr(event, "index", None))):
        if kind is TextDelta:
            result.append(TextDelta("".join(event.text for event in group if isinstance(event, TextDelta))))
        elif kind is ArgumentsDelta and index is not None:
            fragments = (event.fragment for event in group if isinstance(event, ArgumentsDelta))
            result.append(ArgumentsDelta(index, "".join(fragments)))
        else:
            result += group
    return result


def cleaned(name: str) -> str:
    """A name without what small models put around it: `"path"`, `path=`, `path/`, `write()`."""
    return name.strip().rstrip("=/() ").strip("\"'` ")


def plausible(name: str, types: ParameterTypes) -> bool:
    """Whether a tool whose arguments have these types may have one of that name, where slips leave it in doubt."""
    return types.names(name) or (types.may_have(name) and NAME_LIKE.fullmatch(name) is not None)


class NotACallError(Exception):
    """What looked like a call's beginning is prose."""


class CallSink(Protocol):
    """Takes one call. Nothing of it is told before `begin`; until then its reader may raise NotACallError."""

    def tool_called(self, written: str) -> str | None:
        """The name of the tool that is meant, whatever small models put around it; None where there is none."""
        ...

    def types_of(self, name: str) -> ParameterTypes:
        """The types of the tool's arguments; of any, where there is no such tool."""
        ...

    def begin(self, name: str, slips: int) -> ParameterTypes:
        """It is a call, in whose opening so many slips were mended. Returns the types of its arguments."""
        ...

    def write(self, fragment: str) -> None:
        """The next piece of its arguments."""
        ...

    def mend(self) -> None:
        """A slip was mended."""
        ...

    def end(self, *, whole: bool) -> None:
        """Its arguments are complete; `whole`: the answer did not end within them, and what was meant is clear."""
        ...
