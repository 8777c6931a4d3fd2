"""A call as Qwen2.5 writes it: `{"name": "f", "arguments": {...}}`, and what is written instead: OpenAI's shape around
it, other words for the arguments, or the arguments beside the name.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from functools import partial

from quern.grammar.parameter_types import ParameterTypes, Types
from quern.prompt.tools.coercion import as_json, from_json
from quern.prompt.tools.json_strings import JsonString
from quern.prompt.tools.json_values import QUOTES, JsonValue
from quern.prompt.tools.protocols import LONGEST_NAME, CallSink, NotACallError
from quern.prompt.tools.source import Source, Steps, result_of

ARGUMENTS = frozenset({"arguments", "parameters"})
OTHER_ARGUMENTS = ("input", "args", "params", "kwargs", "tool_input", "action_input")
"""These may as well be an argument's name, which shows only when the call is complete."""
OTHER_NAMES = ("tool_name", "tool", "function_name", "function", "action")
ENVELOPE = frozenset({"id", "type", "index", "call_id", "tool_call_id"})
"""Members of calls in APIs; a tool may have arguments of these names all the same."""
BEGINNING = ARGUMENTS | ENVELOPE | {"name", "function"}
"""All that may stand in what is not marked as a call, before it shows that it is one."""
NO_ARGUMENTS = frozenset({"", "null", "None", "[]"})
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
        self._members: dict[str, str] = {}
        self._types = ParameterTypes({})
        self._given: set[str] = set()
        self._empty = True
        self._slips = slips
        self._open_braces = 1
        self._in_function = False
        self._begun = False
        self._ended = False
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
        while not self._begun:
            yield from self._member()
            if not self._begun and not (yield from self._another_follows()):
                self._call_by_end()
        if self._broken_off or self._given.issuperset(self._types.required):
            self._end()
        yield from self._rest()
        self._end()

    def _member(self) -> Steps[None]:
        """Read a member. If it is the arguments and the name is known, this was the call."""
        key = yield from self._word()
        if (yield from self._source.significant()) != ":":
            raise NotACallError
        self._source.skip()
        if self._known_only and key not in BEGINNING:
            raise NotACallError
        first = yield from self._source.significant()
        if key == "name" and self._name is None and (first in QUOTES or self._known_only):
            self._name = yield from self._word()
            if self._known_only and not self._sink.knows(self._name):
                raise NotACallError
        elif key == "function" and first == "{" and not self._in_function:
            self._in_function = True
            self._slip()
            self._source.skip()
            self._open_braces += 1
            yield from self._member()
        elif self._is_arguments(key) and self._arguments is None:
            self._slips += key != "arguments"
            if self._name is not None:
                yield from self._call_as_it_comes(self._name)
            else:
                self._arguments = yield from self._held_back()
        elif self._known_only and key in ENVELOPE and self._name is None:
            yield from self._word()
        else:
            self._members[key] = yield from self._held_back()

    def _is_arguments(self, key: str) -> bool:
        """In OpenAI's shape around what is not marked as a call, `parameters` are those of a tool that is described."""
        return key == "arguments" if self._known_only and self._in_function else key in ARGUMENTS

    def _another_follows(self) -> Steps[bool]:
        """Read what stands between two members, or closes the call, or only OpenAI's shape within it."""
        closed = False
        while (character := (yield from self._source.significant())) == "}":
            self._source.skip()
            self._open_braces -= 1
            closed = True
            if self._open_braces == 0 or (self._name is not None and self._arguments is not None):
                return False
        if character == ",":
            self._source.skip()
            return True
        if not closed:
            raise NotACallError
        return False

    def _call_as_it_comes(self, name: str) -> Steps[None]:
        character = yield from self._source.significant()
        if character == "{":
            self._begin(name)
            value = self._arguments_from(self._source)
            yield from value.read()
            self._broken_off, self._cut_off = value.broken_off, value.cut_off
            return
        self._slip()
        if character in QUOTES:
            pieces: list[str] = []
            yield from JsonString(self._source, pieces.append, self._slip).read()
            if self._source.exhausted and _unquoted("".join(pieces)) in NO_ARGUMENTS:
                raise NotACallError  # the text may have been cut off
            self._call(name, "".join(pieces))
        elif (yield from self._source.marker(("null",))) == "null":
            self._call(name, "{}")
        else:
            self._call(name, (yield from self._held_back()))

    def _call_by_end(self) -> None:
        """The object has ended, and its arguments came before the name, or under another name, or beside it."""
        if self._known_only:
            raise NotACallError
        name = self._name
        for key in OTHER_NAMES if name is None else ():
            said = json.loads(self._members.get(key, "null"))
            if isinstance(said, str) and self._sink.knows(said):
                name = said
                del self._members[key]
                self._slip()
                break
        if name is None:
            raise NotACallError
        if self._arguments is None:
            self._slip()
            self._arguments = self._arguments_among_members(self._sink.types_of(name))
            self._members.clear()
        else:
            self._slips += self._arguments[:1] != "{"
        self._call(name, self._arguments)

    def _arguments_among_members(self, types: ParameterTypes) -> str:
        for key in OTHER_ARGUMENTS:
            said = _unquoted(self._members.get(key, "0"))
            if (said.startswith("{") or said in NO_ARGUMENTS) and not types.names(key):
                return said
        beside = [(key, said) for key, said in self._members.items() if key not in ENVELOPE or types.names(key)]
        return "{" + ", ".join(f"{as_json(key)}: {said}" for key, said in beside) + "}"

    def _call(self, name: str, arguments: str) -> None:
        """It is a call with these arguments: an object, or a text that has one, or nothing. Else it is none."""
        arguments = _unquoted(arguments)
        if arguments in NO_ARGUMENTS:
            arguments = "{}"
        if not arguments.startswith("{"):
            raise NotACallError
        self._begin(name)
        value = self._arguments_from(Source.of(arguments))
        result_of(value.read())
        self._cut_off = value.cut_off and self._source.exhausted

    def _begin(self, name: str) -> None:
        self._begun = True
        self._types = self._sink.begin(name, self._slips + len(self._members))

    def _end(self) -> None:
        if self._ended:
            return
        for name, said in self._members.items():
            self._add(name, said)
        self._ended = True
        self._sink.write("}")
        self._sink.end(whole=not self._cut_off)

    def _add(self, name: str, said: str) -> None:
        """A member that stood beside the arguments is one of them where the tool has such an argument."""
        if self._types.names(name) and name not in self._given:
            separator = "" if self._empty else ", "
            self._write(f"{separator}{as_json(name)}: {self._coerced(self._types.of(name), said)}")
            self._given.add(name)

    def _write(self, fragment: str) -> None:
        self._empty = self._empty and fragment in {"{", ""}
        self._sink.write(fragment)

    def _arguments_from(self, source: Source) -> JsonValue:
        """Arguments, of which the last brace is not given out: more of them may stand behind it."""
        return JsonValue(source, self._write, self._sink.mend, self._conversion, open_end=True)

    def _conversion(self, name: str, first: str) -> Callable[[str], str] | None:
        self._given.add(name)
        wanted = self._types.of(name)
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
        """Read what follows the arguments: members that mean nothing or should have stood within, and all braces."""
        while True:
            character = yield from self._source.significant()
            if character == "}":
                self._source.skip()
                self._open_braces -= 1
                if self._open_braces == 0:
                    self._end()
                elif self._open_braces < 0:
                    self._sink.mend()
            elif character == "," and self._open_braces > 0:
                self._source.skip()
                self._sink.mend()
                yield from self._surplus_member()
                if not self._ended:
                    self._cut_off = self._source.exhausted
            else:
                break
        if self._open_braces > 0 and not self._broken_off:
            self._sink.mend()

    def _surplus_member(self) -> Steps[None]:
        if (yield from self._source.significant()) not in QUOTES:
            return
        key: list[str] = []
        yield from JsonString(self._source, key.append, self._sink.mend).read()
        if (yield from self._source.significant()) != ":":
            return
        self._source.skip()
        said: list[str] = []
        value = JsonValue(self._source, said.append, self._sink.mend)
        yield from value.read()
        name = json.loads("".join(key))
        if not self._ended:
            self._add(name, "".join(said))

    def _slip(self) -> None:
        self._slips += 1


def _unquoted(text: str) -> str:
    """What is within a JSON string; other JSON as it is."""
    said = json.loads(text) if text.startswith('"') else text
    return said.strip()


def _refuse() -> None:
    raise NotACallError
