"""Where a filling ends before the model ends it."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from quern.api.llamacpp.filling import Filling
from quern.events import Prefill, TextDelta, TurnEnded
from quern.types import TurnState

END = TurnEnded(TurnState.COMPLETED)


def fill(filling: Filling, *pieces: str, step: float = 0.0) -> list[str]:
    """What is shown for each piece, that come `step` seconds apart, and at the end."""
    events = [*(TextDelta(piece) for piece in pieces), END]
    return [filling.take(event, number * step) for number, event in enumerate(events)]


def test_without_limits_everything_is_shown_as_it_comes() -> None:
    filling = Filling()
    assert fill(filling, "a\n", "  b") == ["a\n", "  b", ""]
    assert (filling.text, filling.over, filling.has_new_line) == ("a\n  b", False, True)


def test_a_line_that_begins_too_far_left_ends_the_filling_and_is_left_out() -> None:
    filling = Filling(indent=4)
    assert fill(filling, "a\n    b\n", "  c\n    d") == ["a\n    b\n", "", ""]
    assert filling.over


def test_the_first_line_may_begin_anywhere_and_tabs_count_as_one() -> None:
    filling = Filling(indent=1)
    assert fill(filling, "a\n\tb\n c\nd") == ["a\n\tb\n c\n", ""]


def test_an_empty_line_has_no_indentation() -> None:
    filling = Filling(indent=2)
    assert fill(filling, "a\n\n  b") == ["a\n", ""]
    assert filling.over


def test_a_margin_waits_for_its_line_and_is_shown_where_the_model_ends_there() -> None:
    filling = Filling(indent=4)
    assert fill(filling, "a\n", "  ", "  ", "b\n ") == ["a\n", "", "", "    b\n", " "]
    assert not filling.over


def test_after_its_time_the_filling_ends_with_the_next_line_break() -> None:
    filling = Filling(seconds=1.5)
    shown = fill(filling, "a\n", "b\n", "c", "d", "e\nf", "g", step=1.0)
    assert shown == ["a\n", "b\n", "c", "d", "e\nf", "", ""]
    assert filling.over


def test_time_counts_from_the_first_text() -> None:
    filling = Filling(seconds=1.0)
    assert filling.take(Prefill(5, 5, 0), 0.0) == ""
    assert filling.take(TextDelta("a\n"), 100.0) == "a\n"
    assert not filling.over


def test_a_filling_that_nobody_wants_is_over_before_it_begins() -> None:
    filling = Filling(wanted=False)
    assert filling.over
    assert fill(filling, "a") == ["", ""]
    assert filling.text == ""


@given(st.lists(st.text(alphabet="a \t\n甲", max_size=4), max_size=12), st.integers(0, 3))
def test_however_the_text_is_split_the_filling_is_the_same(pieces: list[str], indent: int) -> None:
    apart, together = Filling(indent=indent), Filling(indent=indent)
    assert "".join(fill(apart, *pieces)) == "".join(fill(together, "".join(pieces)))
    assert (apart.text, apart.over) == (together.text, together.over)
