"""A JSON value as a model writes it, read while it arrives and given out as valid JSON.

Any text is a value to this reader: whatever JSON does not allow is mended, and where it stops making sense the value is
closed. Given out is what `json.dumps(..., ensure_ascii=False)` would write: the model's white space is not kept, so
that the arguments of a call look the same when they come back as history.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable

from quern.prompt.tools.json_scalars import is_json, is_literal, mended
from quern.prompt.tools.json_strings import BARE_NAME, QUOTES, JsonString, Place, blank
from quern.prompt.tools.protocols import FENCE, LONGEST_NAME
from quern.prompt.tools.source import Source, Steps

CLOSING = {"{": "}", "[": "]"}
TAGS = ("</", "<tool_call>")
"""Outside strings these, and the end of a code block, end a value that lacks its brackets."""

BARE = re.compile(r'[^,:{}\[\]"<`\n]+')
BARE_KEY = re.compile(r"[^\s,;:={}\[\]\"'<`]+")
BARE_END = re.compile(r"(?<!\s)\s+(?:(?://|/\*|#).*)?$")
COLON = re.compile(r"[:=>]+")
PREFIX = re.compile(r"[rRbBuUfF]+")
DEEPEST = 200
"""Containers in each other; Python's own JSON parser gives up at some hundreds."""

Write = Callable[[str], None]
Convert = Callable[[str, str], Callable[[str], str] | None]
"""Given a member's name and the first character of its value: how to convert the value's text; None to leave it."""


