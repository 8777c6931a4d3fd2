"""What the readers of the formats and the parser that finds calls know of each other."""

from __future__ import annotations

from typing import Protocol

from quern.grammar.parameter_types import ParameterTypes

LONGEST_NAME = 200
"""Characters of a tool's or an argument's name; what goes on for longer is prose."""


class NotACallError(Exception):
    """What looked like a call's beginning is prose."""


class CallSink(Protocol):
    """Takes one call. Nothing of it is told before `begin`; until then its reader may raise NotACallError."""

    def knows(self, name: str) -> bool:
        """Whether there is a tool of that name."""
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
        """Its arguments are complete; `whole`: not because the answer ended within them."""
        ...
