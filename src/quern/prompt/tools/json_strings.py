"""A JSON string as a model writes it, read while it arrives and given out as valid JSON.

Beyond JSON: single quotes, Python's triple quotes, quotes and line breaks that should have been escaped, escapes that
JSON does not know. All of these were seen in answers of small models, or are what they copy from Python. Half a
character (`\\ud83d` without the other half), which JSON knows and UTF-8 does not, becomes U+FFFD.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable

from quern.prompt.tools.source import Source, Steps

PLAIN = {quote: re.compile(rf'[^{quote}"\\\x00-\x1f]+') for quote in "\"'"}
ESCAPES = frozenset('"\\/bfnrt')
FIRST_HALVES, SECOND_HALVES = range(0xD800, 0xDC00), range(0xDC00, 0xE000)
REPLACEMENT = "\ufffd"
HEX_DIGITS = frozenset("0123456789abcdefABCDEF")
FOLLOWS_A_STRING = frozenset(",:}]")
CALL_TAGS = ("</tool_call>", "<tool_call>")


def escaped(text: str) -> str:
    """Text as the inside of a JSON string."""
    return json.dumps(text, ensure_ascii=False)[1:-1]


class JsonString:
    """Reads one string, whose opening quote comes next; `write` gets it, with its quotes, in pieces of valid JSON.

    `mend` is called once for a string in which anything had to be mended.
    """

    def __init__(self, source: Source, write: Callable[[str], None], mend: Callable[[], None]) -> None:
        self._source = source
        self._write_further = write
        self._mend = mend
        self._mended = False
        self._quote = ""
        self._first_half = ""

    def read(self) -> Steps[None]:
        """Read it to its closing quote, or to the end of the answer."""
        self._quote = self._source.skip()
        if self._quote == "'":
            self._slip()
        self._write('"')
        yield from self._content()
        self._write('"')

    def _content(self) -> Steps[None]:
        empty = True
        while True:
            if plain := (yield from self._source.some(PLAIN[self._quote])):
                self._write(plain)
            elif not (character := (yield from self._source.peek())):
                self._slip()
                return
            elif character == self._quote:
                if (yield from self._closed(empty)):
                    return
            else:
                yield from self._special(character)
            empty = False

    def _closed(self, empty: bool) -> Steps[bool]:
        """Read a quote; whether it closes the string. If not, it was part of the content."""
        self._source.skip()
        space = yield from self._source.space()
        character = yield from self._source.peek()
        if not character or character in FOLLOWS_A_STRING:
            return True
        if character == self._quote and empty and not space:
            self._source.skip()
            yield from self._triple()
            return True
        if "\n" in space and character in "\"'`":
            return True
        if character == "<" and (yield from self._call_tag_follows()):
            return True
        self._slip()
        self._write(escaped(self._quote + space))
        return False

    def _call_tag_follows(self) -> Steps[bool]:
        seen = yield from self._source.marker(CALL_TAGS)
        follows = seen in CALL_TAGS or not (yield from self._source.peek())
        self._source.unread(seen)
        return follows

    def _triple(self) -> Steps[None]:
        """Read a string's content after three quotes, up to the next three."""
        self._slip()
        quotes = 0
        while quotes < 3:
            if plain := (yield from self._source.some(PLAIN[self._quote])):
                self._write(escaped(self._quote * quotes) + plain)
                quotes = 0
            elif not (character := (yield from self._source.peek())):
                return
            elif character == self._quote:
                self._source.skip()
                quotes += 1
            else:
                self._write(escaped(self._quote * quotes))
                quotes = 0
                yield from self._special(character)

    def _special(self, character: str) -> Steps[None]:
        if character == "\\":
            self._source.skip()
            yield from self._escape()
            return
        if character != '"':
            self._slip()
        self._write(escaped(self._source.skip()))

    def _escape(self) -> Steps[None]:
        character = yield from self._source.peek()
        if not character:
            return
        if character in ESCAPES:
            self._write("\\" + self._source.skip())
        elif character == "u":
            self._source.skip()
            yield from self._code_point()
        elif character == "'":
            self._slip()
            self._write(self._source.skip())
        else:
            self._slip()
            self._write("\\\\")

    def _code_point(self) -> Steps[None]:
        digits = ""
        while len(digits) < 4 and (yield from self._source.peek()) in HEX_DIGITS:
            digits += self._source.skip()
        if len(digits) == 4:
            self._write_code_unit(digits)
        elif (yield from self._source.peek()):
            self._slip()
            self._write("\\\\u" + digits)

    def _write_code_unit(self, digits: str) -> None:
        """Write one of UTF-16. The first half of a character is held back for the second."""
        unit = int(digits, 16)
        if unit in SECOND_HALVES and self._first_half:
            first_half, self._first_half = self._first_half, ""
            self._write(f"\\u{first_half}\\u{digits}")
        elif unit in FIRST_HALVES:
            if self._first_half:
                self._write_further(REPLACEMENT)
            self._first_half = digits
        else:
            self._write(REPLACEMENT if unit in SECOND_HALVES else f"\\u{digits}")

    def _write(self, text: str) -> None:
        if self._first_half and text:
            self._first_half = ""
            text = REPLACEMENT + text
        self._write_further(text)

    def _slip(self) -> None:
        if not self._mended:
            self._mended = True
            self._mend()
