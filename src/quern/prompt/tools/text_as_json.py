"""An argument whose value is mere text, written as JSON of one of its types while the text arrives."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from quern.grammar.parameter_types import Types
from quern.prompt.tools.coercion import STRING, from_text
from quern.prompt.tools.json_strings import escaped
from quern.prompt.tools.protocols import CallSink


class TextAsJson(Protocol):
    """Takes an argument's text and writes JSON."""

    def add(self, text: str) -> None:
        """The next piece of the text."""
        ...

    def finish(self) -> None:
        """The text is complete."""
        ...


def text_as_json(sink: CallSink, types: Types) -> TextAsJson:
    """What writes an argument of these types to the sink."""
    if types <= STRING:
        return _Text(sink.write, nullable=False)
    if types == STRING | {"null"}:
        return _Text(sink.write, nullable=True)
    return _Typed(sink, types)


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
