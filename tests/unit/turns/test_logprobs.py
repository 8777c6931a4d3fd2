"""Probabilities are told with the text that their tokens are part of: not before it, and none twice or lost."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

from hypothesis import given
from hypothesis import strategies as st

from quern.engine.base import Logprob
from quern.events import TokenLogprob
from quern.prompt.incremental_text import IncrementalText
from quern.turns.decoder import AlignedLogprobs

CHARACTERS = [b"\xe4", b"\xbd\xa0", b"\xe4\xbd\xa0", b"\xf0\x9f", b"\xab\xa7"]
TOKENS = [b"a", b"b", b"ab", *CHARACTERS, b"\xff", b"", b" END", b"E"]
BATCHES = st.lists(st.lists(st.integers(0, len(TOKENS) - 1), max_size=4), max_size=8)


def token_bytes(token_id: int) -> bytes:
    return TOKENS[token_id]


def logprobs(ids: Sequence[int]) -> list[Logprob]:
    """Each token's probability is its id, so that it can be found again."""
    return [Logprob(-float(token_id), ((token_id, -float(token_id)), (0, -0.5))) for token_id in ids]


class Stream:
    """Text and probabilities as a turn tells them; `told` has one entry for each piece of text that was shown."""

    def __init__(self, stops: Sequence[str] = ()) -> None:
        self.text = IncrementalText(token_bytes, stops)
        self.aligned = AlignedLogprobs(token_bytes)
        self.told: list[tuple[str, list[bytes]]] = []

    def push(self, *ids: int) -> None:
        self.aligned.push(ids, logprobs(ids))
        self._show(self.text.push(ids))

    def finish(self) -> None:
        self._show(self.text.finish())

    def _show(self, text: str) -> None:
        if text:
            self.told.append((text, [token.token for token in self.aligned.release(text)]))


def test_a_token_is_told_with_its_alternatives_best_first() -> None:
    aligned = AlignedLogprobs(token_bytes)
    aligned.push([1], [Logprob(-0.7, ((0, -0.1), (5, -0.2)))])
    assert aligned.release("b") == (
        TokenLogprob(b"b", -0.7, (TokenLogprob(b"a", -0.1), TokenLogprob("你".encode(), -0.2))),
    )


def test_each_piece_of_text_comes_with_its_tokens() -> None:
    stream = Stream()
    stream.push(0)
    stream.push(1, 2)
    stream.finish()
    assert stream.told == [("a", [b"a"]), ("bab", [b"b", b"ab"])]


def test_the_tokens_of_a_split_character_come_with_the_character() -> None:
    stream = Stream()
    for token_id in (0, 3, 4, 1):
        stream.push(token_id)
    assert stream.told == [("a", [b"a"]), ("你", [b"\xe4", b"\xbd\xa0"]), ("b", [b"b"])]


def test_tokens_of_text_that_is_held_back_are_held_back() -> None:
    stream = Stream([" END"])
    stream.push(0)
    stream.push(11)
    assert stream.told == [("a", [b"a"]), ("E", [b"E"])]
    stream = Stream(["END"])
    stream.push(0)
    stream.push(11)
    assert stream.told == [("a", [b"a"])]
    stream.finish()
    assert stream.told == [("a", [b"a"]), ("E", [b"E"])]


def test_tokens_of_a_stop_string_are_never_told_but_one_that_begins_before_it_is() -> None:
    stream = Stream([" END"])
    stream.push(0, 10, 1)
    assert stream.told == [("a", [b"a"])]
    stream = Stream(["b"])
    stream.push(0, 2)
    assert stream.told == [("aa", [b"a", b"ab"])]


def test_bytes_that_are_no_text_do_not_bring_later_tokens_forward() -> None:
    stream = Stream(["bb"])
    stream.push(8, 1)
    stream.push(0)
    assert stream.told == [("\ufffd", [b"\xff"]), ("ba", [b"b", b"a"])]


def test_tokens_without_probabilities_are_left_out_and_the_others_stay_with_their_text() -> None:
    aligned = AlignedLogprobs(token_bytes)
    aligned.push([3, 4], None)
    aligned.push([1], logprobs([1]))
    assert aligned.release("你") == ()
    assert [token.token for token in aligned.release("b")] == [b"b"]


@given(BATCHES, st.sampled_from([[], ["ab"], ["你"]]))
def test_told_tokens_are_those_that_begin_in_the_text_in_order(batches: list[list[int]], stops: list[str]) -> None:
    stream = Stream(stops)
    for batch in batches:
        stream.push(*batch)
    stream.finish()
    ids = [token_id for batch in batches for token_id in batch]
    told = [token for _, tokens in stream.told for token in tokens]
    assert told == [TOKENS[token_id] for token_id in ids][: len(told)]
    decoded = [b"".join(map(token_bytes, ids[:count])).decode(errors="ignore") for count in range(len(ids) + 1)]
    if "\ufffd" in b"".join(map(token_bytes, ids)).decode(errors="replace"):
        return
    starts = [len(before) for before in decoded[:-1]]
    ends = list(accumulate(len(text) for text, _ in stream.told))
    expected = [sum(start < end for start in starts) for end in ends]
    assert list(accumulate(len(tokens) for _, tokens in stream.told)) == expected
