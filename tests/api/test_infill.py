"""Infill: llama.cpp's request and answer, as its editor plug-ins send and read them."""

from __future__ import annotations

from typing import Any

import httpx2
import pytest

from quern.engine.base import Priority
from quern.prompt.codec import TextCodec

from .conftest import SEED, Quern, Start
from .engines import saying
from .streams import frames

SPECIAL = TextCodec.builtin().tokenizer.special.control
PREFIX, SUFFIX, MIDDLE = SPECIAL["<|fim_prefix|>"], SPECIAL["<|fim_suffix|>"], SPECIAL["<|fim_middle|>"]
REPOSITORY, FILE = SPECIAL["<|repo_name|>"], SPECIAL["<|file_sep|>"]

LLAMA_VIM: dict[str, Any] = {
    "id_slot": 0,
    "input_prefix": "import math\n",
    "input_suffix": "\n",
    "input_extra": [{"text": "def area(r):\n", "time": [1, 2], "filename": "areas.py"}],
    "prompt": "def f():",
    "n_predict": 128,
    "stop": [],
    "n_indent": 0,
    "top_k": 40,
    "top_p": 0.9,
    "samplers": ["top_k", "top_p", "infill"],
    "stream": False,
    "cache_prompt": True,
    "t_max_prompt_ms": 500,
    "t_max_predict_ms": 60_000,
    "response_fields": ["content", "timings/prompt_n", "timings/predicted_per_second", "truncated", "tokens_cached"],
    "model": "",
}
LLAMA_VIM_WARMS: dict[str, Any] = {
    "id_slot": 0,
    "input_prefix": "",
    "input_suffix": "",
    "input_extra": LLAMA_VIM["input_extra"],
    "prompt": "",
    "n_predict": 0,
    "temperature": 0.0,
    "samplers": [],
    "stream": False,
    "cache_prompt": True,
    "t_max_prompt_ms": 1,
    "t_max_predict_ms": 1,
    "response_fields": [""],
    "model": "",
}
LLAMA_VSCODE: dict[str, Any] = {
    "input_prefix": "a",
    "input_suffix": "b",
    "input_extra": [],
    "prompt": "",
    "n_predict": 128,
    "top_k": 40,
    "top_p": 0.99,
    "stream": False,
    "samplers": ["top_k", "top_p", "infill"],
    "cache_prompt": True,
    "n_indent": 4,
    "t_max_prompt_ms": 500,
    "t_max_predict_ms": 2500,
}


async def infill(quern: Quern, **body: Any) -> httpx2.Response:
    return await quern.client.post("/infill", json={"input_prefix": "甲(", "input_suffix": ")", **body})


async def test_an_answer_in_one_piece_has_llamacpps_shape(start: Start) -> None:
    async with start(saying("x\n乙")) as quern:
        body = (await infill(quern, model="fake", n_predict=50, seed=7)).json()
        (request,) = quern.engine.requests
        context_length = quern.engine.info.context_length
    timings = body.pop("timings")
    assert body == {
        "index": 0,
        "content": "x\n乙",
        "stop": True,
        "model": "fake",
        "tokens_predicted": 5,
        "tokens_evaluated": 8,
        "tokens_cached": 0,
        "generation_settings": {
            "n_ctx": context_length,
            "n_predict": 50,
            "temperature": 0.7,
            "top_k": 20,
            "top_p": 0.8,
            "min_p": 0.0,
            "repeat_penalty": 1.05,
            "presence_penalty": 0.0,
            "frequency_penalty": 0.0,
            "seed": 7,
            "ignore_eos": False,
        },
        "has_new_line": True,
        "truncated": False,
        "stop_type": "eos",
        "stopping_word": "",
    }
    assert (timings["cache_n"], timings["prompt_n"], timings["predicted_n"]) == (0, 8, 5)
    assert {f"{name}_{unit}" for name in ("prompt", "predicted") for unit in ("ms", "per_token_ms", "per_second")} < (
        timings.keys()
    )
    assert request.prompt == (PREFIX, *"甲(".encode(), SUFFIX, *b")", MIDDLE)
    assert request.priority is Priority.INTERACTIVE
    assert {PREFIX, SUFFIX, FILE, REPOSITORY, SPECIAL["<|im_end|>"]} <= request.stop_token_ids


async def test_a_stream_is_pieces_then_an_empty_one_that_has_the_rest(start: Start) -> None:
    async with start(saying("乙a")) as quern:
        *pieces, last = frames(await infill(quern, stream=True))
    assert pieces == [{"content": "乙", "stop": False}, {"content": "a", "stop": False}]
    assert (last["content"], last["stop"], last["tokens_predicted"]) == ("", True, 4)


