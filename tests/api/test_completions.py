"""Completions: prompts that are continued, gaps that are filled, and what is refused."""

from __future__ import annotations

import math
from typing import Any

import httpx2
import openai
import pytest

from quern.api.shared import sse
from quern.engine.base import Priority
from quern.prompt.codec import TextCodec

from .conftest import Quern, Start
from .engines import saying
from .streams import frames

SPECIAL = TextCodec.builtin().tokenizer.special.control
PREFIX, SUFFIX, MIDDLE = SPECIAL["<|fim_prefix|>"], SPECIAL["<|fim_suffix|>"], SPECIAL["<|fim_middle|>"]


async def complete(quern: Quern, **body: Any) -> httpx2.Response:
    return await quern.client.post("/v1/completions", json={"prompt": "hi", **body})


def prompts(quern: Quern) -> list[tuple[int, ...]]:
    return [request.prompt for request in quern.engine.requests]


async def test_an_answer_in_one_piece_has_the_documented_shape(start: Start) -> None:
    async with start(saying("你好!")) as quern:
        response = await complete(quern, model="fake", prompt="冒泡")
        assert prompts(quern) == [tuple("冒泡".encode())]
        assert quern.engine.requests[0].priority is Priority.NORMAL
    body = response.json()
    assert response.status_code == 200
    assert body.pop("id").startswith("cmpl-")
    assert isinstance(body.pop("created"), int)
    assert body == {
        "model": "fake",
        "object": "text_completion",
        "choices": [{"text": "你好!", "index": 0, "logprobs": None, "finish_reason": "stop"}],
        "usage": {
            "prompt_tokens": 6,
            "completion_tokens": 7,
            "total_tokens": 13,
            "prompt_tokens_details": {"cached_tokens": 0},
        },
    }


async def test_a_stream_is_text_then_a_reason_then_usage_then_done(start: Start) -> None:
    async with start(saying("你!")) as quern:
        *chunks, usage, done = frames(await complete(quern, stream=True, stream_options={"include_usage": True}))
    assert done == "[DONE]"
    assert [chunk["choices"] for chunk in chunks] == [
        [{"text": "你", "index": 0, "logprobs": None, "finish_reason": None}],
        [{"text": "!", "index": 0, "logprobs": None, "finish_reason": None}],
        [{"text": "", "index": 0, "logprobs": None, "finish_reason": "stop"}],
    ]
    assert all(chunk["usage"] is None and chunk["object"] == "text_completion" for chunk in chunks)
    assert len({chunk["id"] for chunk in (*chunks, usage)}) == 1
    assert (usage["choices"], usage["usage"]["completion_tokens"]) == ([], 4)


async def test_silence_is_filled_with_chunks_that_add_nothing(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sse, "KEEP_ALIVE_SECONDS", 0.005)
    async with start(saying("ab", token_delay=0.05)) as quern:
        *chunks, _done = frames(await complete(quern, stream=True))
    told = [choice for chunk in chunks for choice in chunk["choices"]]
    assert told.count({"text": "", "index": 0, "logprobs": None, "finish_reason": None}) > 1
    assert "".join(choice["text"] for choice in told) == "ab"


async def test_without_include_usage_no_chunk_has_usage(quern: Quern) -> None:
    *chunks, done = frames(await complete(quern, stream=True))
    assert done == "[DONE]"
    assert all("usage" not in chunk for chunk in chunks)


async def test_a_suffix_makes_a_gap_that_is_filled_before_everybody_else(start: Start) -> None:
    async with start(saying("return 甲")) as quern:
        body = (await complete(quern, prompt="def f():\n    ", suffix="\n甲")).json()
        (request,) = quern.engine.requests
    assert body["choices"][0]["text"] == "return 甲"
    assert request.prompt == (PREFIX, *b"def f():\n    ", SUFFIX, *"\n甲".encode(), MIDDLE)
    assert request.priority is Priority.INTERACTIVE
    ends = ("<|fim_prefix|>", "<|fim_suffix|>", "<|fim_pad|>", "<|repo_name|>", "<|file_sep|>", "<|im_end|>")
    assert {SPECIAL[name] for name in ends} <= request.stop_token_ids


async def test_an_empty_suffix_is_the_end_of_the_file(quern: Quern) -> None:
    assert (await complete(quern, prompt="a", suffix="")).status_code == 200
    assert prompts(quern) == [(PREFIX, *b"a", SUFFIX, MIDDLE)]


