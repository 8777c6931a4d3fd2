"""llama-server's streams, read without a server."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quern.engine.base import Logprob
from quern.engine.llamacpp.stream import CompletionReader, Ended, EndFilter, Generated, Part, Progress
from quern.errors import EngineFailed
from quern.types import FinishReason

END_OF_TURN = 151645
TIMINGS = {"cache_n": 2, "prompt_n": 3, "prompt_ms": 40.5, "predicted_n": 4, "predicted_ms": 99.5}


def _line(**event: Any) -> bytes:
    return b"data: " + json.dumps(event, ensure_ascii=False).encode() + b"\n\n"


def _progress(done: int) -> bytes:
    progress = {"total": 5, "cache": 2, "processed": done, "time_ms": 12}
    return _line(content="", tokens=[0], stop=False, tokens_predicted=0, prompt_progress=progress)


def _token(token: int, text: str, predicted: int) -> bytes:
    return _line(content=text, tokens=[token], stop=False, tokens_predicted=predicted)


def _end(stop_type: str, predicted: int) -> bytes:
    return _line(content="", tokens=[], stop=True, stop_type=stop_type, tokens_predicted=predicted, timings=TIMINGS)


STREAM = _progress(2) + _progress(5) + _token(7, "a", 1) + b":\n\n" + _token(226, "龘", 4) + _end("limit", 4)
PARTS: list[Part] = [
    Progress(5, 2, 2, 12),
    Progress(5, 2, 5, 12),
    Generated(7, "a", 0),
    Generated(226, "龘", 2),
    Ended(end_of_text=False, predicted=4, cached=2, prefill_ms=40.5, decode_ms=99.5, drafts_accepted=0),
]


def test_progress_tokens_and_the_end_are_read_and_swallowed_ids_are_counted() -> None:
    assert CompletionReader().feed(STREAM) == PARTS


@given(st.lists(st.integers(1, 200), min_size=1))
def test_chunks_may_end_anywhere_even_inside_a_character(sizes: list[int]) -> None:
    reader, parts, start = CompletionReader(), list[Part](), 0
    for size in [*sizes, len(STREAM)]:
        parts += reader.feed(STREAM[start : start + size])
        start += size
    assert parts == PARTS


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        ("Context size has been exceeded.", "Lower engine.kv_tokens"),
        ("Compute error.", "refused or dropped this request: Compute error."),
    ],
)
def test_an_error_in_the_stream_is_a_failure_that_says_what_to_do(message: str, expected: str) -> None:
    with pytest.raises(EngineFailed, match=expected):
        CompletionReader().feed(_line(error={"code": 500, "message": message, "type": "server_error"}))


def _probability(token: int, logprob: float, *likeliest: tuple[int, float]) -> dict[str, Any]:
    top = [{"id": other, "token": "x", "bytes": [120], "logprob": value} for other, value in likeliest]
    return {"id": token, "token": "x", "bytes": [120], "logprob": logprob, "top_logprobs": top}


def test_a_tokens_probability_comes_with_it() -> None:
    line = _line(
        content="a",
        tokens=[7],
        stop=False,
        tokens_predicted=1,
        completion_probabilities=[_probability(7, -0.5, (9, -0.25), (7, -0.5))],
    )
    assert CompletionReader().feed(line) == [Generated(7, "a", 0, Logprob(-0.5, ((9, -0.25), (7, -0.5))))]


def test_tokens_with_text_pass_at_once_and_a_token_without_waits_for_the_next_event() -> None:
    ends = EndFilter(frozenset())
    assert ends.push((1,), "a") == (1,)
    assert ends.push((2,), "") == ()
    assert ends.push((3,), "b") == (2, 3)


def test_the_models_end_token_is_not_shown() -> None:
    ends = EndFilter(frozenset({END_OF_TURN}))
    ends.push((1,), "a")
    assert ends.push((END_OF_TURN,), "") == ()
    assert ends.finish(end_of_text=True) == ((), FinishReason.STOP)


def test_a_token_without_text_that_was_the_last_one_allowed_is_shown() -> None:
    ends = EndFilter(frozenset())
    assert ends.push((9,), "") == ()
    assert ends.finish(end_of_text=False) == ((9,), FinishReason.LENGTH)


def test_a_stop_id_with_text_ends_at_once_and_nothing_from_it_on_is_shown() -> None:
    ends = EndFilter(frozenset({5}))
    assert ends.push((3, 5, 4), "xyz") == (3,)
    assert ends.stopped


def test_a_stop_id_without_text_that_is_no_end_token_ends_with_the_next_event() -> None:
    ends = EndFilter(frozenset({5}))
    assert ends.push((5,), "") == ()
    assert not ends.stopped
    assert ends.push((6,), "more") == ()
    assert ends.stopped


def test_a_stop_id_without_text_as_the_last_token_allowed_is_a_stop() -> None:
    ends = EndFilter(frozenset({5}))
    ends.push((5,), "")
    assert ends.finish(end_of_text=False) == ((), FinishReason.STOP)
