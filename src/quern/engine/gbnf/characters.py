"""Sets of characters, and how JSON writes one of them in a string."""

from __future__ import annotations

import json

from quern.engine.gbnf.notation import either, literal, one_of

Ranges = tuple[tuple[int, int], ...]
"""Code points, from first to last, in order and apart."""

ALL: Ranges = ((0, 0xD7FF), (0xE000, 0x10FFFF))
"""Every code point that is a character; half a surrogate pair is none."""
ASCII: Ranges = ((0, 0x7E),)
RAW: Ranges = ((0x20, 0x21), (0x23, 0x5B), (0x5D, 0x7E), (0x80, 0xD7FF), (0xE000, 0x10FFFF))
"""What stands for itself in a JSON string."""
SHORT_ESCAPES = (0x22, 0x5C, 0x08, 0x0C, 0x0A, 0x0D, 0x09)


def without(ranges: Ranges, excluded: Ranges) -> Ranges:
    """The code points of `ranges` that are not in `excluded`."""
    left: list[tuple[int, int]] = []
    for first, last in ranges:
        start = first
        for low, high in excluded:
            if low > start:
                left.append((start, min(low - 1, last)))
            start = max(start, high + 1)
        left.append((start, last))
    return tuple((first, last) for first, last in left if first <= last)


def both(ranges: Ranges, others: Ranges) -> Ranges:
    """The code points that are in both."""
    return without(others, without(others, ranges))


def joined(ranges: list[tuple[int, int]]) -> Ranges:
    """The same code points, in order and apart, without halves of surrogate pairs."""
    return without(ALL, without(ALL, tuple(sorted(ranges))))


def has(ranges: Ranges, code: int) -> bool:
    """Whether a code point is among them."""
    return any(first <= code <= last for first, last in ranges)


def written(ranges: Ranges) -> str:
    """GBNF of one of these characters in a JSON string; of controls only those that have a short escape, if any has."""
    raw = both(RAW, ranges)
    escaped = [code for code in SHORT_ESCAPES if has(ranges, code)]
    if not raw and not escaped:
        escaped = [code for first, last in ranges for code in range(first, last + 1)]
    alternatives = [one_of(raw)] if raw else []
    alternatives += [literal(json.dumps(chr(code), ensure_ascii=False)[1:-1]) for code in escaped]
    return either(alternatives)
