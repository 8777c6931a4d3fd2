"""The value of an argument in Qwen3-Coder's format: mere text, between one line break of the format's and another.

Nothing in a value is escaped, so tags may be a part of it. `</parameter>` ends the value only if another parameter of
the tool, or the end of the function, of the call or of the answer follows. A whole call that stands in a value is a
part of it, and so is an end of a call, if the value goes on to an end behind it.
"""

from __future__ import annotations

import re

from quern.grammar.parameter_types import ParameterTypes
from quern.prompt.tools.protocols import LONGEST_NAME, CallSink, cleaned
from quern.prompt.tools.source import Source, Steps
from quern.prompt.tools.text_as_json import text_as_json

PARAMETER = "<parameter="
PARAMETER_NAMED = "<parameter name="
PARAMETER_END = "</parameter>"
FUNCTION = "<function="
FUNCTION_NAMED = "<function name="
FUNCTION_END = "</function>"
CALL = "<tool_call>"
CALL_END = "</tool_call>"
PARAMETERS = (PARAMETER, PARAMETER_NAMED)
ENDS = (FUNCTION_END, CALL_END)
FUNCTION_MARKERS = (*PARAMETERS, *ENDS)
"""What comes next in a function: another parameter, or its end, or the call's, where the function's is missing."""
TAGS = frozenset({"parameter", "function", "tool_call"})

NAME = re.compile(r"[^<>\n]+")
PLAIN = re.compile(r"[^\r\n<]+")
AHEAD = re.compile(r"[^>=]+|[>=]")
TAIL = re.compile(r"</parameter>\s*(?:</function>|</tool_call>|<parameter=)")
TAIL_OR_END = re.compile(rf"{TAIL.pattern}|</parameter>\s*\Z")
NEXT_CALL = re.compile(r"<tool_call>\s*\{|<function(?:| name)=[^<>\n]+>\s*(?:<parameter[= ]|</function>)")
MOST_AHEAD = 2000
"""Characters that are looked at behind a call's end, to see whether it was one."""


def next_parameter(source: Source, types: ParameterTypes, given: set[str]) -> Steps[tuple[str, str]]:
    """Read white space, and `<parameter=` where the tool has such an argument, which the call does not have yet: return
    that, or nothing, and what was read.
    """
    space = yield from source.space()
    seen = yield from source.marker(PARAMETERS)
    if seen not in PARAMETERS:
        return "", space + seen
    follows = yield from argument_follows(source, types, given)
    return seen if follows else "", space + seen


def argument_follows(source: Source, types: ParameterTypes, given: set[str], *, stated: bool = True) -> Steps[bool]:
    """Whether the name that comes next may be that of an argument of the tool which the call does not have yet.
    `stated`: one that the tool names, or that has its end where the tool names none.
    """
    read = yield from source.whole(NAME, LONGEST_NAME)
    end = yield from source.peek()
    source.unread(read)
    if not end:
        return not stated
    name = read.strip() if types.names(read.strip()) else cleaned(read)
    known = types.names(name) or (types.may_have(name) and (end == ">" or not stated))
    return known and name not in given


