"""Unpacking, with random texts, and bounded however the bytes are."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Callable

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from quern.api.shared.content_coding import Corrupt, UnknownCoding, UnpackedTooLarge, codings, unpack

PACK: dict[str, Callable[[bytes], bytes]] = {
    "gzip": gzip.compress,
    "deflate": zlib.compress,
    "zstd": zstandard.compress,
}
REPEATED = st.tuples(st.binary(max_size=50), st.integers(1, 2000)).map(lambda piece: piece[0] * piece[1])
TEXTS = st.binary(max_size=2000) | REPEATED


@pytest.mark.parametrize("coding", PACK)
@given(text=TEXTS)
def test_what_was_packed_comes_out_up_to_the_limit_and_not_a_byte_beyond(coding: str, text: bytes) -> None:
    packed = PACK[coding](text)
    assert unpack(packed, coding, len(text)) == text
    if text:
        with pytest.raises(UnpackedTooLarge):
            unpack(packed, coding, len(text) - 1)


@pytest.mark.parametrize("coding", PACK)
@given(text=st.binary(min_size=1, max_size=500), data=st.data())
def test_a_cut_body_is_never_taken_for_a_whole_one(coding: str, text: bytes, data: st.DataObject) -> None:
    packed = PACK[coding](text)
    cut = data.draw(st.integers(1, len(packed) - 1))
    with pytest.raises(Corrupt):
        unpack(packed[:cut], coding, 1000)


@given(texts=st.lists(st.tuples(TEXTS, st.integers(0, 600)), min_size=1, max_size=5))
def test_zeros_behind_gzips_members_are_padding(texts: list[tuple[bytes, int]]) -> None:
    packed = b"".join(gzip.compress(text) + b"\0" * zeros for text, zeros in texts)
    assert unpack(packed, "gzip", 10**6) == b"".join(text for text, _ in texts)
    with pytest.raises(Corrupt):
        unpack(packed + b"\0\1", "gzip", 10**6)


@pytest.mark.parametrize("coding", PACK)
@given(body=st.binary(min_size=1, max_size=3000))
def test_any_bytes_are_unpacked_or_refused(coding: str, body: bytes) -> None:
    for sent in (body, PACK[coding](b"hello" * 99)[:-2] + body, PACK[coding](b"hello") + body):
        try:
            unpacked = unpack(sent, coding, 5000)
        except (Corrupt, UnpackedTooLarge) as error:
            unpacked = str(error).encode()
        assert len(unpacked) <= 5000


def test_codings_are_read_as_a_list_in_any_case_and_unknown_ones_are_named() -> None:
    assert codings("") == codings("identity") == []
    assert codings("GZip") == codings("x-gzip, identity") == ["gzip"]
    assert codings("gzip,zstd , deflate") == ["gzip", "zstd", "deflate"]
    with pytest.raises(UnknownCoding, match=r"^br$"):
        codings("gzip, BR")
