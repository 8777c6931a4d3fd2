"""A JSON string as a model writes it, read while it arrives and given out as valid JSON.

Beyond JSON: other quotes, Python's triple quotes and raw strings, quotes and line breaks that should be escaped,
escapes that JSON does not know, comments behind it. All of these were seen in answers of small models, or are what they
copy from Python. Half a character (`\\ud83d` without the other half), which JSON knows and UTF-8 does not, becomes
U+FFFD.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from enum import Enum

from quern.prompt.tools.protocols import LONGEST_NAME
from quern.prompt.tools.source import Source, Steps

QUOTES = {'"': '"', "'": "'", "`": "`", "“": "”", "”": "”", "‘": "’", "’": "’"}
"""What begins a string, and what then ends it."""
TRIPLED = frozenset("\"'")
PLAIN = {quote: re.compile(rf'[^{quote}"\\\x00-\x1f]+') for quote in QUOTES.values()}
ESCAPES = frozenset('"\\/bfnrt')
FIRST_HALVES, SECOND_HALVES = range(0xD800, 0xDC00), range(0xDC00, 0xE000)
REPLACEMENT = "\ufffd"
HEX_DIGITS = frozenset("0123456789abcdefABCDEF")
BARE_NAME = re.compile(r"[\w$.-]+")
QUOTED_NAME = re.compile(r"[^\"'`“”‘’<>\n\\]+")
CLOSINGS = re.compile(r"[\s}\]]+")
COMMENTS = ("//", "#", "/*")
LINE = re.compile(r"[^\n<]+")
BLOCK = re.compile(r"[^*<]+")
LONGEST_COMMENT = 1000
"""Characters; what goes on for longer has no end, since behind every quote it is looked whether there is one."""
BEFORE_TAG = re.compile(r"[^<]+")
CALL_TAGS = ("</tool_call>", "<tool_call>")


def escaped(text: str) -> str:
    """Text as the inside of a JSON string."""
    return json.dumps(text, ensure_ascii=False)[1:-1]


def blank(source: Source, *, before_value: bool = False) -> Steps[tuple[str, bool]]:
    """Read white space and comments; return it, and whether a comment has no end before the call's or the answer's.

    `before_value`: a value without quotes may come, so that a comment needs white space after its mark.
    """
    read = yield from source.space()
    while (mark := (yield from source.marker(COMMENTS))) in COMMENTS:
        if before_value and not (yield from source.peek()).isspace():
            break
        begun = len(read)
        read += mark
        while (character := (yield from source.peek())) and (mark == "/*" or character != "\n"):
            if len(read) - begun > LONGEST_COMMENT or (character == "<" and (yield from call_tag_follows(source))):
                return read, True
            piece = (yield from source.some(BLOCK if mark == "/*" else LINE, LONGEST_COMMENT)) or source.skip()
            read += piece
            if piece == "*" and (yield from source.peek()) == "/":
                read += source.skip()
                break
        if not character:
            return read, True
        read += yield from source.space()
    source.unread(mark)
    return read, False


def call_tag_follows(source: Source) -> Steps[bool]:
    """Whether a call's tag comes next, or the end of the answer within one."""
    seen = yield from source.marker(CALL_TAGS)
    follows = seen in CALL_TAGS or not (yield from source.peek())
    source.unread(seen)
    return follows


def to_call_tag(source: Source) -> Steps[None]:
    """Read up to the next tag of a call, or to the answer's end: of a call that is not whole, all is its text."""
    while (yield from source.peek()):
        if not (yield from source.some(BEFORE_TAG)):
            if (yield from call_tag_follows(source)):
                return
            source.skip()


class Place(Enum):
    """Where a string stands."""

    KEY = "a member's name"
    MEMBER = "a member's value"
    ITEM = "in an array"
    ALONE = "in nothing"


class JsonString:
    """Reads one string, whose opening quote comes next; `write` gets it, with its quotes, in pieces of valid JSON.

    `mend` is called once for a string in which anything had to be mended. A name ends with its next quote. Any other
    string may have quotes in it that should have been escaped: it ends where the JSON around it goes on. Once there was
    such a quote, a comma goes on only before a member whose name `may_follow`, and a bracket only where all ends.
    `raw`: backslashes are themselves.
    """

    def __init__(
        self,
        source: Source,
        write: Callable[[str], None],
        mend: Callable[[], None],
        place: Place = Place.ALONE,
        may_follow: Callable[[str], bool] = bool,
        *,
        raw: bool = False,
    ) -> None:
        self._source = source
        self._write_further = write
        self._mend = mend
        self._place = place
        self._may_follow = may_follow
        self._raw = raw
        self._mended = False
        self._has_quotes = False
        self._quote = ""
        self._first_half = ""

    def read(self) -> Steps[None]:
        """Read it to its closing quote, or to the end of the answer."""
        opening = self._source.skip()
        self._quote = QUOTES[opening]
        if opening != '"':
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
        if empty and self._quote in TRIPLED and (yield from self._source.peek()) == self._quote:
            self._source.skip()
            yield from self._triple()
            return True
        if self._place is Place.KEY:
            return True
        read, endless = yield from blank(self._source)
        closes = endless or (yield from self._goes_on(read))
        space = read[: len(read) - len(read.lstrip())]
        self._source.unread(read[len(space) :])
        if not closes:
            self._slip()
            self._has_quotes = True
            self._write(escaped(self._quote + space))
        return closes

    def _goes_on(self, read: str) -> Steps[bool]:
        """Whether behind the string and what was read the JSON goes on, or ends."""
        character = yield from self._source.peek()
        if not character or (character == "<" and (yield from call_tag_follows(self._source))):
            return True
        if character in "}]":
            return not self._has_quotes or (yield from self._all_ends())
        if character in ",;":
            if character == "," and (not self._has_quotes or self._place is Place.ALONE):
                return True
            self._source.skip()
            follows = yield from self._another_follows("\n")
            self._source.unread(character)
            return follows
        if character == "`" and "\n" in read:
            return True
        return bool(read) and (yield from self._another_follows(read))

    def _all_ends(self) -> Steps[bool]:
        closings = yield from self._source.whole(CLOSINGS)
        character = yield from self._source.peek()
        self._source.unread(closings)
        return not character or character in ",<`"

    def _another_follows(self, read: str) -> Steps[bool]:
        """Whether a member, or in an array an item, comes next, behind what was read."""
        space, _ = yield from blank(self._source)
        character = yield from self._source.peek()
        if self._place is Place.MEMBER:
            seen, follows = yield from self._name_follows(character, bare="\n" in read + space)
        else:
            seen, follows = "", character in QUOTES and (self._place is Place.ITEM or "\n" in read)
            follows = follows and not (self._has_quotes and character != '"')
        self._source.unread(space + seen)
        return follows or not character

    def _name_follows(self, character: str, *, bare: bool) -> Steps[tuple[str, bool]]:
        """Read a member's name; return what was read, and whether it was one."""
        if character in QUOTES:
            opening = self._source.skip()
            name = yield from self._source.whole(QUOTED_NAME, LONGEST_NAME)
            read = opening + name
            if (yield from self._source.peek()) != QUOTES[opening]:
                return read, not (yield from self._source.peek())
            read += self._source.skip()
        elif bare:
            read = name = yield from self._source.whole(BARE_NAME, LONGEST_NAME)
        else:
            return "", False
        read += (yield from blank(self._source))[0]
        character = yield from self._source.peek()
        return read, bool(name) and (not character or (character in ":=" and self._may_follow(name)))

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
        if character == "\\" and not self._raw:
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
