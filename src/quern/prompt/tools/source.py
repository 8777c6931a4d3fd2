"""An answer's text as a parser reads it: a character or a run at a time, waiting where nothing has arrived yet."""

from __future__ import annotations

import re
import sys
from collections.abc import Generator, Sequence
from typing import Self, TypeVar

Value = TypeVar("Value")
Steps = Generator[None, None, Value]
"""A computation that yields wherever it has to wait for more of the answer."""

SPACE = re.compile(r"\s+")


def result_of(steps: Steps[Value]) -> Value:
    """Run a computation over a source that has ended."""
    while True:
        try:
            next(steps)
        except StopIteration as stop:
            return stop.value


class Source:
    """Text that arrives in pieces. Reading is linear in the text, however small or large the pieces are.

    What is read while it is recorded can be had again as text. `Source.of` is one that has arrived as a whole.
    """

    def __init__(self) -> None:
        self._text = ""
        self._at = 0
        self._later: list[tuple[str, int]] = []
        self._ended = False
        self._record: list[str] | None = None

    @classmethod
    def of(cls, text: str) -> Self:
        """A source of exactly this text."""
        source = cls()
        source.push(text)
        source.end()
        return source

    def push(self, text: str) -> None:
        """More text has arrived."""
        self._later.insert(0, (text, 0))

    def end(self) -> None:
        """Nothing more will arrive."""
        self._ended = True

    @property
    def exhausted(self) -> bool:
        """Whether everything was read and nothing more will arrive."""
        return self._ended and not self._available()

    def peek(self) -> Steps[str]:
        """The next character, which stays unread; empty at the end."""
        while not self._available():
            if self._ended:
                return ""
            yield
        return self._text[self._at]

    def skip(self) -> str:
        """Read the character that `peek` has just shown."""
        self._at += 1
        return self._note(self._text[self._at - 1])

    def some(self, run: re.Pattern[str], most: int = sys.maxsize) -> Steps[str]:
        """Read what has arrived of a run of characters; empty where none of them is next, and at the end."""
        if not (yield from self.peek()):
            return ""
        match = run.match(self._text, self._at, min(len(self._text), self._at + most))
        if match is None:
            return ""
        self._at = match.end()
        return self._note(match.group())

    def whole(self, run: re.Pattern[str], most: int = sys.maxsize) -> Steps[str]:
        """Read a run of characters to its end, but at most so many; it may be empty."""
        pieces: list[str] = []
        while most > 0 and (piece := (yield from self.some(run, most))):
            pieces.append(piece)
            most -= len(piece)
        return "".join(pieces)

    def space(self) -> Steps[str]:
        """Read white space; it may be empty."""
        return (yield from self.whole(SPACE))

    def significant(self) -> Steps[str]:
        """Read white space, then peek."""
        yield from self.space()
        return (yield from self.peek())

    def marker(self, markers: Sequence[str]) -> Steps[str]:
        """Read one of the markers, of which none begins another; or as much as could have been the beginning of one."""
        seen = ""
        while seen not in markers:
            character = yield from self.peek()
            if not character or not any(marker.startswith(seen + character) for marker in markers):
                break
            seen += self.skip()
        return seen

    def unread(self, text: str) -> None:
        """Make the last few characters that were read the next ones again."""
        if not text:
            return
        self._later.append((self._text, self._at))
        self._text, self._at = text, 0
        self._forget(len(text))

    def record(self) -> None:
        """Record what is read from here on."""
        self._record = []

    def recorded(self) -> str:
        """End the recording; what was read since it began."""
        text = "".join(self._record or ())
        self._record = None
        return text

    def _forget(self, count: int) -> None:
        """Take the last characters out of the record."""
        while self._record and count > 0:
            piece = self._record.pop()
            if len(piece) > count:
                self._record.append(piece[:-count])
            count -= len(piece)

    def _available(self) -> bool:
        while self._at == len(self._text) and self._later:
            self._text, self._at = self._later.pop()
        return self._at < len(self._text)

    def _note(self, text: str) -> str:
        if self._record is not None:
            self._record.append(text)
        return text
