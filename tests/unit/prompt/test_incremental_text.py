"""Streaming: whole characters, no stop strings, the same text however it arrives."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quern.errors import InvalidRequest
from quern.prompt.incremental_text import IncrementalText

STOPS = st.lists(st.one_of(st.text("ab\n<é🫧", min_size=1), st.text("ab", min_size=3, max_size=6)), max_size=4)
ANSWERS = st.one_of(
    st.text("ab", max_size=40).map(str.encode),
    st.text("ab\n<é🫧", max_size=40).map(str.encode),
    st.binary(max_size=30),
    st.lists(st.sampled_from([b"a", b"b", b"\xc3", b"\xa9", b"\xf0\x9f", b"\xab\xa7", b"\xff"])).map(b"".join),
)


def one_byte(token_id: int) -> bytes:
    return bytes([token_id])


def text_before_stop(text: str, stops: list[str]) -> str:
    for end in range(1, len(text) + 1):
        found = [stop for stop in stops if text[:end].endswith(stop)]
        if found:
            return text[: end - len(max(found, key=len))]
    return text


def stream(parts: list[bytes], stops: list[str]) -> tuple[list[str], IncrementalText]:
    incremental = IncrementalText(one_byte, stops)
    return [*(incremental.push(part) for part in parts), incremental.finish()], incremental


@given(ANSWERS, STOPS, st.data())
def test_any_split_of_the_ids_gives_the_same_text(answer: bytes, stops: list[str], data: st.DataObject) -> None:
    cuts = sorted(data.draw(st.lists(st.integers(0, len(answer)))))
    parts = [answer[start:end] for start, end in pairwise([0, *cuts, len(answer)])]
    shown, incremental = stream(parts, stops)
    whole = answer.decode(errors="replace")
    expected = text_before_stop(whole, stops)
    assert "".join(shown) == expected
    assert incremental.stopped == (expected != whole)
    assert (incremental.stopped_by is not None) == incremental.stopped
    if incremental.stopped_by is not None:
        assert whole.startswith(expected + incremental.stopped_by)


@given(ANSWERS, STOPS)
def test_no_more_is_held_back_than_could_begin_a_stop_string(answer: bytes, stops: list[str]) -> None:
    incremental = IncrementalText(one_byte, stops)
    shown = ""
    for end in range(1, len(answer) + 1):
        shown += incremental.push(answer[end - 1 : end])
        if incremental.stopped:
            break
        so_far = answer[:end].decode(errors="ignore")
        certain = answer[:end].decode(errors="replace")
        assert certain.startswith(shown)
        unfinished = 1 if certain != so_far else 0
        assert len(certain) - len(shown) <= max((len(stop) - 1 for stop in stops), default=0) + unfinished


def test_text_is_shown_at_once_where_it_can_not_begin_a_stop_string() -> None:
    incremental = IncrementalText(one_byte, ["\n\n", "END"])
    assert incremental.push(b"a\n") == "a"
    assert incremental.push(b"bE") == "\nb"
    assert incremental.push(b"N") == ""
    assert incremental.push(b"o") == "ENo"
    assert incremental.push(b"!\n") == "!"
    assert incremental.push(b"\nnever shown") == ""
    assert incremental.stopped
    assert incremental.push(b"never") == ""
    assert incremental.finish() == ""


def test_a_character_is_shown_whole_once_its_last_byte_is_there() -> None:
    incremental = IncrementalText(one_byte)
    assert [incremental.push([byte]) for byte in "冒🫧".encode()] == ["", "", "冒", "", "", "", "🫧"]


def test_an_unfinished_character_ends_as_a_replacement_character() -> None:
    incremental = IncrementalText(one_byte)
    assert incremental.push("🫧".encode()[:3]) == ""
    assert incremental.finish() == "\ufffd"
    assert incremental.finish() == ""


def test_the_beginning_of_a_stop_string_is_shown_when_the_answer_ends_there() -> None:
    incremental = IncrementalText(one_byte, ["<end>"])
    assert incremental.push(b"x <en") == "x "
    assert incremental.finish() == "<en"
    assert not incremental.stopped
    assert incremental.stopped_by is None


def test_the_stop_string_that_is_complete_first_counts() -> None:
    shown, incremental = stream([b"xabcd"], ["abcd", "bc"])
    assert "".join(shown) == "xa"
    assert incremental.stopped_by == "bc"
    shown, incremental = stream([b"xabc"], ["c", "abc"])
    assert "".join(shown) == "x"
    assert incremental.stopped_by == "abc", "of those that are complete together the longest"


def test_a_stop_string_is_found_inside_its_own_repeated_beginning() -> None:
    assert "".join(stream([b"xaaaab"], ["aab"])[0]) == "xaa"
    assert "".join(stream([b"ababac"], ["abac"])[0]) == "ab"


def test_tokens_without_text_add_nothing() -> None:
    incremental = IncrementalText(lambda token_id: b"" if token_id > 255 else bytes([token_id]))
    assert incremental.push([ord("a"), 256, ord("b")]) == "ab"


def test_an_empty_stop_string_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="empty") as refused:
        IncrementalText(one_byte, ["a", ""])
    assert refused.value.field == "stop"