async def test_a_whole_frame_for_filling_in_the_middle_is_taken_as_one(quern: Quern) -> None:
    prompt = "<|fim_prefix|>a <|im_end|><|fim_suffix|>b<|fim_middle|>c"
    assert (await complete(quern, prompt=prompt)).status_code == 200
    (request,) = quern.engine.requests
    assert request.prompt == (PREFIX, *b"a <|im_end|>", SUFFIX, *b"b", MIDDLE, *b"c")
    assert request.priority is Priority.INTERACTIVE
    assert PREFIX in request.stop_token_ids


@pytest.mark.parametrize(
    "before",
    [
        "\n",
        "<|file_sep|>a.py\nA = 1\n",
        "<|file_sep|>a.py\n",
        "<|repo_name|>r\n",
        "<|repo_name|>r\n<|file_sep|>a.py\nA\n\n",
    ],
)
@pytest.mark.parametrize(
    "gap", ["<|fim_prefix|>a<|fim_suffix|>b<|fim_middle|>", "<|fim_suffix|>b<|fim_prefix|>a<|fim_middle|>"]
)
async def test_a_frame_is_a_frame_in_every_order_that_editors_send(quern: Quern, before: str, gap: str) -> None:
    assert (await complete(quern, prompt=before + gap)).status_code == 200
    (request,) = quern.engine.requests
    assert request.prompt[-5:] == (PREFIX, *b"a", SUFFIX, *b"b", MIDDLE)
    assert request.priority is Priority.INTERACTIVE
    assert b"<|" not in bytes(token for token in request.prompt if token < 256)


@pytest.mark.parametrize(
    "prompt", ["<|im_start|>user", "x<|fim_prefix|>a<|fim_suffix|>b<|fim_middle|>", "<|fim_prefix|>"]
)
async def test_any_other_text_of_special_tokens_stays_text(quern: Quern, prompt: str) -> None:
    assert (await complete(quern, prompt=prompt)).status_code == 200
    assert prompts(quern) == [tuple(prompt.encode())]


@pytest.mark.parametrize(
    ("prompt", "ids"),
    [
        ([104, 105], [(104, 105)]),
        ([[104], [105, 106]], [(104,), (105, 106)]),
        (["h", "ij"], [(104,), (105, 106)]),
        ([["h"]], None),
        (["h", [105]], None),
        ([True], None),
        ([], None),
        ({}, None),
        (None, None),
    ],
)
async def test_prompts_are_texts_or_token_ids(quern: Quern, prompt: Any, ids: list[tuple[int, ...]] | None) -> None:
    response = await complete(quern, prompt=prompt)
    if ids is not None:
        assert response.status_code == 200
        assert sorted(prompts(quern)) == ids
    else:
        assert response.status_code == 400
        assert response.json()["error"]["param"] == "prompt"
        assert "a string, a list of strings, a list of token ids" in response.json()["error"]["message"]


async def test_several_prompts_have_their_choices_one_after_the_other(quern: Quern) -> None:
    body = (await complete(quern, prompt=["one", "three"], n=2, seed=5)).json()
    assert [(choice["index"], choice["text"]) for choice in body["choices"]] == [
        (0, "one"),
        (1, "one"),
        (2, "three"),
        (3, "three"),
    ]
    seeds = sorted((request.prompt, request.sampling.seed) for request in quern.engine.requests)
    assert seeds == [(tuple(b"one"), 5), (tuple(b"one"), 6), (tuple(b"three"), 5), (tuple(b"three"), 6)]
    assert (body["usage"]["prompt_tokens"], body["usage"]["completion_tokens"]) == (3 + 5, 2 * 3 + 2 * 5)


async def test_several_prompts_are_streamed_side_by_side(quern: Quern) -> None:
    *chunks, usage, done = frames(
        await complete(quern, prompt=["甲", "b"], n=2, stream=True, stream_options={"include_usage": True})
    )
    assert done == "[DONE]"
    for index, text in enumerate(["甲", "甲", "b", "b"]):
        of_choice = [chunk["choices"][0] for chunk in chunks if chunk["choices"][0]["index"] == index]
        assert "".join(choice["text"] for choice in of_choice) == text
        assert of_choice[-1]["finish_reason"] == "stop"
    assert (usage["usage"]["prompt_tokens"], usage["usage"]["completion_tokens"]) == (4, 8)


