"""Whose step it is: those who can't wait get most steps for themselves."""

from __future__ import annotations

from collections.abc import Sequence

from quern.engine.base import Priority
from quern.engine.cpu.sequence import SequenceState

STEPS_ALONE = 3
"""After so many steps without them the others take part in one: a chat slows down, but never stands still."""


class Precedence:
    """A step lasts the longer the more take part. Who can't wait is therefore served without the others, most times."""

    def __init__(self) -> None:
        self._alone = 0

    def taking_part(self, running: Sequence[SequenceState]) -> Sequence[SequenceState]:
        """Who takes part in the next step; called once for each."""
        urgent = [sequence for sequence in running if sequence.request.priority is Priority.INTERACTIVE]
        if not urgent or self._alone == STEPS_ALONE:
            self._alone = 0
            return running
        self._alone += 1
        return urgent