async def test_other_files_stand_before_the_gap_and_the_prompt_after_it(quern: Quern) -> None:
    extra = [{"filename": "a.py", "text": "一\n"}, {"text": "<|im_end|>"}]
    assert (await infill(quern, input_extra=extra, prompt="begun")).status_code == 200
    assert quern.engine.requests[-1].prompt == (
        *(REPOSITORY, *b"repository\n"),
        *(FILE, *"a.py\n一\n".encode()),
        *(FILE, *b"file\n<|im_end|>\n"),
        *(FILE, *b"file\n"),
        *(PREFIX, *"甲(".encode(), SUFFIX, *b")", MIDDLE, *b"begun"),
    )


async def test_what_llama_vim_sends_is_answered_with_the_members_that_it_reads(start: Start) -> None:
    async with start(saying("  pass")) as quern:
        body = (await quern.client.post("/infill", json=LLAMA_VIM)).json()
        sampling = quern.engine.requests[-1].sampling
    assert body.keys() == set(LLAMA_VIM["response_fields"])
    assert (body["content"], body["truncated"], body["tokens_cached"]) == ("  pass", False, 0)
    assert isinstance(body["timings/prompt_n"], int)
    assert (sampling.max_tokens, sampling.top_k, sampling.top_p) == (128, 40, 0.9)


async def test_what_llama_vscode_sends_is_answered(start: Start) -> None:
    async with start(saying("if x:\n    y\nz")) as quern:
        body = (await quern.client.post("/infill", json=LLAMA_VSCODE)).json()
    assert body["content"] == "if x:\n    y\n"
    assert body["timings"]["predicted_n"] >= len("if x:\n    y\nz")


async def test_with_n_predict_0_the_prompt_is_read_behind_everybody_elses_and_nothing_is_shown(start: Start) -> None:
    async with start(saying("text")) as quern:
        vim = await quern.client.post("/infill", json=LLAMA_VIM_WARMS)
        whole = (await infill(quern, n_predict=0)).json()
        (streamed,) = frames(await infill(quern, n_predict=0, stream=True))
        requests = quern.engine.requests
    assert vim.json() == {}
    assert (whole["content"], whole["tokens_predicted"], whole["stop_type"]) == ("", 0, "limit")
    assert (streamed["content"], streamed["stop"], streamed["timings"]["predicted_n"]) == ("", True, 0)
    assert {(request.priority, request.sampling.max_tokens) for request in requests} == {(Priority.BACKGROUND, 1)}


async def test_a_prompt_that_was_read_before_is_told_as_cached(start: Start) -> None:
    async with start(saying("x")) as quern:
        await infill(quern, n_predict=0)
        body = (await infill(quern)).json()
    assert body["tokens_cached"] == body["timings"]["cache_n"] > 0
    assert body["timings"]["prompt_n"] == body["tokens_evaluated"] - body["tokens_cached"]


@pytest.mark.parametrize(
    ("given", "stop_type", "word", "content"),
    [
        ({}, "eos", "", "ab\n  c\nd"),
        ({"n_predict": 2}, "limit", "", "ab"),
        ({"stop": ["c", "zz"]}, "word", "c", "ab\n  "),
        ({"n_indent": 2}, "limit", "", "ab\n  c\n"),
    ],
)
async def test_the_reason_for_the_end_is_told(
    start: Start, given: dict[str, Any], stop_type: str, word: str, content: str
) -> None:
    async with start(saying("ab\n  c\nd")) as quern:
        whole = (await infill(quern, **given)).json()
        *pieces, last = frames(await infill(quern, stream=True, **given))
    for body in (whole, last):
        assert (body["stop_type"], body["stopping_word"]) == (stop_type, word)
    assert whole["content"] == content == "".join(piece["content"] for piece in pieces)


@pytest.mark.parametrize("stream", [False, True])
async def test_after_t_max_predict_ms_the_turn_ends_completed_at_the_end_of_a_line(start: Start, stream: bool) -> None:
    async with start(saying("ab\n" * 3000, token_delay=0.001)) as quern:
        response = await infill(quern, t_max_predict_ms=20, stream=stream)
        assert quern.application.turns.active == 0
    *pieces, last = frames(response) if stream else [response.json()]
    content = "".join(piece["content"] for piece in pieces) if stream else last["content"]
    assert last["stop_type"] == "limit"
    assert content.endswith("b\n")
    assert len(content) < len("ab\n" * 3000)