async def test_where_one_of_several_prompts_is_refused_none_goes_on(start: Start) -> None:
    async with start(saying("x" * 500, token_delay=0.01, context_length=1024)) as quern:
        response = await complete(quern, prompt=["short", "x" * 1020])
        assert response.status_code == 400
        assert response.json()["error"]["code"] == "context_length_exceeded"
        await quern.application.turns.drain(5)
        assert quern.application.turns.active == 0


@pytest.mark.parametrize(
    ("body", "text"),
    [
        ({"prompt": "甲乙"}, "甲乙!"),
        ({"prompt": [*"甲".encode(), PREFIX, 65]}, "甲A!"),
        ({"prompt": "甲", "suffix": "乙"}, "甲!"),
    ],
)
async def test_an_echo_is_the_prompts_text_before_the_answer(start: Start, body: dict[str, Any], text: str) -> None:
    async with start(saying("!")) as quern:
        whole = (await complete(quern, echo=True, **body)).json()
        *chunks, _done = frames(await complete(quern, echo=True, stream=True, **body))
    assert whole["choices"][0]["text"] == text
    assert [chunk["choices"][0]["text"] for chunk in chunks] == [text[:-1], "!", ""]


async def test_probabilities_come_by_columns_with_offsets_in_characters_from_the_prompts_beginning(
    start: Start,
) -> None:
    async with start(saying("你a")) as quern:
        (choice,) = (await complete(quern, prompt="冒泡", logprobs=2)).json()["choices"]
    table = choice["logprobs"]
    first, second, third = (f"bytes:\\x{byte:02x}" for byte in "你".encode())
    assert table["tokens"] == [first, second, third, "a"]
    assert table["text_offset"] == [2, 2, 2, 3]
    assert table["token_logprobs"] == [-0.5] * 4
    assert table["top_logprobs"][3] == {"a": -0.5, "b": -1.5}
    assert all(len(top) == 2 for top in table["top_logprobs"])


async def test_with_logprobs_0_only_the_drawn_tokens_are_told(start: Start) -> None:
    async with start(saying("ab")) as quern:
        (choice,) = (await complete(quern, logprobs=0)).json()["choices"]
    assert choice["logprobs"] == {
        "tokens": ["a", "b"],
        "token_logprobs": [-0.5, -0.5],
        "top_logprobs": None,
        "text_offset": [2, 3],
    }


async def test_streamed_probabilities_come_with_their_text_and_their_offsets_go_on(start: Start) -> None:
    async with start(saying("你a")) as quern:
        *chunks, _done = frames(await complete(quern, prompt="冒泡", logprobs=1, stream=True))
    told = [(chunk["choices"][0]["text"], chunk["choices"][0]["logprobs"]) for chunk in chunks]
    assert [text for text, _ in told] == ["你", "a", ""]
    assert [table["text_offset"] for _, table in told[:2]] == [[2, 2, 2], [3]]
    assert told[2][1] is None


async def test_a_stop_string_ends_the_text_before_it_and_a_limit_is_told(start: Start) -> None:
    async with start(saying("甲乙丙")) as quern:
        stopped = (await complete(quern, stop="乙")).json()["choices"][0]
        limited = (await complete(quern, max_tokens=3)).json()["choices"][0]
    assert (stopped["text"], stopped["finish_reason"]) == ("甲", "stop")
    assert (limited["text"], limited["finish_reason"]) == ("甲", "length")


async def test_sampling_values_reach_the_engine_and_the_rest_are_the_servers_defaults(quern: Quern) -> None:
    values = {
        "temperature": 0.3,
        "top_p": 0.9,
        "top_k": 7,
        "min_p": 0.1,
        "repetition_penalty": 1.2,
        "presence_penalty": 0.5,
        "frequency_penalty": -0.5,
        "seed": 11,
        "logit_bias": {"65": -100},
        "max_tokens": 9,
        "user": "someone",
        "best_of": 1,
    }
    assert (await complete(quern, **values)).status_code == 200
    sampling = quern.engine.requests[-1].sampling
    assert (sampling.temperature, sampling.top_p, sampling.top_k, sampling.min_p) == (0.3, 0.9, 7, 0.1)
    assert (sampling.repetition_penalty, sampling.presence_penalty, sampling.frequency_penalty) == (1.2, 0.5, -0.5)
    assert (sampling.seed, sampling.logit_bias, sampling.max_tokens) == (11, {65: -100.0}, 9)
    assert (await complete(quern)).status_code == 200
    assert quern.engine.requests[-1].sampling.max_tokens == 4096


