"""An answer of a model that may call tools: what of it is prose, and where the calls are.

A call is `<tool_call>`, the call itself in the model's format, `</tool_call>`. Small models often write it without the
tags, in a code block or in tags of their own invention; then it counts at a line's start, and in JSON only if there is
such a tool. White space around calls and their tags means nothing.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from quern.events import AnswerEvent, ArgumentsDelta, CallEnded, CallStarted, TextDelta
from quern.grammar.parameter_types import ParameterTypes
from quern.grammar.tool_calls import ToolFormat
from quern.prompt.tools.code_in_prose import CodeInProse
from quern.prompt.tools.json_calls import JsonCall
from quern.prompt.tools.protocols import FENCE, LONGEST_NAME, AnswerParser, NotACallError, cleaned, merged
from quern.prompt.tools.scraps import loose_end, scrap
from quern.prompt.tools.source import Source, Steps
from quern.prompt.tools.surroundings import INVENTED_TAGS, LIST, LIST_ENDS, LISTED, Surroundings
from quern.prompt.tools.xml_calls import XmlCall
from quern.prompt.tools.xml_values import CALL, CALL_END, FUNCTION, FUNCTION_END, FUNCTION_NAMED, PARAMETER_END
from quern.types import Tool

PROSE = re.compile(r"[^\s<{`]+")
INFO_STRING = re.compile(r"[\w-]+")
LIST_NAMES = ('tool_calls"', 'function_calls"', 'calls"')
OPENINGS = ("<tool_call", "<function", "<parameter")
SCRAPS = frozenset("/>")
LIST_MARKS = frozenset(",]}")
SEPARATOR = re.compile(r"[.:/]+")
ONE = re.compile(r".", re.DOTALL)
BLANKS = re.compile(r"[ \t]+")


def answer_parser(
    format: ToolFormat,  # noqa: A002
    tools: Sequence[Tool],
    call_id: Callable[[int], str],
    *,
    opened: bool = False,
) -> AnswerParser:
    """A parser for one answer. `call_id` gives a call's id by its index; `opened`: the prompt ends with `OPENING`."""
    return CallFinder(tools, call_id, bare_json=format is ToolFormat.JSON, opened=opened)