class JsonValue:
    """Reads one value; `write` gets it in pieces of valid JSON, `mend` is called for each slip.

    `convert` is asked about each member of the outermost object, of which `may_have` tells what names there may be. A
    value that is converted is given out when it is complete. With `open_end` the outermost closing bracket is not given
    out. `place`: where the value itself stands.

    Afterwards `broken_off` tells whether closing brackets were missing, `cut_off` whether because the source ended, and
    `doubtful` whether something was mended of which there is no telling what was meant: a member without a value, text
    that belongs to nothing.
    """

    def __init__(
        self,
        source: Source,
        write: Write,
        mend: Callable[[], None],
        convert: Convert | None = None,
        *,
        may_have: Callable[[str], bool] = bool,
        place: Place = Place.ALONE,
        open_end: bool = False,
    ) -> None:
        self._source = source
        self._write = write
        self._mend = mend
        self._convert = convert
        self._may_have = may_have
        self._place = place
        self._open_end = open_end
        self._closing: list[str] = []
        self._counts: list[int] = []
        self._name = ""
        self._after_comma = False
        self._after_comment = False
        self.broken_off = False
        self.cut_off = False
        self.doubtful = False

    def read(self) -> Steps[None]:
        """Read the value and the white space before it; nothing after it."""
        state: _State | None = self._value
        while state is not None:
            state = yield from state()

    def _value(self) -> Steps[_State | None]:
        character = yield from self._significant(before_value=True)
        in_array = self._closing[-1:] == ["]"]
        if not character or character in "<`":
            if (yield from self._ends()):
                return self._break_off(missing=not in_array)
            self.doubtful = self.doubtful or character == "<"
        if character in ",:}]":
            return self._no_value(character, in_array)
        if in_array:
            self._separate()
        self._after_comma = False
        if self._convert is not None and self._closing == ["}"]:
            convert = self._convert(self._name, character)
            if convert is not None:
                yield from self._converted(convert)
                return self._after
        return (yield from self._any_value(character))

    def _any_value(self, character: str) -> Steps[_State | None]:
        if character in CLOSING:
            if len(self._closing) == DEEPEST:
                return self._break_off(missing=True)
            self._write(self._source.skip())
            self._closing.append(CLOSING[character])
            self._counts.append(0)
            return self._key if character == "{" else self._value
        if character in QUOTES:
            yield from self._string()
        else:
            yield from self._bare()
        return self._after if self._closing else None

    def _string(self, *, raw: bool = False) -> Steps[None]:
        place, may_follow = self._place, self._may_have
        if self._closing:
            place = Place.MEMBER if self._closing[-1] == "}" else Place.ITEM
            may_follow = self._may_have if len(self._closing) == 1 else bool
        yield from JsonString(self._source, self._write, self._mend, place, may_follow, raw=raw).read()

    def _bare(self) -> Steps[None]:
        """Read a value without quotes; after the prefix of a string in Python, the string."""
        prefix = yield from self._source.whole(PREFIX, 2)
        if (yield from self._source.peek()) in QUOTES:
            self._mend()
            yield from self._string(raw="r" in prefix.lower())
            return
        self._source.unread(prefix)
        text = yield from self._source.whole(BARE)
        if not text:
            text = self._source.skip()
        elif end := BARE_END.search(text):
            self._source.unread(text[end.start() :])
            text = text[: end.start()]
        words = text.split()
        if self._closing[-1:] == ["]"] and all(map(is_literal, words)):
            for word in words[:-1]:
                self._mend()
                self._write(self._scalar(word))
                self._separate()
            text = words[-1]
        self._write(self._scalar(text))

    def _converted(self, convert: Callable[[str], str]) -> Steps[None]:
        pieces: list[str] = []
        value = JsonValue(self._source, pieces.append, self._mend, may_have=self._may_have, place=Place.MEMBER)
        yield from value.read()
        self.doubtful = self.doubtful or value.doubtful
        self._write(convert("".join(pieces)))

    def _no_value(self, character: str, in_array: bool) -> _State | None:
        if in_array and character in "}]":
            return self._close()
        self._mend()
        if in_array:
            self._source.skip()
            return self._value
        self._invent()
        return self._after if self._closing else None

    def _key(self) -> Steps[_State | None]:
        character = yield from self._significant()
        if not character or character in "<`":
            if (yield from self._ends()):
                return self._break_off()
            if character == "<":
                self._doubt()
                return self._break_off()
        if character in "}]":
            return self._close()
        if character in ",:{[=;":
            self._mend()
            self.doubtful = self.doubtful or character not in ",{"
            self._source.skip()
            return self._key
        pieces: list[str] = []
        if character in QUOTES:
            yield from JsonString(self._source, pieces.append, self._mend, Place.KEY).read()
        else:
            self._mend()
            pieces.append(json.dumps((yield from self._source.whole(BARE_KEY)), ensure_ascii=False))
        return (yield from self._colon("".join(pieces), quoted=character in QUOTES))

    def _colon(self, key: str, *, quoted: bool) -> Steps[_State | None]:
        character = yield from self._significant()
        if not character:
            return self._break_off()
        self._separate()
        self._write(f"{key}: ")
        if len(self._closing) == 1:
            self._name = json.loads(key)
        colon = yield from self._source.whole(COLON, 2)
        if colon != ":":
            self._mend()
            self.doubtful = self.doubtful or not (colon or quoted)
        return self._value

    def _after(self) -> Steps[_State | None]:
        character = yield from self._significant()
        in_object = self._closing[-1] == "}"
        if character and character in "}]":
            return self._close()
        if character and character in ",;":
            if character == ";":
                self._mend()
            self._source.skip()
            self._after_comma = True
        elif (character == "`" or not character or character == "<") and (yield from self._ends()):
            return self._break_off()
        elif character in QUOTES or (yield from self._unquoted_follows(in_object)):
            self._mend()
        elif character == ":":
            self._mend()
            self._doubt()
            self._source.skip()
            return self._after
        else:
            self._doubt()
            return self._break_off()
        return self._key if in_object else self._value

    def _unquoted_follows(self, in_object: bool) -> Steps[bool]:
        """Whether, without a comma, a member whose name has no quotes follows, or in an array a container or number."""
        if not in_object:
            character = yield from self._source.peek()
            return character in CLOSING or character.isdigit() or character == "-"
        name = yield from self._source.whole(BARE_NAME, LONGEST_NAME)
        space = yield from self._source.space()
        character = yield from self._source.peek()
        self._source.unread(name + space)
        return bool(name) and (not character or character in ":=")

    def _ends(self) -> Steps[bool]:
        """Whether a tag, the end of a code block or of the answer comes next."""
        seen = yield from self._source.marker((*TAGS, FENCE))
        ends = seen in {*TAGS, FENCE} or not (yield from self._source.peek())
        self._source.unread(seen)
        return ends

    def _significant(self, *, before_value: bool = False) -> Steps[str]:
        """Read white space and comments, then peek."""
        read, endless = yield from blank(self._source, before_value=before_value)
        self._after_comment = not read.isspace() and bool(read)
        if self._after_comment:
            self._mend()
        self.doubtful = self.doubtful or endless
        return (yield from self._source.peek())

    def _close(self) -> _State | None:
        """Read a closing bracket. One that closes an outer container closes the inner ones; others mean nothing."""
        bracket = self._source.skip()
        if self._after_comma or bracket != self._closing[-1]:
            self._mend()
        self._after_comma = False
        while bracket in self._closing:
            self._counts.pop()
            closed = self._closing.pop()
            self._write_closing([closed])
            if closed == bracket:
                break
        return self._after if self._closing else None

    def _break_off(self, *, missing: bool = False) -> None:
        """End the value here. What a comment may have swallowed is in doubt."""
        self._mend()
        self.doubtful = self.doubtful or self._after_comment
        if missing:
            self._invent()
        closing, self._closing = self._closing[::-1], []
        self._write_closing(closing)
        self.broken_off = True
        self.cut_off = self._source.exhausted

    def _doubt(self) -> None:
        self.doubtful = True

    def _write_closing(self, brackets: list[str]) -> None:
        """Write brackets that were closed, inner ones first."""
        if self._open_end and not self._closing:
            brackets = brackets[:-1]
        self._write("".join(brackets))

    def _invent(self) -> None:
        self._write("null")
        self._doubt()

    def _separate(self) -> None:
        if self._counts[-1]:
            self._write(", ")
        self._counts[-1] += 1
        self._after_comma = False

    def _scalar(self, text: str) -> str:
        if is_json(text):
            return text
        self._mend()
        return mended(text)


_State = Callable[[], Steps["_State | None"]]
