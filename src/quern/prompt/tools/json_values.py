"""A JSON value as a model writes it, read while it arrives and given out as valid JSON.

Any text is a value to this reader: whatever JSON does not allow is mended, and where it stops making sense the value is
closed. Given out is what `json.dumps(..., ensure_ascii=False)` would write: the model's white space is not kept, so
that the arguments of a call look the same when they come back as history.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable

from quern.prompt.tools.json_strings import JsonString
from quern.prompt.tools.source import Source, Steps

CLOSING = {"{": "}", "[": "]"}
QUOTES = frozenset("\"'")
STOPS = frozenset("<`")
"""Outside strings these begin no JSON: the value is broken off before a tag or the end of a code block."""

BARE = re.compile(r'[^,:{}\[\]"<`\n]+')
NUMBER = re.compile(r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?")
LITERALS = frozenset({"true", "false", "null"})
PYTHON_LITERALS = {"True": "true", "False": "false", "None": "null"}
DEEPEST = 200
"""Containers in each other; Python's own JSON parser gives up at some hundreds."""
LONGEST_NUMBER = 1000
"""Characters; Python refuses integers of more than 4300 digits."""

Write = Callable[[str], None]
Convert = Callable[[str, str], Callable[[str], str] | None]
"""Given a member's name and the first character of its value: how to convert the value's text; None to leave it."""


class JsonValue:
    """Reads one value; `write` gets it in pieces of valid JSON, `mend` is called for each slip.

    `convert` is asked about each member of the outermost object. A value that is converted is given out when it is
    complete. With `open_end` the outermost closing bracket is not given out. Afterwards `broken_off` tells whether
    closing brackets were missing, `cut_off` whether because the source ended, and `invented` whether a member had no
    value and got null.
    """

    def __init__(
        self,
        source: Source,
        write: Write,
        mend: Callable[[], None],
        convert: Convert | None = None,
        *,
        open_end: bool = False,
    ) -> None:
        self._source = source
        self._write = write
        self._mend = mend
        self._convert = convert
        self._open_end = open_end
        self._closing: list[str] = []
        self._counts: list[int] = []
        self._name = ""
        self._after_comma = False
        self.broken_off = False
        self.cut_off = False
        self.invented = False

    def read(self) -> Steps[None]:
        """Read the value and the white space before it; nothing after it."""
        state: _State | None = self._value
        while state is not None:
            state = yield from state()

    def _value(self) -> Steps[_State | None]:
        character = yield from self._source.significant()
        in_array = self._closing[-1:] == ["]"]
        if not character or character in STOPS:
            return self._break_off(missing=not in_array)
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
            yield from JsonString(self._source, self._write, self._mend).read()
        else:
            self._write(self._scalar((yield from self._source.whole(BARE)).rstrip()))
        return self._after if self._closing else None

    def _converted(self, convert: Callable[[str], str]) -> Steps[None]:
        pieces: list[str] = []
        value = JsonValue(self._source, pieces.append, self._mend)
        yield from value.read()
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
        character = yield from self._source.significant()
        if not character or character in STOPS:
            return self._break_off()
        if character in "}]":
            return self._close()
        if character in ",:{[":
            self._mend()
            self._source.skip()
            return self._key
        pieces: list[str] = []
        if character in QUOTES:
            yield from JsonString(self._source, pieces.append, self._mend).read()
        else:
            self._mend()
            pieces.append(json.dumps((yield from self._source.whole(BARE)).rstrip(), ensure_ascii=False))
        return (yield from self._colon("".join(pieces)))

    def _colon(self, key: str) -> Steps[_State | None]:
        character = yield from self._source.significant()
        if not character:
            return self._break_off()
        self._separate()
        self._write(f"{key}: ")
        if len(self._closing) == 1:
            self._name = json.loads(key)
        if character == ":":
            self._source.skip()
        else:
            self._mend()
        return self._value

    def _after(self) -> Steps[_State | None]:
        character = yield from self._source.significant()
        if character and character in "}]":
            return self._close()
        if character == ",":
            self._source.skip()
            self._after_comma = True
        elif character in QUOTES:
            self._mend()
        elif character == ":":
            self._mend()
            self._source.skip()
            return self._after
        else:
            return self._break_off()
        return self._key if self._closing[-1] == "}" else self._value

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
        self._mend()
        if missing:
            self._invent()
        closing, self._closing = self._closing[::-1], []
        self._write_closing(closing)
        self.broken_off = True
        self.cut_off = self._source.exhausted

    def _write_closing(self, brackets: list[str]) -> None:
        """Write brackets that were closed, inner ones first."""
        if self._open_end and not self._closing:
            brackets = brackets[:-1]
        self._write("".join(brackets))

    def _invent(self) -> None:
        self._write("null")
        self.invented = True

    def _separate(self) -> None:
        if self._counts[-1]:
            self._write(", ")
        self._counts[-1] += 1
        self._after_comma = False

    def _scalar(self, text: str) -> str:
        if text in LITERALS or _is_number(text):
            return text
        self._mend()
        if text in PYTHON_LITERALS:
            return PYTHON_LITERALS[text]
        return _python_number(text) or json.dumps(text, ensure_ascii=False)


_State = Callable[[], Steps["_State | None"]]


def _is_number(text: str) -> bool:
    return len(text) <= LONGEST_NUMBER and NUMBER.fullmatch(text) is not None and math.isfinite(float(text))


def _python_number(text: str) -> str | None:
    """A number that Python reads and JSON does not: `+1`, `.5`, `007`, `1_000`, `0x1F`; None where it is none."""
    if len(text) > LONGEST_NUMBER:
        return None
    for base in (0, 10):
        try:
            return str(int(text, base))
        except ValueError:
            continue
    try:
        number = float(text)
    except ValueError:
        return None
    return repr(number) if math.isfinite(number) else None
