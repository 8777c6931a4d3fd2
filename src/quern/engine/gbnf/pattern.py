"""Regular expressions of JSON schemas, as GBNF of what stands between the quotes of a JSON string.

What is read is what ECMA-262 and Python's `re` understand alike. A digit, a letter and a space (the classes d, w and s)
are ASCII, as in ECMA-262, and so are their opposites: some validators count other scripts' among the first, others
among the second.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from hashlib import sha256

from quern.engine.gbnf.automaton import (
    ANYTHING,
    Characters,
    Expression,
    automaton,
    choice,
    concatenation,
    repetition,
)
from quern.engine.gbnf.characters import ALL, ASCII, Ranges, joined, without, written
from quern.engine.gbnf.notation import NOTHING

DIGITS: Ranges = ((0x30, 0x39),)
WORDS: Ranges = ((0x30, 0x39), (0x41, 0x5A), (0x5F, 0x5F), (0x61, 0x7A))
SPACES: Ranges = ((0x09, 0x0D), (0x20, 0x20))
LINE_ENDS: Ranges = ((0x0A, 0x0A), (0x0D, 0x0D), (0x2028, 0x2029))
KINDS = {"d": DIGITS, "w": WORDS, "s": SPACES}
CONTROLS = {"t": 0x09, "n": 0x0A, "v": 0x0B, "f": 0x0C, "r": 0x0D}
LONGEST = 500
MOST_GROUPS = 30
KEPT = 64
_COUNTS = re.compile(r"\{([0-9]+)(,([0-9]*))?\}")


@dataclass(frozen=True, slots=True)
class PatternRules:
    """Rules by name, and the one to begin with. Those of different patterns have different names. `work`: see
    `Automaton`.
    """

    first: str
    bodies: Mapping[str, str]
    work: int


@lru_cache(KEPT)
def pattern_rules(patterns: tuple[str, ...], low: int = 0, high: int | None = None) -> PatternRules:
    """The strings of `low` to `high` characters in which every pattern is found, as JSON writes them without quotes.

    Raises ValueError with what can't be said, as the end of a sentence.
    """
    expressions = [_read(pattern) for pattern in patterns]
    if low or high is not None:
        expressions.append(repetition(Characters(ALL), low, high))
    found = automaton(expressions)
    name = f"p{sha256(repr((patterns, low, high)).encode()).hexdigest()[:16]}-"
    bodies = {
        f"{name}{number}": " | ".join(
            [*(f"{written(ranges)} {name}{after}" for ranges, after in state.ways), *([NOTHING] if state.ends else [])]
        )
        for number, state in enumerate(found.states)
    }
    return PatternRules(f"{name}0", bodies, found.work)


def _read(pattern: str) -> Expression:
    if len(pattern) > LONGEST:
        msg = f"it is longer than {LONGEST} characters"
        raise ValueError(msg)
    reader = _Reader(pattern)
    expression = reader.branches(outermost=True)
    if not reader.over:
        msg = "it has a closing parenthesis too many"
        raise ValueError(msg)
    return expression


class _Reader:
    """Recursive descent over one pattern."""

    def __init__(self, pattern: str) -> None:
        self._pattern = pattern
        self._at = 0
        self._depth = 0

    @property
    def over(self) -> bool:
        return self._at == len(self._pattern)

    def branches(self, *, outermost: bool) -> Expression:
        """Alternatives, up to the end or a closing parenthesis."""
        branches = [self._branch(outermost=outermost)]
        while self._take("|"):
            branches.append(self._branch(outermost=outermost))
        return choice(branches)

    def _branch(self, *, outermost: bool) -> Expression:
        parts: list[Expression] = [ANYTHING] if outermost and not self._take("^") else []
        while not self._ends():
            if outermost and self._take("$"):
                if not self._ends():
                    raise _unsupported("`$` before its end")
                return concatenation(parts)
            parts.append(self._quantified(self._atom()))
        return concatenation([*parts, ANYTHING] if outermost else parts)

    def _ends(self) -> bool:
        return self.over or self._next in "|)"

    @property
    def _next(self) -> str:
        return self._pattern[self._at : self._at + 1]

    def _take(self, text: str) -> bool:
        found = self._pattern.startswith(text, self._at)
        if found:
            self._at += len(text)
        return found

    def _atom(self) -> Expression:
        if self._take("("):
            return self._group()
        if self._take("["):
            return _characters(self._class())
        if self._take("."):
            return Characters(without(ALL, LINE_ENDS))
        if self._next in "^$":
            raise _unsupported(f"`{self._next}` inside of it")
        if self._next in "*+?{":
            raise _unsupported(f"`{self._next}` with nothing before it to repeat")
        if (kind := self._kind()) is not None:
            return Characters(kind)
        code = self._point()
        return _characters(joined([(code, code)]))

    def _group(self) -> Expression:
        if self._take("?") and not self._take(":"):
            raise _unsupported(f"`(?{self._next}`")
        self._depth += 1
        if self._depth > MOST_GROUPS:
            raise _unsupported(f"more than {MOST_GROUPS} groups inside of each other")
        branches = self.branches(outermost=False)
        self._depth -= 1
        if not self._take(")"):
            msg = "a closing parenthesis is missing"
            raise ValueError(msg)
        return branches

    def _quantified(self, part: Expression) -> Expression:
        low, high = 1, 1
        if self._take("*"):
            low, high = 0, None
        elif self._take("+"):
            low, high = 1, None
        elif self._take("?"):
            low, high = 0, 1
        elif self._next == "{":
            low, high = self._counts()
        else:
            return part
        self._take("?")
        if not self.over and self._next in "*+?{":
            raise _unsupported("a repetition of a repetition")
        return repetition(part, low, high)

    def _counts(self) -> tuple[int, int | None]:
        found = _COUNTS.match(self._pattern, self._at)
        if found is None:
            raise _unsupported("`{` that is no repetition")
        self._at = found.end()
        low = int(found[1])
        if found[2] is None:
            return low, low
        if not found[3]:
            return low, None
        if int(found[3]) < low:
            raise _unsupported(f"the repetition `{found[0]}`")
        return low, int(found[3])

    def _class(self) -> Ranges:
        negated = self._take("^")
        if self._next == "]":
            raise _unsupported("`]` at the beginning of a set")
        ranges: list[tuple[int, int]] = []
        everything = ALL
        while not self._take("]"):
            if (kind := self._kind()) is not None:
                ranges += kind
                everything = ASCII
                continue
            first = self._point()
            end = first
            if self._next == "-" and not self._pattern.startswith("-]", self._at):
                self._at += 1
                if self._kind() is not None or (end := self._point()) < first:
                    raise _unsupported("a range in a set that has no order")
            ranges.append((first, end))
        return without(everything, joined(ranges)) if negated else joined(ranges)

    def _kind(self) -> Ranges | None:
        """A class such as `\\d`, if one comes next."""
        letter = self._pattern[self._at + 1 : self._at + 2]
        if self._next != "\\" or letter.lower() not in KINDS or not letter:
            return None
        self._at += 2
        kind = KINDS[letter.lower()]
        return kind if letter.islower() else without(ASCII, kind)

    def _point(self) -> int:
        """The code point of a character that stands for itself, or of an escape."""
        if self.over:
            msg = "a closing bracket is missing"
            raise ValueError(msg)
        character = self._next
        self._at += 1
        if character != "\\":
            return ord(character)
        escape = self._next
        self._at += 1
        if escape in CONTROLS:
            return CONTROLS[escape]
        if escape in {"x", "u"}:
            return self._hexadecimal(2 if escape == "x" else 4)
        if not escape or escape.isalnum():
            raise _unsupported(f"`\\{escape}`")
        return ord(escape)

    def _hexadecimal(self, digits: int) -> int:
        text = self._pattern[self._at : self._at + digits]
        self._at += digits
        if not re.fullmatch(rf"[0-9a-fA-F]{{{digits}}}", text):
            raise _unsupported("`\\x` or `\\u` without its digits")
        return int(text, 16)


def _characters(ranges: Ranges) -> Characters:
    if not ranges:
        msg = "it has a set of characters that is empty"
        raise ValueError(msg)
    return Characters(ranges)


def _unsupported(what: str) -> ValueError:
    return ValueError(f"it uses {what}")
