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
from quern.prompt.tools.protocols import LONGEST_NAME, CallSink, NotACallError, cleaned
from quern.prompt.tools.source import Source, Steps
from quern.prompt.tools.xml_values import (
    CALL_END,
    FUNCTION_END,
    FUNCTION_MARKERS,
    NAME,
    PARAMETER_NAMED,
    PARAMETERS,
    XmlValue,
)


class XmlCall:
    """Reads one call, of which `<function=` was read. `slips`: how many were mended before."""

    def __init__(self, source: Source, sink: CallSink, *, slips: int) -> None:
        self._source = source
        self._sink = sink
        self._slips = slips
        self._given: set[str] = set()
        self._doubtful = False

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
        while following in PARAMETERS:
            if following == PARAMETER_NAMED:
                self._sink.mend()
            following = yield from self._parameter(types)
        self._sink.write("}" if self._given else "{}")
        # A value that has a parameter's end in it may have swallowed what is missing.
        swallowed = self._doubtful and not self._given.issuperset(types.required)
        for _ in range((following != FUNCTION_END) + swallowed):
            self._sink.mend()
        self._sink.end(whole=following != "")
        if following == CALL_END:
            self._source.unread(CALL_END)

    def _parameter(self, types: ParameterTypes) -> Steps[str]:
        """Read a parameter, of which `<parameter=` was read, and the marker that follows; empty at the end."""
        written = yield from self._name()
        name = written if types.names(written) else cleaned(written)
        if (yield from self._source.peek()) == ">":
            self._source.skip()
            if name != written:
                self._sink.mend()
        else:
            self._sink.mend()
        self._sink.write(f"{', ' if self._given else '{'}{as_json(name)}: ")
        value = XmlValue(self._source, self._sink, types, name, self._given)
        following = yield from value.read()
        self._doubtful = self._doubtful or value.holds_an_end
        self._given.add(name)
        return following

    def _name(self) -> Steps[str]:
        return (yield from self._source.whole(NAME, LONGEST_NAME)).strip()
