"""Numbers between bounds, as GBNF."""

from __future__ import annotations

from dataclasses import dataclass

from quern.engine.gbnf.notation import either, literal

INTEGER_DIGITS = 16
NUMBER_DIGITS = 9
EXACT_DIGITS = 15
"""A double tells decimal numbers of so many digits apart, so that none of them is rounded onto a bound."""


@dataclass(frozen=True, slots=True)
class Bound:
    """A whole number; `inclusive`: it may be reached."""

    value: int
    inclusive: bool = True


def integers(low: int | None, high: int | None) -> str:
    """Integers from `low` to `high`. Where a bound is None it is one that no answer needs."""
    low, high = _both(low, high, INTEGER_DIGITS)
    parts: list[str] = []
    if low < 0:
        parts.append(f'"-" {either(_between(max(1, -high), -low))}')
    if high >= 0:
        parts += _between(max(low, 0), high)
    return either(parts)


def numbers(low: Bound | None, high: Bound | None) -> str | None:
    """Decimal numbers between two bounds; None where there is none."""
    least, most = _both(low.value if low else None, high.value if high else None, NUMBER_DIGITS)
    low, high = low or Bound(least), high or Bound(most)
    parts: list[str] = []
    if low.value < 0:
        nearest = Bound(-high.value, high.inclusive) if high.value < 0 else Bound(0, inclusive=False)
        parts += [f'"-" {part}' for part in _magnitudes(nearest, Bound(-low.value, low.inclusive))]
    if high.value >= 0:
        parts += _magnitudes(low if low.value >= 0 else Bound(0), high)
    return either(parts) if parts else None


def _both(low: int | None, high: int | None, digits: int) -> tuple[int, int]:
    farthest = 10 ** max(digits, *(len(str(abs(bound))) + 1 for bound in (low, high) if bound is not None), 0) - 1
    return (-farthest if low is None else low), (farthest if high is None else high)


def _magnitudes(low: Bound, high: Bound) -> list[str]:
    """Numbers from `low` to `high`, both at least 0."""
    if low.value >= high.value:
        return [literal(str(low.value))] if low.value == high.value and low.inclusive and high.inclusive else []
    decimals = EXACT_DIGITS - len(str(high.value))
    fraction = f' ("." [0-9]{{1,{decimals}}})?' if decimals > 0 else ""
    parts: list[str] = []
    if not low.inclusive and decimals > 0:
        parts.append(f"{literal(f'{low.value}.')} [0-9]{{0,{decimals - 1}}} [1-9]")
    first = low.value if low.inclusive else low.value + 1
    if first < high.value:
        parts.append(f"{either(_between(first, high.value - 1))}{fraction}")
    if high.inclusive:
        parts.append(f'{literal(str(high.value))} ".0"?')
    return parts


def _between(low: int, high: int) -> list[str]:
    """Whole numbers from `low` to `high`, at least 0, without leading zeros; one part for each count of digits."""
    parts: list[str] = []
    whole: list[int] = []
    for digits in range(len(str(low)), len(str(high)) + 1):
        first, last = (10 ** (digits - 1) if digits > 1 else 0), 10**digits - 1
        if digits > 1 and low <= first and last <= high:
            whole.append(digits - 1)
        else:
            parts.append(_same_length(str(max(low, first)), str(min(high, last))))
    if whole:
        parts.append(f"[1-9] [0-9]{{{whole[0]},{whole[-1]}}}")
    return parts


def _same_length(low: str, high: str) -> str:
    if low == high:
        return literal(low)
    if low[0] == high[0]:
        return f"{literal(low[0])} {_same_length(low[1:], high[1:])}"
    if len(low) == 1:
        return f"[{low}-{high}]"
    rest = len(low) - 1
    first, last = int(low[0]), int(high[0])
    parts: list[str] = []
    if low[1:] != "0" * rest:
        parts.append(f"{literal(low[0])} {_same_length(low[1:], '9' * rest)}")
        first += 1
    if high[1:] != "9" * rest:
        parts.append(f"{literal(high[0])} {_same_length('0' * rest, high[1:])}")
        last -= 1
    if first <= last:
        parts.append(f"[{first}-{last}] [0-9]{{{rest}}}")
    return either(parts)
