"""Where a filling ends before the model ends it: by its indentation, and by time. Pure.

Source of the rules: `n_indent` and `t_max_predict_ms` in llama.cpp's server.
"""

from __future__ import annotations

from quern.events import TextDelta, TurnEnded, TurnEvent

BLANKS = frozenset(" \t")


class Filling:
    """The text for a gap, from a turn's events; what comes after its end is left out.

    `indent`: a line after the first one with fewer blanks before it ends the filling, and is left out. `seconds`: so
    long after the first text the filling ends with a piece that has a line break. `wanted=False`: it is empty.
    """

    def __init__(self, *, indent: int = 0, seconds: float | None = None, wanted: bool = True) -> None:
        self.text = ""
        self.wanted = wanted
        self.over = not wanted
        self._indent = indent
        self._seconds = seconds
        self._began: float | None = None
        self._margin: str | None = None

    @property
    def has_new_line(self) -> bool:
        """Whether the text goes over more than one line."""
        return "\n" in self.text

    def take(self, event: TurnEvent, now: float) -> str:
        """What an event adds; `now` is in seconds."""
        match event:
            case TextDelta(text) if not self.over:
                return self._add(self._indented(text), now)
            case TurnEnded() if not self.over:
                return self._add(self._margin or "", now)
            case _:
                return ""

    def _add(self, text: str, now: float) -> str:
        self.text += text
        began = self._began = now if self._began is None else self._began
        if self._seconds is not None and now - began > self._seconds and "\n" in text:
            self.over = True
        return text

    def _indented(self, text: str) -> str:
        """The text up to the first line that begins too far left. A line's margin waits for what follows it."""
        if not self._indent:
            return text
        kept: list[str] = []
        for character in text:
            if self._margin is None:
                kept.append(character)
            elif character in BLANKS:
                self._margin += character
                continue
            elif len(self._margin) < self._indent:
                self.over = True
                break
            else:
                kept.append(self._margin + character)
            self._margin = "" if character == "\n" else None
        return "".join(kept)