@pytest.mark.parametrize(
    ("given", "name", "value"),
    [
        ({}, "repetition_penalty", 1.05),
        ({"repeat_penalty": 1.2}, "repetition_penalty", 1.2),
        ({"temperature": 0.1}, "temperature", 0.1),
        ({"min_p": 0.2}, "min_p", 0.2),
        ({"top_k": -1}, "top_k", 0),
        ({"presence_penalty": 0.5}, "presence_penalty", 0.5),
        ({"seed": -1}, "seed", SEED),
        ({"seed": 4294967295}, "seed", SEED),
        ({"seed": 42}, "seed", 42),
        ({"n_predict": -1}, "max_tokens", 4096),
        ({"ignore_eos": True, "n_predict": 3}, "ignore_eos", True),
        ({"logit_bias": [[65, 1.5], ["66", False]]}, "logit_bias", {65: 1.5, 66: -100.0}),
        ({"logit_bias": {"65": -1}}, "logit_bias", {65: -1.0}),
    ],
)
async def test_sampling_values_reach_the_engine(quern: Quern, given: dict[str, Any], name: str, value: Any) -> None:
    assert (await infill(quern, **given)).status_code == 200
    assert getattr(quern.engine.requests[-1].sampling, name) == value


async def test_fields_that_are_off_or_change_nothing_may_be_sent(quern: Quern) -> None:
    off: dict[str, Any] = {
        "mirostat": 0,
        "dry_multiplier": 0.0,
        "xtc_probability": 0,
        "typical_p": 1.0,
        "dynatemp_range": 0,
        "n_probs": 0,
        "lora": [],
        "grammar": "",
        "return_tokens": False,
        "min_keep": 3,
        "timings_per_token": True,
    }
    assert (await infill(quern, **off)).status_code == 200


@pytest.mark.parametrize(
    ("body", "param", "words"),
    [
        ({"mirostat": 2}, "mirostat", "send 0"),
        ({"typical_p": 0.9}, "typical_p", "send 1"),
        ({"lora": [{"id": 0, "scale": 0.5}]}, "lora", "send []"),
        ({"grammar": "root ::= x"}, "grammar", 'send ""'),
        ({"n_probs": 3}, "n_probs", "send 0"),
        ({"return_tokens": True}, "return_tokens", "send false"),
        ({"prompt": [65]}, "prompt", "valid string"),
        ({"input_prefix": 1}, "input_prefix", "valid string"),
        ({"input_extra": [{"filename": "x"}]}, "input_extra.0.text", "missing"),
        ({"input_extra": "x"}, "input_extra", "valid list"),
        ({"n_predict": -3}, "n_predict", "greater than or equal to -2"),
        ({"logit_bias": [[65]]}, "logit_bias", "pairs of a token id and a bias"),
        ({"logit_bias": [["word", 1]]}, "logit_bias.[key]", "integer"),
        ({"seed": [1]}, "seed", "integer"),
    ],
)
async def test_what_cannot_be_used_is_refused_by_name(
    quern: Quern, body: dict[str, Any], param: str, words: str
) -> None:
    response = await infill(quern, **body)
    error = response.json()["error"]
    assert response.status_code == 400, error
    assert (error["type"], error["param"]) == ("invalid_request_error", param)
    assert words in error["message"]
    assert quern.engine.requests == []


async def test_prefix_and_suffix_must_be_sent(quern: Quern) -> None:
    for name in ("input_prefix", "input_suffix"):
        body = {"input_prefix": "a", "input_suffix": "b"}
        del body[name]
        response = await quern.client.post("/infill", json=body)
        assert (response.status_code, response.json()["error"]["param"]) == (400, name)


async def test_an_engine_that_fails_is_an_error_or_the_last_frame(start: Start) -> None:
    async with start(saying("abcdef", fail_after=3)) as quern:
        whole = await infill(quern)
        *pieces, last = frames(await infill(quern, stream=True))
    assert whole.status_code == 500
    assert whole.json()["error"]["type"] == "server_error"
    assert "".join(piece["content"] for piece in pieces) == "abc"
    assert "failed after 3 tokens" in last["error"]["message"]


async def test_another_model_and_a_full_context_are_refused(start: Start) -> None:
    async with start(saying("x", context_length=512)) as quern:
        other = await infill(quern, model="codellama")
        full = await infill(quern, input_prefix="x" * 600)
    assert (other.status_code, other.json()["error"]["code"]) == (404, "model_not_found")
    assert (full.status_code, full.json()["error"]["code"]) == (400, "context_length_exceeded")
