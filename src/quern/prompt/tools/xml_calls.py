"""A call as Qwen3-Coder writes it.

<function=NAME>
<parameter=KEY>
VALUE
</parameter>
</function>
"""

from __future__ import annotations

import re

from quern.grammar.parameter_types import ParameterTypes
from quern.prompt.tools.coercion import as_json
from quern.prompt.tools.protocols import LONGEST_NAME, CallSink, NotACallError
from quern.prompt.tools.source import Source, Steps
from quern.prompt.tools.xml_values import CALL_END, FUNCTION_END, FUNCTION_MARKERS, PARAMETER, XmlValue

FUNCTION = "<function="
NAME = re.compile(r"[^<>\n]+")


class XmlCall:
    """Reads one call, of which `<function=` was read. `slips`: how many were mended before."""

    def __init__(self, source: Source, sink: CallSink, *, slips: int) -> None:
        self._source = source
        self._sink = sink
        self._slips = slips
        self._separator = "{"

    def read(self) -> Steps[None]:
        """Read the call with its end. Raises NotACallError while it may be prose."""
        name = yield from self._name()
        if not name or (yield from self._source.peek()) != ">":
            raise NotACallError
        self._source.skip()
        yield from self._source.space()
        following = yield from self._source.marker(FUNCTION_MARKERS)
        if following not in FUNCTION_MARKERS:
            raise NotACallError
        types = self._sink.begin(name, self._slips)
        while following == PARAMETER:
            following = yield from self._parameter(types)
        self._sink.write("{}" if self._separator == "{" else "}")
        if following != FUNCTION_END:
            self._sink.mend()
        self._sink.end(whole=following != "")
        if following == CALL_END:
            self._source.unread(CALL_END)

    def _parameter(self, types: ParameterTypes) -> Steps[str]:
        """Read a parameter, of which `<parameter=` was read, and the marker that follows; empty at the end."""
        name = yield from self._name()
        if (yield from self._source.peek()) == ">":
            self._source.skip()
        else:
            self._sink.mend()
        self._sink.write(f"{self._separator}{as_json(name)}: ")
        self._separator = ", "
        return (yield from XmlValue(self._source, self._sink, types.of(name)).read())

    def _name(self) -> Steps[str]:
        return (yield from self._source.whole(NAME, LONGEST_NAME)).strip()