class CallFinder:
    """An `AnswerParser` for both formats, and the `CallSink` of its calls.

    `bare_json`: an object at a line's start may be a call; else `<function=` may. After `<tool_call>` both may be one.
    `opened`: the answer begins after `<tool_call>`, which the prompt ends with. `call_id`: the id of the answer's call
    with this index.
    """

    def __init__(self, tools: Sequence[Tool], call_id: Callable[[int], str], *, bare_json: bool, opened: bool) -> None:
        self._call_id = call_id
        self._types = {tool.name: ParameterTypes(tool.parameters) for tool in tools}
        self._tools = {tool.name: tool for tool in tools}
        self._bare_json = bare_json
        self._opened = opened
        self._around = Surroundings(demanded=opened)
        self._source = Source()
        self._steps = self._answer()
        self._events: list[AnswerEvent] = []
        self._space: list[str] = []
        self._at_line_start = True
        self._after_call = False
        self._calls = 0
        self._repairs = 0
        self._cut_off = False
        self._code = CodeInProse(self._source)
        self._tag_in_prose = False

    @property
    def repairs(self) -> int:
        """See AnswerParser."""
        return self._repairs

    def push(self, text: str) -> list[AnswerEvent]:
        """See AnswerParser."""
        self._source.push(text)
        return self._advance()

    def finish(self) -> list[AnswerEvent]:
        """See AnswerParser."""
        self._source.end()
        return self._advance()

    def tool_called(self, written: str) -> str | None:
        """See CallSink. Models put what they take for the tools' group before a name: `functions.write`."""
        if written in self._tools:
            return written
        name = cleaned(written)
        parts = [name, *(name[separator.end() :] for separator in SEPARATOR.finditer(name))]
        return next((part for part in parts if part in self._tools), None)

    def types_of(self, name: str) -> ParameterTypes:
        """See CallSink."""
        return self._types.get(name) or ParameterTypes({})

    def begin(self, name: str, slips: int) -> ParameterTypes:
        """See CallSink. In a code block it may be an example, so there the tool has to be known."""
        if self._around.in_code_block and name not in self._tools:
            raise NotACallError
        self._repairs += slips + self._around.enter()
        self._space.clear()
        self._after_call = self._at_line_start = True
        self._tag_in_prose = False
        tool = self._tools.get(name) or Tool(name)
        self._events.append(CallStarted(self._calls, self._call_id(self._calls), name, tool.kind, tool.namespace))
        return self.types_of(name)

    def write(self, fragment: str) -> None:
        """See CallSink."""
        if fragment:
            self._events.append(ArgumentsDelta(self._calls, fragment))

    def mend(self) -> None:
        """See CallSink. All that the end of the answer cuts off is one slip."""
        at_end = self._source.exhausted
        self._repairs += not (at_end and self._cut_off)
        self._cut_off = at_end

    def end(self, *, whole: bool) -> None:
        """See CallSink."""
        self._events.append(CallEnded(self._calls, whole, None if whole else self._source.recorded()))
        self._calls += 1

    def _advance(self) -> list[AnswerEvent]:
        next(self._steps, None)
        events, self._events = self._events, []
        return merged(events)

    def _answer(self) -> Steps[None]:
        if self._opened:
            yield from self._attempt()
        while character := (yield from self._source.peek()):
            if character.isspace():
                self._hold_back((yield from self._source.space()))
            elif self._may_begin_call(character):
                yield from self._attempt()
            else:
                self._give_out((yield from self._source.some(PROSE)) or self._source.skip())
        if not self._after_call:
            self._events += [TextDelta(space) for space in self._space if space]
        elif self._around.lacks_end:
            self.mend()

    def _may_begin_call(self, character: str) -> bool:
        if character in {"{", "["} and self._at_line_start and not self._code.in_block and not self._code.quotes:
            return self._bare_json or self._around.in_call_tag
        if character in LIST_MARKS:
            return self._after_call and self._around.in_list
        if character in SCRAPS:
            return self._after_call
        return character == "<" or (character == "`" and self._at_line_start)

    def _attempt(self) -> Steps[None]:
        """Read a call with its opening, or a closing after a call; or prose, which is given out unchanged."""
        self._source.record()
        self._around.try_opening()
        try:
            while (yield from self._opened_further()):
                pass
        except NotACallError:
            self._give_out(self._source.recorded() or (yield from self._source.some(ONE)))
        else:
            self._source.recorded()

    def _opened_further(self) -> Steps[bool]:
        """Read the next part; whether more of the opening, or the call, has to follow."""
        space = yield from self._source.space()
        self._at_line_start = self._at_line_start or "\n" in space
        character = yield from self._source.peek()
        if character == "`" and (not self._around.tried or "\n" in space):
            return (yield from self._fence())
        if character in LIST_MARKS and self._after_call and self._around.in_list and not self._around.tried:
            return (yield from self._list_goes_on())
        if character in {"{", "["} and (self._bare_json or self._around.in_call_tag):
            return (yield from self._json())
        return (yield from self._tag(character))

    def _tag(self, character: str) -> Steps[bool]:
        """Read a tag of calls, with the call in it, or what is left of one."""
        if not character and self._after_call and self._around.tried and not self._around.opening:
            self._repairs += self._around.take_scraps()
            return False
        markers = self._markers()
        marker = yield from self._source.marker(markers)
        if marker not in markers:
            self._source.unread(marker)
            return (yield from self._scrap())
        if not marker.startswith("</") and not self._around.in_call_tag and (yield from self._code.quotes_tag()):
            raise NotACallError
        if marker in {FUNCTION, FUNCTION_NAMED}:
            slips = int(self._bare_json) + (marker == FUNCTION_NAMED)
            yield from XmlCall(self._source, self, slips=slips).read()
            return False
        if marker.startswith("</"):
            self._repairs += self._around.close(marker.replace("</", "<")) + self._around.take_scraps()
            self._repairs += yield from loose_end(self._source)
            return False
        return self._around.add(marker)

    def _scrap(self) -> Steps[bool]:
        if self._code.in_block or self._code.in_span:
            raise NotACallError
        if not (yield from scrap(self._source, any_tag=self._after_call or self._around.tried)):
            raise NotACallError
        self._around.add_scrap()
        return True

    def _json(self) -> Steps[bool]:
        """Read the beginning of a list of calls, or a call."""
        if (yield from self._list_begins()):
            return True
        slips = int(not self._bare_json)
        yield from JsonCall(self._source, self, slips=slips, known_only=not self._around.in_call_tag).read()
        return False

    def _markers(self) -> list[str]:
        """The tags that may come next."""
        around = self._around
        markers = [CALL]
        if self._at_line_start or around.tried:
            markers += INVENTED_TAGS
        if around.in_call_tag or (self._at_line_start and not self._bare_json):
            markers += [FUNCTION, FUNCTION_NAMED]
        if around.opening:
            return markers
        if self._after_call:
            markers += [tag.replace("<", "</") for tag in INVENTED_TAGS if around.closes(tag)]
        if self._after_call or (
            self._calls and self._at_line_start and not self._tag_in_prose and not self._code.fence
        ):
            # What is left of a call's tags is no prose.
            markers += [CALL_END] if self._bare_json else [CALL_END, FUNCTION_END, PARAMETER_END]
        return list(dict.fromkeys(markers))

    def _list_begins(self) -> Steps[bool]:
        """Read the beginning of a list of calls, if one is next and not a call; of an array, or a message with one."""
        read = self._source.skip()
        part = LIST
        if read == "{":
            part = LISTED
            for markers in (('"',), LIST_NAMES, (":",), ("[",)):
                space = yield from self._source.space()
                marker = yield from self._source.marker(markers)
                read += space + marker
                if marker not in markers:
                    self._source.unread(read)
                    return False
        if (yield from self._source.significant()) != "{" or self._around.in_list:
            raise NotACallError
        self._around.add(part)
        return True

    def _list_goes_on(self) -> Steps[bool]:
        """Read the comma before another call of a list, or an end of it."""
        mark = self._source.skip()
        if mark == ",":
            return (yield from self._source.significant()) in {"{", "]"}
        self._repairs += self._around.close(LIST_ENDS[mark])
        return False

    def _fence(self) -> Steps[bool]:
        """Read the line that opens a code block, or the one that closes the block around a call."""
        if self._code.in_block or (yield from self._source.marker((FENCE,))) != FENCE:
            raise NotACallError
        character = yield from self._source.peek()
        if self._around.closes(FENCE) and not self._around.opening and not character.isalnum() and character != "`":
            self._around.close(FENCE)
            return False
        yield from self._source.whole(INFO_STRING, LONGEST_NAME)
        yield from self._source.whole(BLANKS, LONGEST_NAME)
        if (yield from self._source.peek()) != "\n" or not self._around.add(FENCE):
            raise NotACallError
        return True

    def _hold_back(self, space: str) -> None:
        self._at_line_start = self._at_line_start or "\n" in space
        self._code.take(space)
        if not self._after_call:
            self._space.append(space)

    def _give_out(self, text: str) -> None:
        """It is prose. White space at its end is held back, as a call may follow."""
        self._repairs += self._around.leave()
        self._after_call = False
        self._code.take(text)
        self._tag_in_prose = self._tag_in_prose or text.startswith(OPENINGS)
        prose = text.rstrip()
        if prose:
            self._events += [TextDelta(space) for space in self._space if space]
            self._events.append(TextDelta(prose))
            self._space = []
        self._space.append(text[len(prose) :])
        lines = text.rpartition("\n")
        self._at_line_start = (self._at_line_start or bool(lines[1])) and not lines[2].strip()
