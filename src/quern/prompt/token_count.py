"""How many tokens a text has at least, from its bytes alone, and where it can be cut without a change of its tokens.

No token has more bytes of a kind (letters, digits, blanks, ...) than the one of the vocabulary that has the most of
that kind, so a text's bytes of each kind bound its tokens from below. What cannot fit is refused by that, before any
token is made.
"""

from __future__ import annotations

import re
import string
from collections.abc import Callable, Iterable, Iterator

KINDS = (
    bytes(range(0x100)),
    string.ascii_letters.encode(),
    string.digits.encode(),
    string.whitespace.encode(),
    string.punctuation.encode(),
    bytes(range(0x80, 0x100)),
)
"""Bytes of one kind: any, letters, digits, blanks, punctuation, those of characters beyond ASCII."""

CERTAIN_CUT = re.compile(
    r"(?<=[A-Za-z0-9\u4e00-\u9fa5])(?=[ \t\r\n])"
    r"|(?<=[A-Za-z])(?=[0-9])"
    r"|(?<=[A-Za-z\u4e00-\u9fa5])(?=[!-/:-@\[-`{-~\u3000-\u3002\uff0c])"
)
"""Between a letter or a digit and a blank, a letter and a digit, a letter and punctuation every known pattern of
`modelfiles/pretokenizers.py` ends a word, whatever stands before and after: none matches across such a place, and what
looks ahead looks from a blank only.
"""

WINDOW = 2**18
"""Characters that are searched in one go, while nothing else runs."""


class LeastTokens:
    """A vocabulary's longest tokens, by kind of byte. `tokens`: texts, each at most as long as it has bytes."""

    def __init__(self, tokens: Iterable[str], to_bytes: Callable[[str], bytes]) -> None:
        longest_first = sorted(tokens, key=len, reverse=True)
        self._longest = {kind: _most_of(kind, map(to_bytes, longest_first)) for kind in KINDS}

    def of(self, data: bytes) -> int:
        """How many tokens a text of these bytes has at least."""
        return max(-(-_count(kind, data) // longest) for kind, longest in self._longest.items())


def _most_of(kind: bytes, longest_first: Iterable[bytes]) -> int:
    most = 1
    for token in longest_first:
        if len(token) <= most:  # nor has any that follows more
            break
        most = max(most, _count(kind, token))
    return most


def _count(kind: bytes, data: bytes) -> int:
    return len(data) - len(data.translate(None, kind))


def pieces(text: str, size: int) -> Iterator[str]:
    """The text in pieces of `size` characters or somewhat more, cut where that changes no token; a piece without such a
    place is as long as it is.
    """
    start = 0
    while len(text) - start > size:
        cut = _next_cut(text, start + size)
        yield text[start:cut]
        start = cut
    if start < len(text) or not text:
        yield text[start:]


def _next_cut(text: str, start: int) -> int:
    for begin in range(start, len(text), WINDOW):
        # One character more, for what is looked at behind the place.
        found = CERTAIN_CUT.search(text, begin, begin + WINDOW + 1)
        if found is not None:
            return found.start()
    return len(text)
