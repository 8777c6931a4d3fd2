"""Marks around special tokens' texts: what is marked is found again, and nothing that people write is marked."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from quern.prompt.special_texts import MARK, SpecialTexts, unmarked, well_formed

SPECIAL = SpecialTexts(["<a>", "<a>>", "a<", "!"])
TEXTS = st.text("<a>!中\ud83d\ude00\udfff")


@given(TEXTS)
def test_what_is_marked_is_found_and_nothing_is_lost(text: str) -> None:
    text = well_formed(text)
    pieces = SPECIAL.split(SPECIAL.mark(text))
    assert "".join(pieces) == text
    assert set(pieces[1::2]) <= {"<a>", "<a>>", "a<"}
    assert not any(special in piece for piece in pieces[::2] for special in ("<a>", "a<"))
    assert unmarked(SPECIAL.mark(text)) == text


@given(TEXTS)
def test_what_is_well_formed_holds_no_marked_text(text: str) -> None:
    assert SPECIAL.split(well_formed(text)) == [well_formed(text)]
    assert well_formed(text).encode().decode() == well_formed(text)


def test_the_longest_text_is_marked_and_a_longer_one_does_not_grow_out_of_it() -> None:
    assert SPECIAL.mark("<a>>!") == f"{MARK}<a>>{MARK}!"
    assert SPECIAL.split(f"{SPECIAL.mark('<a>')}>") == ["", "<a>", ">"]


def test_text_that_is_well_formed_stays_the_same_object() -> None:
    text = "中 🫧"
    assert well_formed(text) is text
    assert well_formed("\ud83d\ude00 \ud83d \ude00") == "😀 \ufffd \ufffd"