async def test_a_limit_beyond_the_context_gives_what_room_there_is(start: Start) -> None:
    async with start(saying("x", context_length=1024)) as quern:
        assert (await complete(quern, max_tokens=100_000)).status_code == 200
        assert quern.engine.requests[-1].sampling.max_tokens == 1024 - 2


async def test_an_engine_that_fails_is_an_error_or_the_last_frame(start: Start) -> None:
    async with start(saying("abcdef", fail_after=3)) as quern:
        whole = await complete(quern)
        sent = frames(await complete(quern, stream=True))
    assert whole.status_code == 500
    assert whole.json()["error"]["type"] == "server_error"
    assert "".join(chunk["choices"][0]["text"] for chunk in sent[:-1]) == "abc"
    assert "failed after 3 tokens" in sent[-1]["error"]["message"]


@pytest.mark.parametrize(
    ("body", "param", "words"),
    [
        ({"prompt": ""}, "prompt", "is empty"),
        ({"prompt": [[65], []]}, "prompt", "is empty"),
        ({"prompt": [65, 5000]}, "prompt", "ids are 0 to"),
        ({"prompt": [-1]}, "prompt", "ids are 0 to"),
        ({"prompt": [65], "suffix": "x"}, "suffix", "a prompt that is text"),
        ({"prompt": ["x"] * 17}, "prompt", "17 prompts with 1 answers each"),
        ({"prompt": ["x"] * 3, "n": 6}, "n", "18 answers"),
        ({"n": 17}, "n", "less than or equal to 16"),
        ({"best_of": 2}, "best_of", "Send n=2"),
        ({"n": 3, "best_of": 2}, "best_of", "more answers than it returns"),
        ({"echo": True, "logprobs": 0}, "logprobs", "echo or logprobs"),
        ({"logprobs": 6}, "logprobs", "less than or equal to 5"),
        ({"logprobs": -1}, "logprobs", "greater than or equal to 0"),
        ({"max_tokens": 0}, "max_tokens", "greater than or equal to 1"),
        ({"temperature": 2.5}, "temperature", "less than or equal to 2"),
        ({"stop": [1]}, "stop.0", "valid string"),
        ({"prompt": None, "segments": {}}, "segments.prefix", "missing"),
    ],
)
async def test_what_cannot_be_used_is_refused_by_name(
    quern: Quern, body: dict[str, Any], param: str, words: str
) -> None:
    response = await complete(quern, **body)
    error = response.json()["error"]
    assert response.status_code == 400, error
    assert (error["type"], error["param"]) == ("invalid_request_error", param)
    assert words in error["message"]
    await quern.application.turns.drain(5)
    assert not [request for request in quern.engine.requests if request.prompt != (65,)]


async def test_a_prompt_that_is_missing_and_a_model_that_is_not_served_are_refused(quern: Quern) -> None:
    missing = await quern.client.post("/v1/completions", json={})
    assert (missing.status_code, missing.json()["error"]["param"]) == (400, "prompt")
    other = await complete(quern, model="gpt-3.5-turbo-instruct")
    assert (other.status_code, other.json()["error"]["code"]) == (404, "model_not_found")


async def test_openais_own_library_reads_answers_and_streams(start: Start) -> None:
    async with (
        start(saying("你好"), live=True) as quern,
        openai.AsyncOpenAI(base_url=f"{quern.client.base_url}/v1", api_key="none") as client,
    ):
        whole = await client.completions.create(model="fake", prompt=["a", "b"], suffix="z", logprobs=1)
        stream = await client.completions.create(model="fake", prompt="a", stream=True)
        pieces = [chunk.choices[0].text async for chunk in stream]
    assert [choice.text for choice in whole.choices] == ["你好", "你好"]
    logprobs = whole.choices[0].logprobs
    assert logprobs is not None
    assert logprobs.token_logprobs is not None
    assert math.isclose(sum(logprobs.token_logprobs), -0.5 * 6)
    assert "".join(pieces) == "你好"
