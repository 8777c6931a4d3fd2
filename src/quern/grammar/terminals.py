r"""Terminals of a text's grammar, for the text itself or as it stands in a JSON string. Pure.

In a JSON string a terminal matches what `json.dumps` makes of the texts that it matched: `"` is `\"` there, and so on.

Source: "Syntax" in the documentation of Rust's crate `regex`, which llguidance reads.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from quern.errors import InvalidRequest

NEWLINE = "\n"
ESCAPED = tuple(character for character in map(chr, range(128)) if json.dumps(character)[1:-1] != character)
"""The characters that stand escaped in a JSON string."""
UNESCAPED = r"[^\x00-\x1f\"\\]"

UNIT = re.compile(
    r"""
    (?P<group>\(\?(?:P?<\w+>|(?P<flags>[a-zA-Z]*(?:-[a-zA-Z]+)?):)|\((?!\?))
  | \(\?(?P<from_here>[a-zA-Z]+)\)
  | (?P<around>\(\?)
  | (?P<set>\[\^?\]?(?:\[:\^?\w+:\]|\\.|[^\]\\])*\]|\\[pP](?:\{\^?\w+\}|\w)|\\[dDsSwW]|\.)
  | (?P<place>\\[bBAzZ]|[\^$])
  | (?P<escape>\\(?:x[0-9a-fA-F]{2}|[xu]\{[0-9a-fA-F]+\}|u[0-9a-fA-F]{4}|U[0-9a-fA-F]{8}|.))
  | (?P<repetition>(?:[*+?]|\{\d*,?\d*\})\??)
  | (?P<syntax>[)|])
  | (?P<literal>.)
    """,
    re.VERBOSE | re.DOTALL,
)
CODE_POINT = re.compile(r"\\[xuU]\{?([0-9a-fA-F]+)\}?")
CONTROLS = {"n": "\n", "t": "\t", "r": "\r", "f": "\f", "v": "\v", "a": "\a", "0": "\0"}
SYNTAX = frozenset(r"\.+*?()|[]{}^$/")
SLASH = re.compile(r"(\\.)|/|\n", re.DOTALL)
POSIX = re.compile(r"\[:(\w+):\]")
POSIX_SETS = {
    "ascii": r"\x00-\x7f",
    "cntrl": r"\x00-\x1f",
    "graph": "!-~",
    "print": " -~",
    "punct": r"!-\/:-@\[-`{-~",
    "space": r"\s",
}
"""As Python has them; the others hold nothing that stands escaped in a JSON string."""
SET_OPERATION = re.compile(r"(?<!\\)\[|&&|--|~~|\|\|")


@dataclass(frozen=True, slots=True)
class Terminals:
    """Writes terminals as llguidance reads them. `in_json`: for texts as they stand in JSON strings.

    What is no part of the language that a terminal matches is left out: captures, anchors at the ends, and lazy
    repetition.
    """

    in_json: bool

    def string(self, token: str) -> str:
        """A string of Lark's, with the flag `i` or without. Raises InvalidRequest."""
        text = _string(token.rstrip("i"))
        if token.endswith("i"):
            return self.pattern("".join(_in_regex(one) for one in text), "i")
        return json.dumps(json.dumps(text, ensure_ascii=False)[1:-1] if self.in_json else text, ensure_ascii=False)

    def range(self, first: str, last: str) -> str:
        """One character of a range between two strings of Lark's. Raises InvalidRequest."""
        ends = _string(first), _string(last)
        if [len(end) for end in ends] != [1, 1]:
            raise InvalidRequest(f"This grammar can't be kept to: {first}..{last} is no range of single characters.")
        return self.pattern(rf"[\x{{{ord(ends[0]):x}}}-\x{{{ord(ends[1]):x}}}]")

    def pattern(self, pattern: str, flags: str = "") -> str:
        """A regular expression, between slashes. Raises InvalidRequest."""
        if "x" in flags:
            raise InvalidRequest("This grammar can't be kept to: the flag x of regular expressions can't be used here.")
        written = "".join(self._units(pattern, "s" in flags))
        if not written:
            return '""'
        return f"/(?{flags}:{written})/" if flags else f"/{written}/"

    def _units(self, pattern: str, dot_is_all: bool) -> Iterator[str]:
        outer: list[bool] = []
        for unit in UNIT.finditer(pattern):
            text = unit.group()
            match unit.lastgroup:
                case "group" | "flags":
                    outer.append(dot_is_all)
                    on, _, off = (unit["flags"] or "").partition("-")
                    dot_is_all = ("s" in on or dot_is_all) and "s" not in off
                    yield f"(?{unit['flags'] or ''}:"
                case "from_here":
                    dot_is_all = dot_is_all or "s" in text
                    yield text
                case "around":
                    raise InvalidRequest(
                        "This grammar can't be kept to: a regular expression here can look neither ahead nor behind."
                    )
                case "syntax":
                    dot_is_all = outer.pop() if text == ")" and outer else dot_is_all
                    yield text
                case "repetition":
                    yield text.rstrip("?") if len(text) > 1 else text
                case "place":
                    at_end = unit.start() == 0 if text == "^" else text == "$" and unit.end() == len(pattern)
                    yield "" if at_end else text
                case "set":
                    yield self._set(text, dot_is_all)
                case _:
                    yield self._character(text)

    def _character(self, text: str) -> str:
        """A literal or an escape."""
        character = _character(text)
        if self.in_json and character in ESCAPED:
            return f"(?:{_escapes(character)})"
        return _in_regex(character) if character == "/" or character in ESCAPED else text

    def _set(self, text: str, dot_is_all: bool) -> str:
        text = SLASH.sub(lambda found: found[1] or ("\\n" if found[0] == NEWLINE else "\\/"), text)
        if not self.in_json:
            return text
        if text == ".":
            return f"(?:{UNESCAPED}|{_escapes(one for one in ESCAPED if dot_is_all or one != NEWLINE)})"
        escaped = _escaped_of(text)
        return rf"(?:[{text}--[\x00-\x1f\"\\]]|{_escapes(escaped)})" if escaped else text


