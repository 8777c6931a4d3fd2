"""A call as Qwen3-Coder writes it.

<function=NAME>
<parameter=KEY>
VALUE
</parameter>
</function>
"""

from __future__ import annotations

from quern.grammar.parameter_types import ParameterTypes
from quern.prompt.tools.coercion import as_json
from quern.prompt.tools.json_strings import to_call_tag
from quern.prompt.tools.protocols import FENCE, LONGEST_NAME, NAME_LIKE, CallSink, NotACallError, cleaned, plausible
from quern.prompt.tools.source import Source, Steps
from quern.prompt.tools.xml_values import (
    CALL,
    CALL_END,
    FUNCTION,
    FUNCTION_END,
    FUNCTION_MARKERS,
    NAME,
    PARAMETER_NAMED,
    PARAMETERS,
    XmlValue,
    next_parameter,
)

NO_PARAMETERS = (CALL, CALL_END, FUNCTION, FUNCTION_END, FENCE)
"""Behind a function that has none."""


class XmlCall:
    """Reads one call, of which `<function=` was read. `slips`: how many were mended before."""

    def __init__(self, source: Source, sink: CallSink, *, slips: int) -> None:
        self._source = source
        self._sink = sink
        self._slips = slips
        self._given: set[str] = set()
        self._doubtful = False
        self._holds_an_end = False

    def read(self) -> Steps[None]:
        """Read the call with its end. Raises NotACallError while it may be prose."""
        written = yield from self._name()
        name = self._sink.tool_called(written) or cleaned(written)
        if not name or (yield from self._source.peek()) != ">":
            raise NotACallError
        self._slips += name != written
        self._source.skip()
        yield from self._source.space()
        following = yield from self._source.marker(FUNCTION_MARKERS)
        if following not in FUNCTION_MARKERS:
            raise NotACallError
        types = self._sink.begin(name, self._slips)
        following = yield from self._parameters(types, following)
        if following != FUNCTION_END:
            self._sink.mend()
        # A value that has a parameter's end in it may have swallowed what is missing.
        missing = not self._given.issuperset(types.required)
        if self._doubtful or (missing and (self._holds_an_end or (yield from self._stands_behind(following)))):
            self._sink.mend()
            self._doubtful = True
        if following == CALL_END:
            self._source.unread(CALL_END)
        if self._doubtful:
            yield from to_call_tag(self._source)
        self._sink.write("}" if self._given else "{}")
        self._sink.end(whole=following != "" and not self._doubtful)

    def _parameters(self, types: ParameterTypes, following: str) -> Steps[str]:
        """Read the parameters that follow; return the marker behind them."""
        while True:
            if following == FUNCTION_END:
                following = yield from self._after_function_end(types)
            if following not in PARAMETERS:
                return following
            if following == PARAMETER_NAMED:
                self._sink.mend()
            following = yield from self._parameter(types)

    def _after_function_end(self, types: ParameterTypes) -> Steps[str]:
        """Where another parameter of the tool follows, the function's end came too soon: read on to that."""
        following, read = yield from next_parameter(self._source, types, self._given)
        if following:
            self._sink.mend()
            return following
        self._source.unread(read)
        return FUNCTION_END

    def _stands_behind(self, following: str) -> Steps[bool]:
        """Whether there is text behind a function without any parameters, which may be what they should have been."""
        if self._given or following != FUNCTION_END:
            return False
        space = yield from self._source.space()
        seen = yield from self._source.marker(NO_PARAMETERS)
        stands_behind = seen not in NO_PARAMETERS and bool((yield from self._source.peek()))
        self._source.unread(space + seen)
        return stands_behind

    def _parameter(self, types: ParameterTypes) -> Steps[str]:
        """Read a parameter, of which `<parameter=` was read, and the marker that follows; empty at the end."""
        written = yield from self._name()
        name = written if types.names(written) else cleaned(written)
        if (yield from self._source.peek()) == ">":
            self._source.skip()
            mended = name != written
        else:
            mended = True
        if mended:
            self._sink.mend()
        known = plausible(name, types) if mended else types.may_have(name) or NAME_LIKE.fullmatch(name)
        self._doubtful = self._doubtful or not known or name in self._given
        self._sink.write(f"{', ' if self._given else '{'}{as_json(name)}: ")
        value = XmlValue(self._source, self._sink, types, name, self._given)
        following = yield from value.read()
        self._holds_an_end = self._holds_an_end or value.holds_an_end
        self._doubtful = self._doubtful or (value.holds_an_end and value.unclosed)
        self._given.add(name)
        return following

    def _name(self) -> Steps[str]:
        return (yield from self._source.whole(NAME, LONGEST_NAME)).strip()
