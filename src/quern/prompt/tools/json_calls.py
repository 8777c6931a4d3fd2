"""A call as Qwen2.5 writes it: `{"name": "f", "arguments": {...}}`."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from functools import partial

from quern.grammar.parameter_types import ParameterTypes, Types
from quern.prompt.tools.coercion import from_json
from quern.prompt.tools.json_strings import JsonString
from quern.prompt.tools.json_values import QUOTES, JsonValue
from quern.prompt.tools.protocols import LONGEST_NAME, CallSink, NotACallError
from quern.prompt.tools.source import Source, Steps, result_of

ARGUMENTS = frozenset({"arguments", "parameters"})
WORD = {quote: re.compile(rf"[^{quote}\\\x00-\x1f]+") for quote in "\"'"}
KINDS = {"{": "object", "[": "array", '"': "string", "'": "string"}


class JsonCall:
    """Reads one call, whose opening brace comes next.

    `slips`: how many were mended before. `known_only`: it is a call only if its tool is known and it begins with the
    name and the arguments; that is for objects that the model did not mark as calls.
    """

    def __init__(self, source: Source, sink: CallSink, *, slips: int, known_only: bool) -> None:
        self._source = source
        self._sink = sink
        self._known_only = known_only
        self._name: str | None = None
        self._arguments: str | None = None
        self._slips = slips
        self._open_braces = 1
        self._broken_off = False
        self._cut_off = False

    def read(self) -> Steps[None]:
        """Read the call, and closing braces that it has too many. Raises NotACallError while it may be prose."""
        self._source.skip()
        if (yield from self._source.significant()) == "{":
            # The chat template of Qwen2.5-Coder-1.5B shows the format with doubled braces.
            self._source.skip()
            self._open_braces += 1
            self._slip()
        while not (yield from self._call_by_member()):
            character = yield from self._source.significant()
            if character not in {",", "}"}:
                raise NotACallError
            self._source.skip()
            if character == "}":
                self._open_braces -= 1
                self._call_by_end()
                break
        self._sink.end(whole=not self._cut_off)
        yield from self._rest()

    def _call_by_member(self) -> Steps[bool]:
        """Read a member; whether it was the arguments and the name is known, so that this was the call."""
        key = yield from self._word()
        if (yield from self._source.significant()) != ":":
            raise NotACallError
        self._source.skip()
        if key == "name" and self._name is None:
            self._name = yield from self._word()
            if self._known_only and not self._sink.knows(self._name):
                raise NotACallError
            return False
        if key in ARGUMENTS and self._arguments is None:
            self._slips += key != "arguments"
            if self._name is not None:
                yield from self._call_as_it_comes(self._name)
                return True
            self._arguments = yield from self._held_back()
            return False
        yield from self._held_back()
        self._slip()
        return False

    def _call_as_it_comes(self, name: str) -> Steps[None]:
        character = yield from self._source.significant()
        if character == "{":
            value = self._arguments_from(self._source, self._sink.begin(name, self._slips))
            yield from value.read()
            self._broken_off, self._cut_off = value.broken_off, value.cut_off
            return
        self._slip()
        if character in QUOTES:
            pieces: list[str] = []
            yield from JsonString(self._source, pieces.append, self._slip).read()
            self._call(name, json.loads("".join(pieces)))
        elif (yield from self._source.marker(("null",))) == "null":
            self._call(name, "{}")
        else:
            raise NotACallError

    def _call_by_end(self) -> None:
        """The object has ended, and its arguments came before the name or not at all."""
        if self._name is None or self._known_only:
            raise NotACallError
        if self._arguments is None:
            self._slip()
            self._arguments = "{}"
        self._call(self._name, self._arguments)

    def _call(self, name: str, arguments: str) -> None:
        arguments = arguments.lstrip()
        if not arguments.startswith("{"):
            raise NotACallError
        types = self._sink.begin(name, self._slips)
        value = self._arguments_from(Source.of(arguments), types)
        result_of(value.read())
        self._cut_off = value.cut_off and self._source.exhausted

    def _arguments_from(self, source: Source, types: ParameterTypes) -> JsonValue:
        return JsonValue(source, self._sink.write, self._sink.mend, partial(self._conversion, types))

    def _conversion(self, types: ParameterTypes, name: str, first: str) -> Callable[[str], str] | None:
        wanted = types.of(name)
        return None if not wanted or KINDS.get(first) in wanted else partial(self._coerced, wanted)

    def _coerced(self, wanted: Types, text: str) -> str:
        value = from_json(text, wanted)
        if value.mended:
            self._sink.mend()
        return value.text

    def _word(self) -> Steps[str]:
        """A short string without escapes, as names are."""
        quote = yield from self._source.significant()
        if quote not in QUOTES:
            raise NotACallError
        self._slips += quote == "'"
        self._source.skip()
        word = yield from self._source.whole(WORD[quote], LONGEST_NAME)
        if (yield from self._source.peek()) != quote:
            raise NotACallError
        self._source.skip()
        return word

    def _held_back(self) -> Steps[str]:
        """A value that has to wait for the name. It has to be right, since what may be prose is not mended."""
        if self._known_only:
            raise NotACallError
        pieces: list[str] = []
        yield from JsonValue(self._source, pieces.append, _refuse).read()
        return "".join(pieces)

    def _rest(self) -> Steps[None]:
        """Read what follows the arguments: members that mean nothing, and all closing braces."""
        while True:
            character = yield from self._source.significant()
            if character == "}":
                self._source.skip()
                self._open_braces -= 1
                if self._open_braces < 0:
                    self._sink.mend()
            elif character == "," and self._open_braces > 0:
                self._source.skip()
                self._sink.mend()
                yield from self._surplus_member()
            else:
                break
        if self._open_braces > 0 and not self._broken_off:
            self._sink.mend()

    def _surplus_member(self) -> Steps[None]:
        if (yield from self._source.significant()) not in QUOTES:
            return
        yield from JsonString(self._source, _drop, self._sink.mend).read()
        if (yield from self._source.significant()) == ":":
            self._source.skip()
            yield from JsonValue(self._source, _drop, self._sink.mend).read()

    def _slip(self) -> None:
        self._slips += 1


def _refuse() -> None:
    raise NotACallError


def _drop(_text: str) -> None:
    """Nobody wants it."""
