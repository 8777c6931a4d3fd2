"""Mistral's request to fill a gap, and completions under their first name."""

from __future__ import annotations

import json
from typing import Any

import pytest

from quern.engine.base import Priority
from quern.prompt.codec import TextCodec

from .conftest import SEED, Quern, Start
from .engines import saying

SPECIAL = TextCodec.builtin().tokenizer.special.control
PREFIX, SUFFIX, MIDDLE = SPECIAL["<|fim_prefix|>"], SPECIAL["<|fim_suffix|>"], SPECIAL["<|fim_middle|>"]
FIM = "/v1/fim/completions"
COPILOT: dict[str, Any] = {
    "prompt": "# Path: a.py\ndef f(",
    "suffix": "):\n    pass\n",
    "max_tokens": 500,
    "temperature": 0.1,
    "top_p": 1,
    "n": 2,
    "stop": ["\n"],
    "nwo": "owner/repository",
    "stream": True,
    "extra": {"language": "python", "next_indent": 0, "trim_by_indentation": True, "prompt_tokens": 9},
}


def chunks(text: str) -> list[Any]:
    *lines, done, rest = text.split("\n\n")
    assert (done, rest) == ("data: [DONE]", "")
    return [json.loads(line.removeprefix("data: ")) for line in lines]


async def test_an_answer_is_a_chat_completion_with_the_filling(start: Start) -> None:
    async with start(saying("乙")) as quern:
        body = (await quern.client.post(FIM, json={"prompt": "a", "suffix": "b", "max_tokens": 9})).json()
        (request,) = quern.engine.requests
    assert request.prompt == (PREFIX, 97, SUFFIX, 98, MIDDLE)
    assert request.priority is Priority.INTERACTIVE
    assert (body["object"], body["model"]) == ("chat.completion", "fake")
    (choice,) = body["choices"]
    assert choice["message"] == {"role": "assistant", "content": "乙", "tool_calls": None, "prefix": False}
    assert (choice["index"], choice["finish_reason"]) == (0, "stop")
    assert (body["usage"]["prompt_tokens"], body["usage"]["completion_tokens"]) == (5, 3)


async def test_every_chunk_of_a_stream_has_a_choice_and_the_last_one_the_usage(start: Start) -> None:
    async with start(saying("a乙")) as quern:
        response = await quern.client.post(FIM, json={"prompt": "a", "suffix": "b", "stream": True})
    found = chunks(response.text)
    assert [chunk["choices"][0]["delta"].get("content") for chunk in found] == ["", "a", "乙", ""]
    assert [chunk["choices"][0]["finish_reason"] for chunk in found] == [None, None, None, "stop"]
    assert [chunk["object"] for chunk in found] == ["chat.completion.chunk"] * 4
    assert ["usage" in chunk for chunk in found] == [False, False, False, True]
    assert len({chunk["id"] for chunk in found}) == 1


@pytest.mark.parametrize(
    ("body", "ids"),
    [
        ({"prompt": "ab"}, (97, 98)),
        ({"prompt": "ab", "suffix": None}, (97, 98)),
        ({"prompt": "ab", "suffix": ""}, (PREFIX, 97, 98, SUFFIX, MIDDLE)),
        ({"prompt": "", "suffix": "a"}, (PREFIX, SUFFIX, 97, MIDDLE)),
        ({"prompt": "<|fim_prefix|>a<|fim_suffix|>b<|fim_middle|>"}, (PREFIX, 97, SUFFIX, 98, MIDDLE)),
    ],
)
async def test_without_a_suffix_the_prompt_goes_on(quern: Quern, body: dict[str, Any], ids: tuple[int, ...]) -> None:
    assert (await quern.client.post(FIM, json=body)).status_code == 200
    assert quern.engine.requests[-1].prompt == ids


async def test_what_mistrals_library_sends_for_nothing_is_nothing(quern: Quern) -> None:
    body: dict[str, Any] = {
        "model": "fake", "prompt": "a", "temperature": None, "top_p": 1, "max_tokens": None, "stream": False,
        "stop": None, "random_seed": None, "metadata": None, "suffix": None, "min_tokens": None,
    }  # fmt: skip
    response = await quern.client.post(FIM, json=body)
    assert response.status_code == 200, response.text
    assert "x-quern-ignored" not in response.headers


@pytest.mark.parametrize(
    ("seeds", "seed"), [({"random_seed": 5}, 5), ({"seed": 6}, 6), ({"random_seed": 5, "seed": 6}, 6), ({}, SEED)]
)
async def test_the_seed_has_mistrals_name_too(quern: Quern, seeds: dict[str, int], seed: int) -> None:
    assert (await quern.client.post(FIM, json={"prompt": "a", **seeds})).status_code == 200
    assert quern.engine.requests[-1].sampling.seed == seed


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({}, "prompt"),
        ({"prompt": ["a"]}, "prompt"),
        ({"prompt": "a", "suffix": 1}, "suffix"),
        ({"prompt": ""}, "prompt"),
    ],
)
async def test_what_cannot_be_used_is_refused_by_name(quern: Quern, body: dict[str, Any], param: str) -> None:
    response = await quern.client.post(FIM, json=body)
    assert response.status_code == 400
    assert response.json()["error"]["param"] == param
    assert quern.engine.requests == []


async def test_another_model_is_not_found(quern: Quern) -> None:
    response = await quern.client.post(FIM, json={"prompt": "a", "model": "codestral-latest"})
    assert (response.status_code, response.json()["error"]["code"]) == (404, "model_not_found")


async def test_a_failure_in_mid_stream_is_the_last_frame(start: Start) -> None:
    async with start(saying("abcdef", fail_after=3)) as quern:
        response = await quern.client.post(FIM, json={"prompt": "a", "suffix": "b", "stream": True})
    *_, last, rest = response.text.split("\n\n")
    assert rest == ""
    assert "error" in json.loads(last.removeprefix("data: "))


@pytest.mark.parametrize("engine", ["copilot-codex", "davinci", "fake", "gpt-4o-copilot"])
async def test_completions_are_served_under_their_first_name_whichever_engine_it_has(start: Start, engine: str) -> None:
    async with start(saying("x, y\nz")) as quern:
        response = await quern.client.post(f"/v1/engines/{engine}/completions", json=COPILOT)
        same = await quern.client.post("/v1/completions", json=COPILOT)
    assert response.status_code == 200, response.text
    texts = ["".join(chunk["choices"][0]["text"] for chunk in chunks(one.text)) for one in (response, same)]
    assert texts == ["x, yx, y", "x, yx, y"]
    assert {chunk["model"] for chunk in chunks(response.text)} == {"fake"}


async def test_the_model_in_the_body_is_looked_at_under_either_name(quern: Quern) -> None:
    body = {"prompt": "a", "model": "another"}
    for path in ("/v1/engines/copilot-codex/completions", "/v1/completions"):
        assert (await quern.client.post(path, json=body)).status_code == 404
