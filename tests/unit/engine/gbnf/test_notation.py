"""The parts of GBNF."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.engine.gbnf.reader import Gbnf

from quern.engine.gbnf import notation
from quern.engine.gbnf.notation import Rules, literal, one_of, one_text_of
from quern.errors import InvalidRequest


@given(st.integers(0, 45), st.integers(0, 45) | st.none(), st.sets(st.integers(0, 70), max_size=2))
def test_a_repetition_allows_every_count_between_its_bounds_and_no_other(
    low: int, more: int | None, counts: set[int]
) -> None:
    high = None if more is None else low + more
    rules = Rules()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(notation, "BLOCK", 4)
        grammar = Gbnf(rules.text(rules.repeat("[a]", low, high)))
    for count in counts | {low, max(low - 1, 0)} | ({high, high + 1} if high is not None else set[int]()):
        assert grammar.matches("a" * count) is (count >= low and (high is None or count <= high)), count


def test_too_many_repetitions_are_refused() -> None:
    rules = Rules()
    for count in range(200):
        rules.repeat("[a]", 0, count)
        rules.repeat("[b]", 0, count)
    with pytest.raises(InvalidRequest, match="too large"):
        [rules.repeat("[c]", 0, count) for count in range(200)]


def test_the_work_for_all_patterns_together_is_bounded_and_that_for_equal_ones_counts_once() -> None:
    rules = Rules()
    for _ in range(3):
        rules.include({"p1-0": '"a"'}, notation.MOST_WORK)
    with pytest.raises(InvalidRequest, match="too large"):
        rules.include({"p2-0": '"a"'}, 1)


def test_a_grammar_of_too_many_bytes_is_refused() -> None:
    rules = Rules()
    for number in range(40):
        rules.add(literal(f"{number}" + "é" * (notation.MOST_BYTES // 160)))
    with pytest.raises(InvalidRequest, match="too large"):
        rules.text("value")


def test_equal_rules_are_one() -> None:
    rules = Rules()
    assert rules.add('"a" "b"') == rules.add('"a" "b"') != rules.add('"a"')
    assert rules.repeat("char", 0, 7) == rules.repeat("char", 0, 7)


@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=20))
def test_a_literal_is_exactly_its_text(text: str) -> None:
    grammar = Gbnf(f"root ::= {literal(text)}\n")
    assert grammar.matches(text)
    assert not grammar.matches(text + "a")


@given(st.characters(exclude_categories=["Cs"]), st.characters(exclude_categories=["Cs"]))
def test_a_range_has_both_of_its_ends(one: str, other: str) -> None:
    first, last = sorted((ord(one), ord(other)))
    grammar = Gbnf(f"root ::= {one_of([(first, last)])}\n")
    assert grammar.matches(one)
    assert grammar.matches(other)
    assert not grammar.matches(one + other)


@given(st.lists(st.text("ab", max_size=6), min_size=1, max_size=20, unique=True), st.text("ab", max_size=6))
def test_one_of_some_texts_is_any_of_them_and_nothing_else(texts: list[str], other: str) -> None:
    grammar = Gbnf(f"root ::= {one_text_of(texts)}\n")
    assert all(grammar.matches(text) for text in texts)
    assert grammar.matches(other) is (other in texts)


def test_texts_that_each_begin_with_the_one_before_are_no_trouble() -> None:
    texts = ["a" * count for count in range(300)]
    assert one_text_of(texts).startswith('("" | "a" ("" | ')
