"""The value of an argument in Qwen3-Coder's format: mere text, between one line break of the format's and another.

Nothing in a value is escaped, so `</parameter>` may be a part of it. It ends the value only if another parameter, or
the end of the function, of the call or of the answer follows.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Protocol

from quern.grammar.parameter_types import Types
from quern.prompt.tools.coercion import STRING, from_text
from quern.prompt.tools.json_strings import escaped
from quern.prompt.tools.protocols import CallSink
from quern.prompt.tools.source import Source, Steps

PARAMETER = "<parameter="
PARAMETER_END = "</parameter>"
FUNCTION_END = "</function>"
CALL = "<tool_call>"
CALL_END = "</tool_call>"
FUNCTION_MARKERS = (PARAMETER, FUNCTION_END, CALL_END)
"""What comes next in a function: another parameter, or its end, or the call's, where the function's is missing."""

PLAIN = re.compile(r"[^\n<]+")


class XmlValue:
    """Reads one value; the sink gets it as JSON of one of the types."""

    def __init__(self, source: Source, sink: CallSink, types: Types) -> None:
        self._source = source
        self._sink = sink
        self._argument = _argument(sink, types)
        self._in_its_lines = True

    def read(self) -> Steps[str]:
        """Read it with its end and the next of `FUNCTION_MARKERS`; return that, or nothing at the end of the answer."""
        if (yield from self._source.peek()) == "\n":
            self._source.skip()
        else:
            self._in_its_lines = False
        following = None
        while following is None:
            if plain := (yield from self._source.some(PLAIN)):
                self._argument.add(plain)
            else:
                following = yield from self._end()
        if not self._in_its_lines:
            self._sink.mend()
        self._argument.finish()
        return following

    def _end(self) -> Steps[str | None]:
        """Read the value's end and what follows; None where it was not the end, but more of the value."""
        line_break = ""
        if (yield from self._source.peek()) == "\n":
            line_break = self._source.skip()
        seen = yield from self._source.marker((PARAMETER_END, FUNCTION_END))
        if seen == PARAMETER_END:
            return (yield from self._after_parameter_end(line_break))
        if seen == FUNCTION_END:
            return (yield from self._after_function_end(line_break))
        if not (yield from self._source.peek()):
            # Cut off. What may be the beginning of the end is taken for it.
            return ""
        self._argument.add(line_break + seen)
        return None

    def _after_parameter_end(self, line_break: str) -> Steps[str | None]:
        space = yield from self._source.space()
        following = yield from self._source.marker(FUNCTION_MARKERS)
        if following in FUNCTION_MARKERS or not (yield from self._source.peek()):
            self._in_its_lines = self._in_its_lines and bool(line_break)
            return following if following in FUNCTION_MARKERS else ""
        return self._more(line_break + PARAMETER_END, space, following)

    def _after_function_end(self, line_break: str) -> Steps[str | None]:
        """A value without an end of its own ends with its call, if there the answer ends or another call begins."""
        space = yield from self._source.space()
        following = yield from self._source.marker((CALL_END, CALL))
        text = line_break + FUNCTION_END
        if following == CALL_END:
            text += space + CALL_END
            space = yield from self._source.space()
            following = yield from self._source.marker((CALL,))
        if following != CALL and (yield from self._source.peek()):
            return self._more(text, space, following)
        self._sink.mend()
        self._source.unread((CALL_END if text.endswith(CALL_END) else "") + (CALL if following == CALL else ""))
        return FUNCTION_END

    def _more(self, text: str, space: str, following: str) -> None:
        """It was not the end; but the end may begin within what was read to find that out."""
        kept = space.removesuffix("\n")
        self._argument.add(text + kept)
        self._source.unread(space[len(kept) :] + following)


class _Argument(Protocol):
    """Takes a value's text and writes JSON."""

    def add(self, text: str) -> None: ...

    def finish(self) -> None: ...


class _Text:
    """A string, written as it comes; one that may be null instead, as soon as it can't be any more."""

    def __init__(self, write: Callable[[str], None], *, nullable: bool) -> None:
        self._write = write
        self._held: str | None = "" if nullable else None
        if not nullable:
            write('"')

    def add(self, text: str) -> None:
        if self._held is not None:
            self._held += text
            if "null".startswith(self._held):
                return
            self._write('"')
            text, self._held = self._held, None
        self._write(escaped(text))

    def finish(self) -> None:
        if self._held is None:
            self._write('"')
        else:
            self._write("null" if self._held == "null" else f'"{self._held}"')


class _Typed:
    """A value of other types than a string's, which can be read only when it is complete."""

    def __init__(self, sink: CallSink, types: Types) -> None:
        self._sink = sink
        self._types = types
        self._pieces: list[str] = []

    def add(self, text: str) -> None:
        self._pieces.append(text)

    def finish(self) -> None:
        value = from_text("".join(self._pieces), self._types)
        if value.mended:
            self._sink.mend()
        self._sink.write(value.text)


def _argument(sink: CallSink, types: Types) -> _Argument:
    if types <= STRING:
        return _Text(sink.write, nullable=False)
    if types == STRING | {"null"}:
        return _Text(sink.write, nullable=True)
    return _Typed(sink, types)
