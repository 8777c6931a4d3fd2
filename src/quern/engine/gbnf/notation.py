"""GBNF, llama.cpp's notation of grammars: its parts as text, in what its parser takes.

Source: llama.cpp, grammars/README.md and src/llama-grammar.cpp. That parser silently drops an upper bound of more than
2000, refuses a repetition that multiplies what is repeated beyond that, and refuses rules that begin with themselves.
So larger counts are split into blocks here, and what is repeated is always a rule of its own.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence

from quern.errors import InvalidRequest

BLOCK = 1000
MOST_RULES = 20_000
MOST_REPETITIONS = 50_000
MOST_WORK = 200_000
"""For the automata of all patterns; one has half of it at most."""
MOST_BYTES = 2**20
MOST_FORKS = 50
NOTHING = '""'
QUOTE = r'"\""'

BUILT_IN = {
    "space": r'| " " | "\n" [ \t]{0,20}',
    "char": r'[ !#-\[\]-~\x80-\uD7FF\uE000-\U0010FFFF] | "\\" (["\\bfnrt] | "u" unit)',
    "unit": "([0-9a-cA-CefEF] [0-9a-fA-F] | [dD] [0-7]) [0-9a-fA-F]{2}",
    "string": r'"\"" char* "\""',
    "number": '"-"? ("0" | [1-9] [0-9]{0,15}) ("." [0-9]{1,16})? ([eE] [-+]? [0-9]{1,2})?',
    "boolean": '"true" | "false"',
    "null": '"null"',
    "member": 'string ":" space value',
    "object": '"{" space (member ("," space member)* space)? "}"',
    "array": '"[" space (value ("," space value)* space)? "]"',
    "value": "object | array | string | number | boolean | null",
}
r"""JSON itself. Whitespace is bounded, or a model may never stop writing it. A character of a string is one code point
however it is written: half a surrogate pair, `\ud83d`, is none.
"""

_NAME = re.compile(r"[a-z0-9-]+")


class Rules:
    """The rules of one grammar. Raises InvalidRequest where they become too many."""

    def __init__(self) -> None:
        self._bodies: dict[str, str] = dict(BUILT_IN)
        self._names: dict[str, str] = {}
        self._repeated: dict[tuple[str, int, int | None], str] = {}
        self._repetitions = 0
        self._work = 0

    def add(self, body: str) -> str:
        """A rule with this body: its name."""
        if _NAME.fullmatch(body):
            return body
        if body not in self._names:
            self._names[body] = self.reserve()
            self._bodies[self._names[body]] = body
        return self._names[body]

    def reserve(self) -> str:
        """A name whose rule is defined later."""
        name = f"r{len(self._bodies)}"
        self._bodies[name] = NOTHING
        if len(self._bodies) > MOST_RULES:
            raise too_large()
        return name

    def define(self, name: str, body: str) -> None:
        """Give a reserved name its rule."""
        self._bodies[name] = body

    def include(self, bodies: Mapping[str, str], work: int = 0) -> None:
        """Take rules that have names of their own. `work`: what it took to make them."""
        if not bodies.keys() <= self._bodies.keys():
            self._work += work
        self._bodies |= bodies
        if len(self._bodies) > MOST_RULES or self._work > MOST_WORK:
            raise too_large()

    def repeat(self, item: str, low: int, high: int | None) -> str:
        """A rule: from `low` to `high` times (None: any number) an item that can't be empty."""
        item = self.add(item)
        if (item, low, high) not in self._repeated:
            more = f"{item}*" if high is None else self._up_to(item, high - low)
            self._repeated[item, low, high] = self.add(f"{self._exactly(item, low)} {more}")
        return self._repeated[item, low, high]

    def text(self, root: str) -> str:
        """The grammar, which begins with the rule `root`."""
        text = "\n".join(f"{name} ::= {body}" for name, body in [("root", root), *self._bodies.items()]) + "\n"
        if len(text.encode()) > MOST_BYTES:
            raise too_large()
        return text

    def _exactly(self, item: str, count: int) -> str:
        blocks, left = divmod(count, BLOCK)
        whole = self._exactly(self.add(f"{item}{{{self._count(BLOCK)}}}"), blocks) if blocks else NOTHING
        return f"{whole} {item}{{{self._count(left)}}}" if left else whole

    def _up_to(self, item: str, count: int) -> str:
        if not count:
            return NOTHING
        blocks, left = divmod(count, BLOCK)
        if blocks < 2:
            return f"{item}{{0,{self._count(count)}}}"
        block = self.add(f"{item}{{{self._count(BLOCK)}}}")
        # One block less, and a rest of up to that much more: so no count is left out.
        return f"{self._up_to(block, blocks - 1)} {item}{{0,{self._count(BLOCK + left)}}}"

    def _count(self, repetitions: int) -> int:
        self._repetitions += repetitions
        if self._repetitions > MOST_REPETITIONS:
            raise too_large()
        return repetitions


def too_large() -> InvalidRequest:
    """What is asked for would be too large a grammar."""
    return InvalidRequest(
        "This JSON schema makes a grammar that is too large for llama.cpp: it has too many parts, or repeats them too "
        "often. Make it smaller, lower its maxLength and maxItems, or serve the model with the engine cpu."
    )


def literal(text: str) -> str:
    """Exactly this text."""
    return '"' + "".join(map(_escaped, text)) + '"'


def one_of(ranges: Iterable[tuple[int, int]]) -> str:
    """One code point of these ranges, both ends included."""
    parts = (_escaped(chr(first)) + (f"-{_escaped(chr(last))}" if last > first else "") for first, last in ranges)
    return f"[{''.join(parts)}]"


def either(alternatives: Sequence[str]) -> str:
    """One of these, as one part of a sequence."""
    return alternatives[0] if len(alternatives) == 1 else f"({' | '.join(alternatives)})"


def one_text_of(texts: Sequence[str], depth: int = 0) -> str:
    """One of these texts, all different, as one part of a sequence.

    What they begin with alike is there once: llama.cpp tries each way that is open with the whole vocabulary.
    """
    if len(texts) == 1 or depth > MOST_FORKS:
        return either([literal(text) for text in texts])
    first, last = min(texts), max(texts)
    differing = (at for at, (one, other) in enumerate(zip(first, last, strict=False)) if one != other)
    shared = first[: next(differing, len(first))]
    rests: dict[str, list[str]] = {}
    for text in texts:
        rests.setdefault(text[len(shared) :][:1], []).append(text[len(shared) :])
    forks = either([one_text_of(rest, depth + 1) for rest in rests.values()])
    return f"{literal(shared)} {forks}" if shared else forks


def _escaped(character: str) -> str:
    code = ord(character)
    if character.isascii() and (character.isalnum() or character in " _:,.{}<>=/'"):
        return character
    if code < 0x100:
        return f"\\x{code:02X}"
    return f"\\u{code:04X}" if code < 0x10000 else f"\\U{code:08X}"
