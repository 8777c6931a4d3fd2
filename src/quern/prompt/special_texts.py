"""Texts of special tokens, told apart from the same texts in what people wrote.

A special token's text that is to become the token stands between two marks. The mark is a lone surrogate: no UTF-8 has
one, and `well_formed` takes it out of whatever else there is, so nobody can write it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

MARK = "\udfff"


class SpecialTexts:
    """Marks some special tokens' texts, and finds the marked ones again."""

    def __init__(self, texts: Iterable[str]) -> None:
        # A token of one character is left alone: its text is all over ordinary templates.
        longest_first = sorted((text for text in texts if len(text) > 1), key=len, reverse=True)
        either = "|".join(map(re.escape, longest_first)) or "(?!)"
        self._text = re.compile(either)
        self._marked_text = re.compile(f"{MARK}({either}){MARK}")

    def mark(self, text: str) -> str:
        """The text with these tokens' texts in it marked; of overlapping ones the first, of those the longest."""
        return self._text.sub(rf"{MARK}\g<0>{MARK}", text)

    def split(self, text: str) -> list[str]:
        """What lies between marked texts at even places, at odd ones the marked texts themselves, all without marks."""
        return [unmarked(piece) for piece in self._marked_text.split(text)]


def unmarked(text: str) -> str:
    """The text without marks."""
    return text.replace(MARK, "")


def well_formed(text: str) -> str:
    """The text with U+FFFD for lone surrogates, and so without marks; itself, the same object, where it has none."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return text