class XmlValue:
    """Reads one value, of the argument `name`; the sink gets it as JSON of one of its types.

    `given`: the names of the arguments before it.
    """

    def __init__(self, source: Source, sink: CallSink, types: ParameterTypes, name: str, given: set[str]) -> None:
        self._source = source
        self._sink = sink
        self._types = types
        self._given = given | {name}
        wanted = types.of(name)
        self._is_text = not wanted or "string" in wanted
        self._argument = text_as_json(sink, wanted)
        own = name if name and name not in TAGS else None
        self._own_opening = (f"<{own}>", f"<{own} ") if own else ()
        self._own_end = f"</{own}>" if own else None
        self._ends = (
            PARAMETER_END,
            "</parameter/>",
            f"</parameter={name}>",
            *([self._own_end] if self._own_end else []),
        )
        self._markers = (*self._ends, *self._own_opening, *PARAMETERS, FUNCTION, FUNCTION_NAMED, CALL, *ENDS)
        self.holds_an_end = False
        """Whether a parameter's end begins a line of it, which was taken for a part of it."""
        self.unclosed = False
        """Whether it has no end of its own."""
        self._line_break = "\n"
        self._in_its_lines = True
        self._owned = 0
        self._quoted_functions = 0
        self._quoted_calls = 0

    def read(self) -> Steps[str]:
        """Read it with its end and the next of `FUNCTION_MARKERS`; return that, or nothing at the end of the answer."""
        line_break = yield from self._some_line_break()
        self._line_break = line_break or self._line_break
        self._in_its_lines = line_break == "\n"
        following = None
        at_start = True
        while following is None:
            if plain := (yield from self._source.some(PLAIN)):
                self._argument.add(plain)
            else:
                following = yield from self._end(at_start=at_start)
            at_start = False
        if not self._in_its_lines:
            self._sink.mend()
        self._argument.finish()
        return following

    def _some_line_break(self) -> Steps[str]:
        character = yield from self._source.peek()
        if character not in {"\r", "\n"}:
            return ""
        self._source.skip()
        if character == "\r" and (yield from self._source.peek()) == "\n":
            character += self._source.skip()
        return character

    def _end(self, *, at_start: bool) -> Steps[str | None]:
        """Read the value's end and what follows; None where it was not the end, but more of the value."""
        line_break = yield from self._some_line_break()
        seen = yield from self._source.marker(self._markers)
        if seen not in self._markers and not (yield from self._source.peek()):
            # Cut off. What may be the beginning of the end is taken for it.
            return ""
        if seen not in self._markers or self._is_quoted(seen):
            self._argument.add(line_break + seen)
            return None
        on_its_line = bool(line_break) or at_start or not self._in_its_lines
        if seen in self._ends:
            return (yield from self._after_parameter_end(line_break, seen, on_its_line=on_its_line))
        if seen in ENDS:
            return (yield from self._after_call_end(line_break, seen))
        if seen in PARAMETERS and on_its_line and (yield from self._is_next(stated=True)):
            self._sink.mend()
            self.unclosed = True
            return seen
        self._quoted_functions += seen in {FUNCTION, FUNCTION_NAMED} and (yield from self._function_follows())
        self._argument.add(line_break + seen)
        return None

    def _is_quoted(self, seen: str) -> bool:
        """Whether the tag belongs to a call, or an element, that is a part of the value."""
        if seen == CALL or seen in self._own_opening:
            self._quoted_calls += seen == CALL
            self._owned += seen != CALL
            return True
        if seen == CALL_END and self._quoted_calls:
            self._quoted_calls -= 1
            return True
        if seen == self._own_end and self._owned:
            self._owned -= 1
            return True
        if seen == FUNCTION_END and self._quoted_functions:
            self._quoted_functions -= 1
            return True
        return self._quoted_functions > 0 and seen not in {FUNCTION, FUNCTION_NAMED}

    def _function_follows(self) -> Steps[bool]:
        """Whether after `<function=` a call follows, to which the next end belongs; not just a mention of the tag."""
        read = yield from self._source.whole(NAME, LONGEST_NAME)
        seen = ""
        if (yield from self._source.peek()) == ">":
            read += self._source.skip() + (yield from self._source.space())
            seen = yield from self._source.marker((*PARAMETERS, FUNCTION_END))
        self._source.unread(read + seen)
        return seen in PARAMETERS or seen == FUNCTION_END

    def _is_next(self, *, stated: bool) -> Steps[bool]:
        """Whether the parameter whose name comes next may be the tool's, and is no part of a text."""
        if not self._is_text and not stated:
            return True
        return (yield from argument_follows(self._source, self._types, self._given, stated=stated))

    def _after_parameter_end(self, line_break: str, end: str, *, on_its_line: bool) -> Steps[str | None]:
        if end == self._own_end and not on_its_line:
            self._argument.add(line_break + end)
            return None
        space = yield from self._source.space()
        following = yield from self._source.marker(FUNCTION_MARKERS)
        over = following in FUNCTION_MARKERS or not (yield from self._source.peek())
        if over and following in PARAMETERS:
            over = yield from self._is_next(stated=False)
        if over and following in ENDS and self._is_text:
            over = yield from self._is_over(following)
        if not over:
            self.holds_an_end = self.holds_an_end or bool(line_break)
            return self._more(line_break + end, space, following)
        if end != PARAMETER_END:
            self._sink.mend()
        self._keep_line_break(line_break)
        return following if following in FUNCTION_MARKERS else ""

    def _keep_line_break(self, line_break: str) -> None:
        """The last line break is the format's, if it is of the kind with which the value began."""
        if line_break == "\r\n" and self._line_break == "\n" and self._in_its_lines:
            self._argument.add("\r")
        self._in_its_lines = self._in_its_lines and bool(line_break)

    def _is_over(self, end: str) -> Steps[bool]:
        """Whether the value ends here. It does not if a parameter's end, with what has to follow that, is still to come
        before another call: then the value has a call's end in it. But another argument directly behind a function's
        end is one.
        """
        following, ahead = yield from next_parameter(self._source, self._types, self._given)
        if following and end == FUNCTION_END:
            self._source.unread(ahead)
            return True
        while len(ahead) < MOST_AHEAD and (yield from self._source.peek()):
            ahead += yield from self._source.some(AHEAD, MOST_AHEAD - len(ahead))
            if ahead[-1] in ">=" and (NEXT_CALL.search(ahead) or TAIL.search(ahead)):
                break
        quotes = NEXT_CALL.search(ahead) is None and (TAIL if len(ahead) == MOST_AHEAD else TAIL_OR_END).search(ahead)
        self._source.unread(ahead)
        return not quotes

    def _after_call_end(self, line_break: str, end: str) -> Steps[str | None]:
        """A value without an end of its own ends with its call, if there the answer ends or another call begins."""
        text = line_break + end
        space = yield from self._source.space()
        following = yield from self._source.marker((CALL_END, CALL))
        if following == CALL_END and end == FUNCTION_END:
            text += space + CALL_END
            space = yield from self._source.space()
            following = yield from self._source.marker((CALL,))
        if following == CALL:
            over = yield from self._call_follows()
        else:
            over = following != CALL_END and not (yield from self._source.peek())
        if not over:
            return self._more(text, space, following)
        self._sink.mend()
        self.unclosed = True
        self._source.unread((CALL_END if text != line_break + end else "") + (CALL if following == CALL else ""))
        return end

    def _call_follows(self) -> Steps[bool]:
        """Whether after `<tool_call>` a call follows; not just a mention of the tag."""
        read = yield from self._source.space()
        seen = yield from self._source.marker((FUNCTION, FUNCTION_NAMED, "{"))
        if seen in {FUNCTION, FUNCTION_NAMED}:
            over = yield from self._function_follows()
        else:
            over = seen == "{" or not (yield from self._source.peek())
        self._source.unread(read + seen)
        return over

    def _more(self, text: str, space: str, following: str) -> None:
        """It was not the end; but the end may begin within what was read to find that out."""
        kept = space.removesuffix("\n").removesuffix("\r")
        self._argument.add(text + kept)
        self._source.unread(space[len(kept) :] + following)
