"""An answer parser with a notation of its own, as simple as can be: `f{…}` is a call of `f`, all else is prose."""

from __future__ import annotations

from quern.events import AnswerEvent, ArgumentsDelta, CallEnded, CallStarted, TextDelta
from quern.turns.identity import call_id

TURN = "1b4e28ba-2fa1-41d2-883f-0016d3cca427"


class ScriptedParser:
    """Calls have one-letter names and no braces inside. The letter before a brace may be a name, so it is held back.

    Everything that is mended, a call without its end, counts as a repair.
    """

    def __init__(self, turn_id: str = TURN) -> None:
        self._turn_id = turn_id
        self.repairs = 0
        self._held = ""
        self._calls = 0
        self._inside = False

    def push(self, text: str) -> list[AnswerEvent]:
        """Take what comes next, one event a character at most."""
        return [event for character in text for event in self._take(character)]

    def finish(self) -> list[AnswerEvent]:
        """Give out what was held back, and end a call that was cut off."""
        held, self._held = self._held, ""
        if self._inside:
            self.repairs += 1
            return [*self._fragment("}"), *self._end(whole=False)]
        return [TextDelta(held)] if held else []

    def _take(self, character: str) -> list[AnswerEvent]:
        if self._inside:
            return [*self._fragment("}"), *self._end()] if character == "}" else self._fragment(character)
        if character == "{" and self._held:
            name, self._held, self._inside = self._held, "", True
            return [CallStarted(self._calls, call_id(self._turn_id, self._calls), name), *self._fragment("{")]
        held, self._held = self._held, character
        return [TextDelta(held)] if held else []

    def _fragment(self, fragment: str) -> list[AnswerEvent]:
        return [ArgumentsDelta(self._calls, fragment)]

    def _end(self, *, whole: bool = True) -> list[AnswerEvent]:
        self._inside = False
        self._calls += 1
        return [CallEnded(self._calls - 1, whole)]
