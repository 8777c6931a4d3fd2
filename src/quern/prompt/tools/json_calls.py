"""A call as Qwen2.5 writes it: `{"name": "f", "arguments": {...}}`, and what is written instead: OpenAI's shape around
it, other words for the arguments, or the arguments beside the name.
"""

from __future__ import annotations

import json
import re

from quern.prompt.tools.json_arguments import (
    ARGUMENTS,
    ENVELOPE,
    NO_ARGUMENTS,
    GivenArguments,
    among_members,
    is_clear,
    unwrapped,
    within,
)
from quern.prompt.tools.json_strings import BARE_NAME, QUOTES, JsonString, Place, blank, to_call_tag
from quern.prompt.tools.json_values import COLON, JsonValue
from quern.prompt.tools.protocols import LONGEST_NAME, CallSink, NotACallError
from quern.prompt.tools.source import Source, Steps, result_of

OTHER_NAMES = ("tool_name", "tool", "function_name", "function", "action")
AROUND = frozenset({"function", "function_call", "tool_call"})
"""Members whose value may be the call."""
BEGINNING = ARGUMENTS | ENVELOPE | AROUND | {"name"}
"""All that may stand in what is not marked as a call, before it shows that it is one."""
WORD = {quote: re.compile(rf"[^{quote}\\\x00-\x1f]+") for quote in "\"'"}


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
        self._given = GivenArguments(sink)
        self._slips = slips
        self._open_braces = 1
        self._in_function = False
        self._begun = False
        self._ended = False
        self._broken_off = False
        self._cut_off = False
        self._doubtful = False
        self._mends = False

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
        yield from self._rest()
        if self._in_doubt and not self._known_only:
            yield from to_call_tag(self._source)
        self._end()

    def _member(self) -> Steps[None]:
        """Read a member. If it is the arguments and the name is known, this was the call."""
        key = yield from self._word()
        yield from self._colon()
        if self._known_only and key not in BEGINNING:
            raise NotACallError
        first = yield from self._significant()
        if key == "name" and self._name is None and (first in QUOTES or self._known_only):
            self._name = yield from self._tool()
        elif key in AROUND and first == "{" and not self._in_function:
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
            self._doubtful = self._doubtful or key in self._members
            self._members[key] = yield from self._held_back()

    def _tool(self) -> Steps[str]:
        written = yield from self._word()
        name = self._sink.tool_called(written)
        if self._known_only and name is None:
            raise NotACallError
        self._slips += name not in {None, written}
        return name or written

    def _is_arguments(self, key: str) -> bool:
        """In OpenAI's shape around what is not marked as a call, `parameters` are those of a tool that is described."""
        return key == "arguments" if self._known_only and self._in_function else key in ARGUMENTS

    def _another_follows(self) -> Steps[bool]:
        """Read what stands between two members, or closes the call, or only OpenAI's shape within it."""
        closed = False
        while (character := (yield from self._significant())) == "}":
            self._source.skip()
            self._open_braces -= 1
            closed = True
            if self._open_braces == 0 or (self._name is not None and self._arguments is not None):
                return False
        if character == ",":
            self._source.skip()
            return True
        if character in QUOTES and not self._known_only:
            self._slip()
            return True
        if not closed:
            raise NotACallError
        return False

    def _call_as_it_comes(self, name: str) -> Steps[None]:
        character = yield from self._significant()
        if character == "{":
            self._begin(name)
            value = self._given.value_from(self._source, self._mend)
            yield from value.read()
            self._broken_off, self._cut_off = value.broken_off, value.cut_off
            self._doubtful = self._doubtful or value.doubtful
            return
        self._slip()
        if character in QUOTES:
            pieces: list[str] = []
            yield from JsonString(self._source, pieces.append, self._slip).read()
            if self._source.exhausted and unwrapped("".join(pieces)) in NO_ARGUMENTS:
                raise NotACallError  # the text may have been cut off
            self._call(name, "".join(pieces))
        elif (yield from self._source.marker(("null",))) == "null":
            self._call(name, "{}")
        else:
            self._call(name, (yield from self._mended()))

    def _call_by_end(self) -> None:
        """The object has ended, and its arguments came before the name, or under another name, or beside it."""
        if self._known_only:
            raise NotACallError
        name = self._name or self._other_name()
        if self._arguments is None:
            self._slip()
            self._arguments = among_members(self._members, self._sink.types_of(name))
            self._members.clear()
        else:
            self._slips += self._arguments[:1] != "{"
        self._call(name, self._arguments)

    def _other_name(self) -> str:
        """The tool, where no member is called `name`: another member's value, or the name of the only one."""
        for key in OTHER_NAMES:
            said = json.loads(self._members.get(key, "null"))
            if isinstance(said, str) and (name := self._sink.tool_called(said)) is not None:
                del self._members[key]
                self._slip()
                return name
        if len(self._members) == 1 and self._arguments is None:
            ((key, said),) = self._members.items()
            name = self._sink.tool_called(key)
            if name is not None:
                self._members.clear()
                self._arguments = within(said, self._sink.types_of(name))
                self._slip()
                return name
        raise NotACallError

    def _call(self, name: str, arguments: str) -> None:
        """It is a call with these arguments: an object, or a text or a list that has one, or nothing. Else it is none,
        and where it can't be told what is meant by them.
        """
        arguments = unwrapped(arguments)
        if arguments in NO_ARGUMENTS:
            arguments = "{}"
        if not arguments.startswith("{"):
            raise NotACallError
        cut_off = self._source.exhausted
        if not (cut_off or is_clear(arguments, self._sink.types_of(name), mended=self._slips > 0)):
            raise NotACallError
        self._mends = self._mends or self._slips > 0
        self._begin(name)
        value = self._given.value_from(Source.of(arguments), self._mend)
        result_of(value.read())
        self._cut_off = value.cut_off and cut_off
        self._doubtful = self._doubtful or value.doubtful

    def _begin(self, name: str) -> None:
        self._begun = True
        self._given.types = self._sink.begin(name, self._slips + len(self._members))

    def _end(self) -> None:
        if self._ended:
            return
        for name, said in self._members.items():
            self._given.add(name, said)
        self._ended = True
        self._sink.write("}")
        self._sink.end(whole=not self._cut_off and not self._in_doubt)

    @property
    def _in_doubt(self) -> bool:
        """Whether there is no telling what the arguments were meant to be: in mended ones the tool has to know all."""
        return self._doubtful or self._given.twice or (self._mends and not self._given.unmistakable)

    def _word(self) -> Steps[str]:
        """A short string without escapes, as names are; marked as a call, it needs no quotes."""
        quote = yield from self._significant()
        if quote not in WORD:
            return (yield from self._bare_word())
        self._slips += quote == "'"
        self._source.skip()
        word = yield from self._source.whole(WORD[quote], LONGEST_NAME)
        if (yield from self._source.peek()) != quote:
            raise NotACallError
        self._source.skip()
        return word

    def _bare_word(self) -> Steps[str]:
        word = "" if self._known_only else (yield from self._source.whole(BARE_NAME, LONGEST_NAME))
        if not word or not (yield from self._source.peek()):
            raise NotACallError
        self._slip()
        return word

    def _colon(self) -> Steps[None]:
        yield from self._significant()
        colon = yield from self._source.whole(COLON, 1 if self._known_only else 2)
        if colon != ":":
            if self._known_only or not (yield from self._source.peek()):
                raise NotACallError
            self._slip()

    def _significant(self) -> Steps[str]:
        """Read white space, and comments in what is marked as a call, then peek."""
        if self._known_only and not self._begun:
            return (yield from self._source.significant())
        read, endless = yield from blank(self._source)
        if endless and not self._begun:
            raise NotACallError
        if read and not read.isspace():
            (self._mend if self._begun else self._slip)()
            self._doubtful = self._doubtful or endless
        return (yield from self._source.peek())

    def _held_back(self) -> Steps[str]:
        """A value that has to wait for the name."""
        if self._known_only:
            raise NotACallError
        return (yield from self._mended())

    def _mended(self) -> Steps[str]:
        """A value before the call begins. Where it can't be told what is meant by it, this is none."""
        pieces: list[str] = []
        value = JsonValue(self._source, pieces.append, self._slip, place=Place.MEMBER)
        yield from value.read()
        if value.doubtful or value.broken_off:
            raise NotACallError
        return "".join(pieces)

    def _rest(self) -> Steps[None]:
        """Read what follows the arguments: members that mean nothing or should have stood within, and all braces."""
        while True:
            character = yield from self._significant()
            missing = self._open_braces > 0 or not self._given.complete
            if character == "}":
                self._source.skip()
                self._open_braces -= 1
                if self._open_braces == 0 and self._given.complete and not self._in_doubt:
                    self._end()
                elif self._open_braces < 0:
                    self._sink.mend()
            elif character and (character == "," or character in WORD) and missing and not self._ended:
                if character == ",":
                    self._source.skip()
                self._sink.mend()
                yield from self._surplus_member()
                self._cut_off = self._cut_off or self._source.exhausted
            else:
                break
        if self._open_braces > 0 and not self._broken_off:
            self._sink.mend()

    def _surplus_member(self) -> Steps[None]:
        character = yield from self._significant()
        if character not in WORD:
            self._doubtful = self._doubtful or character not in {"", "}", "<", "`"}
            return
        key: list[str] = []
        yield from JsonString(self._source, key.append, self._mend, Place.KEY).read()
        yield from self._significant()
        name = json.loads("".join(key))
        if (yield from self._source.whole(COLON, 2)) != ":":
            self._mend()
            self._doubtful = self._doubtful or not self._given.types.names(name)
        said: list[str] = []
        value = JsonValue(
            self._source, said.append, self._mend, may_have=self._given.types.may_have, place=Place.MEMBER
        )
        yield from value.read()
        self._doubtful = self._doubtful or value.doubtful
        self._given.add(name, "".join(said))

    def _mend(self) -> None:
        self._mends = True
        self._sink.mend()

    def _slip(self) -> None:
        self._slips += 1
