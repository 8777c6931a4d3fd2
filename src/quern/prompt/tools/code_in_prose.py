"""Code in prose, as Markdown has it: what is quoted there is no call."""

from __future__ import annotations

import re

from quern.prompt.tools.protocols import FENCE
from quern.prompt.tools.source import Source, Steps

BESIDE_TICKS = re.compile(r"[^`]+")
TICKS = re.compile(r"`+")
TICKS_AND_LINES = re.compile(r"(`+|\n)")


class CodeInProse:
    """Whether prose, as it is given out, stands within backticks or in a code block, as Markdown has them."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._opened = 0
        self._quoting = (0, False)
        self._fence = ""
        self._ticks = ""
        self._blank = True

    @property
    def fence(self) -> str:
        """What closes the code block or the span that is open; nothing where none is."""
        self._end_ticks()
        return self._fence

    @property
    def in_block(self) -> bool:
        """Whether a code block is open."""
        return len(self.fence) >= len(FENCE)

    @property
    def in_span(self) -> bool:
        """Whether backticks are open, in a line that is not at its beginning."""
        return bool(self.fence) and not self._blank

    @property
    def quotes(self) -> bool:
        """Whether it is known to be closed, so that what stands in it is no call."""
        return bool(self.fence) and self._quoting == (self._opened, True)

    def quotes_tag(self) -> Steps[bool]:
        """Whether the tag that was read is quoted: code is open there, and is closed behind it."""
        if self.in_span and (yield from self._source.peek()) == "`":
            return True
        if self._quoting[0] != self._opened and (self.in_block or self.in_span):
            self._quoting = self._opened, (yield from self._closes())
        return self.quotes

    def take(self, text: str) -> None:
        """The next prose."""
        for part in TICKS_AND_LINES.split(text):
            if part.startswith("`"):
                self._ticks += part
            elif part:
                self._end_ticks()
                self._take_line(part)

    def _take_line(self, part: str) -> None:
        if part != "\n":
            self._blank = self._blank and part.isspace()
            return
        if self._blank and not self.in_block:
            self._fence = ""  # a span ends with its paragraph
        self._blank = True

    def _end_ticks(self) -> None:
        ticks, self._ticks = self._ticks, ""
        if not ticks:
            return
        is_fence = len(ticks) >= len(FENCE)
        if not self._fence and (self._blank or not is_fence):
            self._fence = ticks
            self._opened += 1
        elif is_fence and self._blank if len(self._fence) >= len(FENCE) else ticks == self._fence:
            self._fence = ""
        self._blank = False

    def _closes(self) -> Steps[bool]:
        ahead: list[str] = []
        closes = False
        while not closes and (yield from self._source.peek()):
            ahead.append((yield from self._source.whole(BESIDE_TICKS)))
            ticks = yield from self._source.whole(TICKS)
            in_line = not ahead[-1].endswith("\n")
            closes = len(ticks) >= len(FENCE) and not in_line if self.in_block else ticks == self._fence
            ahead.append(ticks)
        self._source.unread("".join(ahead))
        return closes
