"""The protocol of the child that runs Transformers: what is read of a request, what is written of an answer."""

from __future__ import annotations

import json
from typing import Any

import pytest

from quern.engine.transformers.child.completion import (
    Chunks,
    Completion,
    Ended,
    Failed,
    Progress,
    Refused,
    Token,
    read_completion,
)


def read(**fields: Any) -> Completion:
    body = {"prompt": [1, 2, 3], "max_tokens": 5, "stream": True, **fields}
    return read_completion(json.dumps(body).encode(), vocabulary_size=100, context_length=50)


def events_in(stream: bytes) -> list[Any]:
    parts = stream.decode().split("\n\n")
    assert parts.pop() == ""
    texts = [part.removeprefix("data: ") for part in parts]
    return [text if text == "[DONE]" else json.loads(text) for text in texts]


def test_a_request_is_read_with_every_value() -> None:
    read_values = read(
        model="any",
        temperature=0.7,
        top_p=0.8,
        top_k=20,
        min_p=0.05,
        repetition_penalty=1.05,
        presence_penalty=0.5,
        frequency_penalty=-0.5,
        seed=-7,
        logit_bias={"5": -100, "6": 1.5},
        stop_token_ids=[7, 8],
        ignore_eos=True,
        logprobs=3,
        structured_outputs={"grammar": 'start: "a"'},
        cache_salt="salt",
        priority=1,
        return_token_ids=True,
        return_progress=True,
        stream_options={"include_usage": True},
    )
    assert read_values == Completion(
        prompt=(1, 2, 3),
        max_tokens=5,
        temperature=0.7,
        top_p=0.8,
        top_k=20,
        min_p=0.05,
        repetition_penalty=1.05,
        presence_penalty=0.5,
        frequency_penalty=-0.5,
        seed=-7,
        logit_bias={5: -100.0, 6: 1.5},
        stop_token_ids=frozenset({7, 8}),
        ignore_eos=True,
        logprobs=3,
        grammar='start: "a"',
        cache_salt="salt",
        return_progress=True,
        include_usage=True,
    )


def test_what_is_not_said_changes_nothing() -> None:
    assert read(top_k=-1, seed=None, logprobs=None) == Completion(prompt=(1, 2, 3), max_tokens=5)


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({"prompt": "text"}, "prompt is not a list of token ids with at least one"),
        ({"prompt": []}, "prompt is not a list of token ids with at least one"),
        ({"prompt": [1, 100]}, "prompt has 100 in it, and a token's id is from 0 to 99"),
        ({"prompt": [True]}, "prompt has True in it"),
        ({"max_tokens": 0}, "max_tokens is 0"),
        ({"max_tokens": 48}, "together they may be 50 at most"),
        ({"temperature": -1}, "temperature is -1"),
        ({"temperature": "hot"}, "temperature is 'hot'"),
        ({"top_p": 1.5}, "top_p is 1.5"),
        ({"logit_bias": {"100": 1}}, "logit_bias names 100"),
        ({"logit_bias": [1]}, "logit_bias is not an object"),
        ({"ignore_eos": 1}, "ignore_eos is 1"),
        ({"structured_outputs": {"json": {}}}, "structured_outputs has to be an object with the field grammar"),
        ({"cache_salt": 1}, "cache_salt is not a text"),
        ({"stream": False}, "stream is not true"),
        ({"n": 2}, "n is not 1"),
        ({"best_of": 2, "echo": True}, "best_of, echo: not known here"),
    ],
)
def test_what_can_not_be_served_is_refused_by_name(fields: dict[str, Any], why: str) -> None:
    with pytest.raises(Refused, match=why):
        read(**fields)


@pytest.mark.parametrize("body", [b"{", b"[]", b"\xff"])
def test_a_body_that_is_no_json_object_is_refused(body: bytes) -> None:
    with pytest.raises(Refused, match="The body is not"):
        read_completion(body, vocabulary_size=100, context_length=50)


def test_tokens_that_come_together_are_one_chunk() -> None:
    chunks = Chunks(read(stop_token_ids=[9]), "cmpl-1", "model")
    (first,) = events_in(chunks.of([Token(4), Token(5)]))
    assert (first["id"], first["model"], first["object"]) == ("cmpl-1", "model", "text_completion")
    assert first["choices"] == [
        {
            "index": 0,
            "text": "",
            "token_ids": [4, 5],
            "logprobs": None,
            "finish_reason": None,
            "stop_reason": None,
        }
    ]
    last, done = events_in(chunks.of([Token(9), Ended(stop=True, stop_reason=9)]))
    choice = last["choices"][0]
    assert (choice["token_ids"], choice["finish_reason"], choice["stop_reason"], done) == ([9], "stop", 9, "[DONE]")


def test_usage_comes_last_where_it_is_asked_for() -> None:
    chunks = Chunks(read(stream_options={"include_usage": True}), "cmpl-1", "model")
    chunks.of([Token(4)])
    _, usage, done = events_in(chunks.of([Token(5), Ended(stop=False, cached=2)]))
    assert done == "[DONE]"
    assert usage["choices"] == []
    assert usage["usage"] == {
        "prompt_tokens": 3,
        "completion_tokens": 2,
        "total_tokens": 5,
        "prompt_tokens_details": {"cached_tokens": 2},
    }


def test_logprobs_name_tokens_by_their_ids() -> None:
    chunks = Chunks(read(logprobs=2), "cmpl-1", "model")
    (chunk,) = events_in(chunks.of([Token(4, -1.5, ((7, -0.5), (4, -1.5)))]))
    assert chunk["choices"][0]["logprobs"] == {
        "text_offset": [0],
        "tokens": ["token_id:4"],
        "token_logprobs": [-1.5],
        "top_logprobs": [{"token_id:4": -1.5, "token_id:7": -0.5}],
    }


def test_progress_is_told_only_where_it_is_asked_for() -> None:
    assert Chunks(read(), "cmpl-1", "model").of([Progress(2)]) == b""
    (chunk,) = events_in(Chunks(read(return_progress=True), "cmpl-1", "model").of([Progress(2, 1), Progress(3, 1)]))
    assert (chunk["choices"], chunk["prompt_progress"]) == ([], {"total": 3, "cache": 1, "processed": 3})


def test_a_lost_answer_ends_with_an_error_and_no_finish_reason() -> None:
    error, done = events_in(Chunks(read(), "cmpl-1", "model").of([Failed("It was lost.")]))
    assert error == {"error": {"message": "It was lost.", "type": "InternalServerError", "code": 500}}
    assert done == "[DONE]"
