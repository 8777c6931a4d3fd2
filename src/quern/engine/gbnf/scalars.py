"""Strings and numbers, as GBNF."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NoReturn

from quern.engine.gbnf.notation import QUOTE, Rules
from quern.engine.gbnf.numbers import Bound, integers, numbers
from quern.engine.gbnf.pattern import pattern_rules
from quern.engine.gbnf.schema import Demands, Place, refuse

_LABEL = "[0-9A-Za-z]([0-9A-Za-z-]{0,60}[0-9A-Za-z])?"
_OCTET = "(25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])"
_DAY = "(0[1-9]|1[0-9]|2[0-8])"
_MONTH_AND_DAY = f"((0[1-9]|1[0-2])-{_DAY}|(0[13-9]|1[0-2])-(29|30)|(0[13578]|1[02])-31)"
_DATE = f"[12][0-9]{{3}}-{_MONTH_AND_DAY}"
_TIME = "([01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](\\.[0-9]{1,6})?(Z|[+-]([01][0-9]|2[0-3]):[0-5][0-9])"
FORMATS = {
    "date": f"^{_DATE}$",
    "time": f"^{_TIME}$",
    "date-time": f"^{_DATE}T{_TIME}$",
    "uuid": "^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$",
    "email": f"^[0-9A-Za-z_+-]{{1,30}}(\\.[0-9A-Za-z_+-]{{1,30}})?@{_LABEL}(\\.{_LABEL}){{1,2}}$",
    "hostname": f"^{_LABEL}(\\.{_LABEL}){{0,3}}$",
    "ipv4": f"^{_OCTET}(\\.{_OCTET}){{3}}$",
}
"""Patterns for the usual texts of each format, and for nothing that is not of it."""


def string_text(demands: Demands, rules: Rules) -> str:
    """A rule for a string. Raises InvalidRequest for what can't be kept to."""
    low, high = count(demands, "minLength") or 0, count(demands, "maxLength")
    if high is not None and low > high:
        refuse(demands["minLength"], "`minLength` is more than `maxLength`")
    patterns = _patterns(demands)
    if not patterns:
        return rules.add(f"{QUOTE} {rules.repeat('char', low, high)} {QUOTE}") if low or high is not None else "string"
    names = [name for name in ("pattern", "format", "minLength", "maxLength") if name in demands]
    try:
        found = pattern_rules(patterns, low, high)
    except ValueError as error:
        refuse(demands[names[0]], f"{' with '.join(f'`{name}`' for name in names)} can't be kept to: {error}")
    rules.include(found.bodies, found.work)
    return rules.add(f"{QUOTE} {found.first} {QUOTE}")


def integer_text(demands: Demands, rules: Rules) -> str:
    """A rule for an integer."""
    lowest = [math.ceil(place.value) for place in _given(demands, "minimum")]
    lowest += [math.floor(place.value) + 1 for place in _given(demands, "exclusiveMinimum")]
    highest = [math.floor(place.value) for place in _given(demands, "maximum")]
    highest += [math.ceil(place.value) - 1 for place in _given(demands, "exclusiveMaximum")]
    low, high = max(lowest, default=None), min(highest, default=None)
    if low is not None and high is not None and low > high:
        _refuse_bounds(demands)
    return rules.add(integers(low, high))


def number_text(demands: Demands, rules: Rules) -> str:
    """A rule for a number of any kind."""
    lowest = _bounds(demands, "minimum", "exclusiveMinimum")
    highest = _bounds(demands, "maximum", "exclusiveMaximum")
    if not lowest and not highest:
        return "number"
    low = max(lowest, key=lambda bound: (bound.value, not bound.inclusive), default=None)
    high = min(highest, key=lambda bound: (bound.value, bound.inclusive), default=None)
    text = numbers(low, high)
    if text is None:
        _refuse_bounds(demands)
    return rules.add(text)


def count(demands: Demands, name: str) -> int | None:
    """The value of a keyword that counts."""
    return demands[name].value if name in demands else None


def _patterns(demands: Demands) -> tuple[str, ...]:
    patterns: list[str] = [demands["pattern"].value] if "pattern" in demands else []
    if "format" in demands:
        place = demands["format"]
        if place.value not in FORMATS:
            refuse(place, f"the `format` {place.value!r} is not supported; {', '.join(FORMATS)} are")
        patterns.append(FORMATS[place.value])
    return tuple(patterns)


def _bounds(demands: Demands, inclusive: str, exclusive: str) -> list[Bound]:
    places = [(place, True) for place in _given(demands, inclusive)]
    places += [(place, False) for place in _given(demands, exclusive)]
    for place, _ in places:
        if place.value != int(place.value):
            refuse(place, "a bound of a `number` must be a whole number")
    return [Bound(int(place.value), inclusive) for place, inclusive in places]


def _given(demands: Demands, name: str) -> Sequence[Place]:
    return [demands[name]] if name in demands else []


def _refuse_bounds(demands: Demands) -> NoReturn:
    names = [name for name in ("minimum", "exclusiveMinimum", "maximum", "exclusiveMaximum") if name in demands]
    refuse(demands[names[0]], f"no number is within {' and '.join(f'`{name}`' for name in names)}")