def _string(token: str) -> str:
    try:
        text: str = json.loads(token.replace("\\'", "'"), strict=False)
    except ValueError:
        raise InvalidRequest(f"This grammar can't be kept to: the string {token} can't be read.") from None
    return text


def _character(text: str) -> str:
    """The one character that a literal or an escape stands for."""
    if not text.startswith("\\"):
        return text
    code_point = CODE_POINT.fullmatch(text)
    if code_point is not None:
        return chr(min(int(code_point[1], 16), 0x10FFFF))
    return CONTROLS.get(text[1], text[1])


def _in_regex(text: str) -> str:
    return "".join(f"\\x{ord(one):02x}" if one < " " else f"\\{one}" if one in SYNTAX else one for one in text)


def _escapes(characters: Iterable[str]) -> str:
    """How these stand in a JSON string, as a regular expression."""
    return "|".join(_in_regex(json.dumps(one)[1:-1]) for one in characters)


def _escaped_of(text: str) -> list[str]:
    """Those of a set, as a regular expression has it, that stand escaped in a JSON string. Raises InvalidRequest."""
    if text[:2] in {r"\p", r"\P"}:
        name = text[2:].strip("{}")
        other = (text[1] == "P") != name.startswith("^")
        return [one for one in ESCAPED if _is_of(one, name.lstrip("^")) != other]
    plain = POSIX.sub(lambda found: POSIX_SETS.get(found[1], "a"), text)
    if text.startswith("[") and SET_OPERATION.search(plain[1:-1]):
        raise InvalidRequest(f"This grammar can't be kept to: the set {text} is made of other sets.")
    try:
        held = re.compile(CODE_POINT.sub(lambda found: f"\\U{int(found[1], 16):08x}", plain))
    except (re.error, OverflowError):
        raise InvalidRequest(f"This grammar can't be kept to: the set {text} can't be read.") from None
    return [one for one in ESCAPED if held.fullmatch(one)]


def _is_of(character: str, category: str) -> bool:
    """Whether a Unicode category, by its short name, has it. Scripts and other properties have none of `ESCAPED`."""
    return len(category) <= 2 and unicodedata.category(character).startswith(category)
