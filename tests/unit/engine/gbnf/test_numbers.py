"""Numbers between bounds: exactly those integers, and only numbers within."""

from __future__ import annotations

import json
from random import Random

from hypothesis import given
from hypothesis import strategies as st
from tests.unit.engine.gbnf.reader import Gbnf

from quern.engine.gbnf.notation import Rules
from quern.engine.gbnf.numbers import Bound, integers, numbers

BOUNDS = st.integers(-1200, 1200) | st.integers(-(10**18), 10**18)


def _grammar(text: str) -> Gbnf:
    rules = Rules()
    return Gbnf(rules.text(rules.add(text)))


@given(st.integers(-1200, 1200), st.integers(0, 1200), st.lists(st.integers(-1500, 1500), max_size=20))
def test_integers_are_all_those_between_the_bounds(low: int, size: int, others: list[int]) -> None:
    high = low + size
    grammar = _grammar(integers(low, high))
    for value in {low - 1, low, high, high + 1, -1, 0, 1, *others}:
        assert grammar.matches(str(value)) is (low <= value <= high)


@given(BOUNDS, BOUNDS, st.integers())
def test_an_integer_is_within_its_bounds_without_leading_zeros(one: int, other: int, seed: int) -> None:
    low, high = sorted((one, other))
    text = _grammar(integers(low, high)).draw(Random(seed))
    assert text == str(int(text))
    assert low <= int(text) <= high


@given(BOUNDS, st.booleans(), st.integers())
def test_one_bound_is_enough(bound: int, lower: bool, seed: int) -> None:
    low, high = (bound, None) if lower else (None, bound)
    text = _grammar(integers(low, high)).draw(Random(seed))
    assert int(text) >= bound if lower else int(text) <= bound


@given(BOUNDS | st.none(), st.booleans(), BOUNDS | st.none(), st.booleans(), st.integers())
def test_a_number_is_within_its_bounds(
    low: int | None, low_inclusive: bool, high: int | None, high_inclusive: bool, seed: int
) -> None:
    if low is not None and high is not None:
        low, high = sorted((low, high))
    text = numbers(
        None if low is None else Bound(low, low_inclusive), None if high is None else Bound(high, high_inclusive)
    )
    if text is None:
        assert low is not None
        assert high is not None
        assert high - low < 2
        return
    value = json.loads(_grammar(text).draw(Random(seed)))
    assert low is None or value > low or (value == low and low_inclusive)
    assert high is None or value < high or (value == high and high_inclusive)


def test_fractions_are_allowed_between_the_bounds() -> None:
    text = numbers(Bound(-1, inclusive=False), Bound(2))
    assert text is not None
    grammar = _grammar(text)
    for allowed in ("-0.5", "0", "0.25", "1.999", "2", "2.0"):
        assert grammar.matches(allowed), allowed
    for forbidden in ("-1", "-1.0", "2.1", "00.5", ".5", "1.", "1e0"):
        assert not grammar.matches(forbidden), forbidden
