"""What vLLM 0.32 really answered, read in pieces of any size."""

from __future__ import annotations

import json
from pathlib import Path

import httpx2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from quern.engine.base import Logprob
from quern.engine.completions.client import refusal
from quern.engine.completions.stream import CompletionReader, Counted, Ended, Generated, Part
from quern.errors import EngineFailed, ServerLost
from quern.types import FinishReason

RECORDED = {path.stem: path.read_bytes() for path in (Path(__file__).parents[3] / "data" / "vllm").glob("*.sse")}
END = frozenset({151645, 151643})
HELLO = (9707, 0, 2585, 646, 358, 7789, 498, 3351, 30)


def read(body: bytes, top: int = 0, size: int | None = None) -> tuple[list[Part], CompletionReader]:
    reader = CompletionReader(END, top)
    parts: list[Part] = []
    for start in range(0, len(body), size or len(body)):
        parts += reader.feed(body[start : start + (size or len(body))])
    return parts, reader


def ids(parts: list[Part]) -> tuple[int, ...]:
    return tuple(token for part in parts if isinstance(part, Generated) for token in part.ids)


def test_an_answer_that_ends_by_itself_has_its_ids_without_the_end() -> None:
    parts, reader = read(RECORDED["stop"])
    assert ids(parts) == HELLO
    assert parts[-2:] == [Ended(FinishReason.STOP), Counted(0)]
    assert reader.done


def test_an_answer_that_reaches_its_limit_has_its_last_token() -> None:
    parts, _ = read(RECORDED["length"])
    assert parts == [Generated((9707,)), Generated((0,)), Generated((2585,)), Ended(FinishReason.LENGTH), Counted(0)]


def test_probabilities_are_the_drawn_tokens_and_those_of_the_likeliest() -> None:
    parts, _ = read(RECORDED["logprobs"], top=2)
    first = parts[0]
    assert isinstance(first, Generated)
    assert first.logprobs == (
        Logprob(-0.23967428505420685, ((9707, -0.23967428505420685), (13048, -1.8646743297576904))),
    )
    none, _ = read(RECORDED["logprobs"])
    assert [part.logprobs[0].top for part in none if isinstance(part, Generated) and part.logprobs] == [()] * 3


def test_under_a_grammar_the_end_is_no_part_of_the_answer_and_special_tokens_are() -> None:
    assert ids(read(RECORDED["grammar"])[0]) == (2152, 12069)
    call = ids(read(RECORDED["toolcall"])[0])
    assert (call[0], call[-1]) == (151657, 151658)


def test_an_error_is_told_in_the_servers_words() -> None:
    with pytest.raises(EngineFailed, match='unknown name: "A"'):
        read(RECORDED["bad"])


def test_a_server_whose_engine_has_died_is_lost_whatever_it_answers() -> None:
    told = b"EngineCore encountered an issue. See stack trace (above) for the root cause."
    with pytest.raises(ServerLost, match="that computes has died"):
        read(b'data: {"error": {"message": "' + told + b'"}}\n\n')
    response = httpx2.Response(500, json={"error": {"message": told.decode()}})
    assert isinstance(refusal(response), ServerLost)


@given(size=st.integers(1, 400))
def test_it_does_not_matter_how_the_bytes_arrive(size: int) -> None:
    assert read(RECORDED["stop"], size=size)[0] == read(RECORDED["stop"])[0]


def event(**choice: object) -> bytes:
    values = {"index": 0, "text": "a", "finish_reason": None, "token_ids": [7], **choice}
    return b"data: " + json.dumps({"choices": [values]}).encode() + b"\n\n"


def test_an_id_that_ends_nothing_is_shown_even_if_it_comes_last() -> None:
    parts, _ = read(event(token_ids=[5, 7], finish_reason="stop"))
    assert parts == [Generated((5, 7)), Ended(FinishReason.STOP)]
    assert read(event(token_ids=[151645], finish_reason="length"))[0][0] == Generated((151645,))


def test_what_came_before_an_error_in_the_same_bytes_is_not_lost() -> None:
    feed = CompletionReader(END).feed(event() + b'data: {"error": {"message": "broken"}}\n\n')
    assert next(feed) == Generated((7,))
    with pytest.raises(EngineFailed, match="broken"):
        next(feed)


@pytest.mark.parametrize("reason", ["abort", "error", "content_filter"])
def test_an_answer_that_the_server_drops_fails(reason: str) -> None:
    with pytest.raises(EngineFailed, match=rf"dropped this answer \({reason}\)"):
        read(event(finish_reason=reason))


@pytest.mark.parametrize("body", [b"data: {\n", b'data: {"choices": [{}]}\n', b"data: []\n", b"data: 1\n"])
def test_what_is_no_answer_fails(body: bytes) -> None:
    with pytest.raises(EngineFailed):
        read(body)


def test_comments_and_other_lines_are_passed_over() -> None:
    parts, reader = read(b": ping\n\nevent: x\n" + event() + b"data:[DONE]\n\n")
    assert parts == [Generated((7,))]
    assert reader.done
