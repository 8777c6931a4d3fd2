"""Titles of conversations, made from what its user said first."""

from __future__ import annotations

import re
import unicodedata
from bisect import bisect_right
from collections.abc import Iterable
from itertools import accumulate

from quern.types import Item, Message, Role

WIDEST = 60
"""Columns of a title; characters of Chinese, Japanese and Korean take two."""

LONGEST_LOOKED_AT = 2000
"""Characters of a message in which a title is looked for, so that a file of a megabyte costs nothing."""

_NO_TITLE = re.compile(r"```.*|~~~.*|</?[\w.:-]+(\s[^<>]*)?/?>|[-=_*#]{3,}")
"""Lines that say nothing by themselves: fences of code, the tags that agents put around what they send, rules."""
_MARKS = re.compile(r"^(?:#{1,6}\s+|>\s*|[-*+]\s+|\d{1,3}[.)]\s+)+")
ELLIPSIS = "…"


def title_of(items: Iterable[Item]) -> str | None:
    """A title from the first message of the user's that has any text: its first line, without marks, blanks made one
    each, cut where a word ends. None where there is no such message.
    """
    for item in items:
        if isinstance(item, Message) and item.role is Role.USER:
            title = title_of_text(item.content)
            if title is not None:
                return title
    return None


def title_of_text(text: str) -> str | None:
    """The same from a text."""
    lines = [_cleaned(line) for line in text[:LONGEST_LOOKED_AT].splitlines()]
    first = next((line for line in lines if line and not _NO_TITLE.fullmatch(line)), None)
    return _cut(first) if first is not None else next((_cut(line) for line in lines if line), None)


def _cleaned(line: str) -> str:
    visible = "".join(character if unicodedata.category(character)[0] != "C" else " " for character in line)
    return _MARKS.sub("", " ".join(visible.split())).strip()


def _cut(line: str) -> str:
    """As much of a line as is shown."""
    ends = list(accumulate(map(_width, line)))
    if ends[-1] <= WIDEST:
        return line
    kept = line[: bisect_right(ends, WIDEST - 1)]
    space = kept.rfind(" ")
    # Words of scripts without blanks are cut anywhere, as are single ones that are long.
    if space > len(kept) // 2 and line[len(kept)] != " ":
        kept = kept[:space]
    return kept.rstrip(" ,.;:，。；：、-") + ELLIPSIS


def _width(character: str) -> int:
    if unicodedata.combining(character):
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1
