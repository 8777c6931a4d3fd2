"""Completions as llama.cpp's own clients ask for them, and what they look for first."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import httpx2
import pytest

from quern.engine.base import Priority
from quern.engine.fake import FakeEngine
from quern.grammar.kinds import JsonGrammar
from quern.prompt.codec import TextCodec

from .conftest import Quern, Start
from .engines import saying
from .streams import frames

CODEC = TextCodec.builtin()
SPECIAL = CODEC.tokenizer.special.control
IM_START, PREFIX, SUFFIX, MIDDLE = (
    SPECIAL[name] for name in ("<|im_start|>", "<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>")
)
SILLY_TAVERN: dict[str, Any] = {
    "prompt": "Once",
    "n_predict": 30,
    "max_tokens": 30,
    "temperature": 0.7,
    "temperature_last": True,
    "top_k": 40,
    "typical_p": 1,
    "typical": 1,
    "min_p": 0.05,
    "repeat_penalty": 1.1,
    "repeat_last_n": 64,
    "penalize_nl": False,
    "mirostat": 0,
    "dry_multiplier": 0,
    "xtc_probability": 0,
    "dynatemp_range": 0,
    "grammar": "",
    "json_schema": None,
    "stop": ["\nUser:"],
    "seed": -1,
    "cache_prompt": True,
    "samplers": ["top_k", "temperature"],
    "stream": False,
    "n_probs": 0,
    "api_type": "llamacpp",
}


async def complete(quern: Quern, path: str = "/completion", **body: Any) -> httpx2.Response:
    return await quern.client.post(path, json={"prompt": "甲", **body})


@pytest.mark.parametrize("path", ["/completion", "/completions"])
async def test_an_answer_in_one_piece_has_llamacpps_shape(start: Start, path: str) -> None:
    async with start(saying("x\n乙")) as quern:
        body = (await complete(quern, path, n_predict=50, seed=7, model="fake")).json()
        (request,) = quern.engine.requests
    assert body.keys() == {
        "index", "content", "tokens", "stop", "model", "prompt", "tokens_predicted", "tokens_evaluated",
        "tokens_cached", "generation_settings", "has_new_line", "truncated", "stop_type", "stopping_word", "timings",
    }  # fmt: skip
    assert (body["content"], body["prompt"], body["stop"], body["stop_type"]) == ("x\n乙", "甲", True, "eos")
    assert (body["tokens_evaluated"], body["tokens_predicted"], body["index"]) == (3, 5, 0)
    assert (body["generation_settings"]["n_predict"], body["generation_settings"]["seed"]) == (50, 7)
    assert request.prompt == tuple("甲".encode())
    assert request.priority is Priority.NORMAL


async def test_a_stream_is_pieces_then_an_empty_one_that_has_the_rest(start: Start) -> None:
    async with start(saying("乙a")) as quern:
        *pieces, last = frames(await complete(quern, stream=True))
    assert pieces == [
        {"index": 0, "content": "乙", "tokens": [], "stop": False},
        {"index": 0, "content": "a", "tokens": [], "stop": False},
    ]
    assert (last["content"], last["stop"], last["tokens_predicted"], last["prompt"]) == ("", True, 4, "甲")


@pytest.mark.parametrize(
    ("prompt", "ids"),
    [
        ("a", (97,)),
        ([97, 98], (97, 98)),
        ([IM_START, "user\n", 98], (IM_START, *b"user\n", 98)),
        (["<|im_start|>", 98], (*b"<|im_start|>", 98)),
        ({"prompt_string": "ab"}, (97, 98)),
        ({"prompt_string": "ab", "multimodal_data": []}, (97, 98)),
        (["ab"], (97, 98)),
        ([[97, "b"]], (97, 98)),
        ("<|fim_prefix|>a<|fim_suffix|>b<|fim_middle|>", (PREFIX, 97, SUFFIX, 98, MIDDLE)),
    ],
)
async def test_a_prompt_is_a_text_or_ids_or_both(quern: Quern, prompt: Any, ids: tuple[int, ...]) -> None:
    response = await complete(quern, prompt=prompt)
    assert response.status_code == 200, response.text
    assert [request.prompt for request in quern.engine.requests] == [ids]
    assert isinstance(response.json(), dict)


async def test_the_prompt_is_told_with_the_names_of_its_special_tokens(quern: Quern) -> None:
    body = (await complete(quern, prompt=[IM_START, "user\n甲", 98])).json()
    assert body["prompt"] == "<|im_start|>user\n甲b"


@pytest.mark.parametrize(
    ("prompt", "all_ids"),
    [
        (["a", "b"], [(97,), (98,)]),
        (["a", [98, "c"], {"prompt_string": "d"}], [(97,), (98, 99), (100,)]),
        ([[97], [98]], [(97,), (98,)]),
    ],
)
async def test_several_prompts_get_a_list_of_answers_in_their_order(
    quern: Quern, prompt: Any, all_ids: list[tuple[int, ...]]
) -> None:
    answers = (await complete(quern, prompt=prompt)).json()
    assert sorted(request.prompt for request in quern.engine.requests) == all_ids
    assert [answer["index"] for answer in answers] == list(range(len(all_ids)))
    assert [answer["prompt"] for answer in answers] == [bytes(ids).decode() for ids in all_ids]
    streamed = frames(await complete(quern, prompt=prompt, stream=True))
    for index, answer in enumerate(answers):
        pieces = [piece for piece in streamed if piece["index"] == index]
        assert "".join(piece["content"] for piece in pieces) == answer["content"]
        assert [piece["stop"] for piece in pieces].count(True) == 1


@pytest.mark.parametrize(
    ("body", "param", "words"),
    [
        ({"prompt": []}, "prompt", "a text, a list of token ids"),
        ({"prompt": 5}, "prompt", "a text, a list of token ids"),
        ({"prompt": [True]}, "prompt", "a text, a list of token ids"),
        ({"prompt": [97, [98]]}, "prompt", "a text, a list of token ids"),
        ({"prompt": {"text": "a"}}, "prompt", "a text, a list of token ids"),
        ({"prompt": {"prompt_string": "a", "multimodal_data": ["aGk="]}}, "prompt", "reads text only"),
        ({"prompt": [10**9]}, "prompt", "token id that the model doesn't have"),
        ({"prompt": [10**9, "a"]}, "prompt", "token id that the model doesn't have"),
        ({"prompt": ["a"] * 17}, "prompt", "16 answers at most"),
        ({"prompt": ""}, "prompt", "prompt is empty"),
        ({"grammar": 'root ::= "a"'}, "grammar", "json_schema"),
        ({"image_data": [{"data": "aGk=", "id": 1}]}, "image_data", "send []"),
        ({"n_probs": 2}, "n_probs", "send 0"),
        ({"json_schema": "x"}, "json_schema", "valid dictionary"),
        ({"model": "another"}, None, "is not served here"),
    ],
)
async def test_what_cannot_be_used_is_refused_by_name(
    quern: Quern, body: dict[str, Any], param: str | None, words: str
) -> None:
    response = await complete(quern, **body)
    assert response.status_code in {400, 404}, response.text
    error = response.json()["error"]
    assert error["param"] == param
    assert words in error["message"]
    assert quern.engine.requests == []


async def test_a_json_schema_is_kept_to_and_one_that_cannot_be_is_refused(start: Start) -> None:
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}}
    async with start(saying('{"a": 1}', refused_keyword="not")) as quern:
        for path in ("/completion", "/infill"):
            body = {"prompt": "x", "json_schema": schema, "input_prefix": "a", "input_suffix": "b"}
            assert (await quern.client.post(path, json=body)).status_code == 200
            grammar = quern.engine.requests[-1].grammar
            assert isinstance(grammar, JsonGrammar)
            assert json.loads(grammar.schema) == schema
            refused = await quern.client.post(path, json={**body, "json_schema": {"not": {}}})
            assert refused.status_code == 400
            assert refused.json()["error"]["param"] == "json_schema"
        await complete(quern, json_schema={})
        assert quern.engine.requests[-1].grammar == JsonGrammar("{}")
        await complete(quern, json_schema=None)
        assert quern.engine.requests[-1].grammar is None


@pytest.mark.parametrize(
    ("body", "tokens"),
    [
        ({}, 4096),
        ({"n_predict": -1}, 4096),
        ({"n_predict": -2}, 4096),
        ({"n_predict": 9}, 9),
        ({"max_tokens": 9}, 9),
        ({"max_tokens": -1}, 4096),
        ({"max_tokens": 9, "n_predict": 7}, 7),
        ({"n_predict": None, "max_tokens": None}, 4096),
    ],
)
async def test_the_length_has_two_names_and_below_zero_is_the_servers_default(
    quern: Quern, body: dict[str, Any], tokens: int
) -> None:
    assert (await complete(quern, **body)).status_code == 200
    assert quern.engine.requests[-1].sampling.max_tokens == tokens


@pytest.mark.parametrize("name", ["n_predict", "max_tokens"])
async def test_with_no_tokens_wanted_the_prompt_is_only_read(quern: Quern, name: str) -> None:
    nothing: dict[str, Any] = {name: 0}
    body = (await complete(quern, **nothing)).json()
    assert (body["content"], body["tokens_predicted"]) == ("", 0)
    assert quern.engine.requests[-1].priority is Priority.BACKGROUND


async def test_stops_and_limits_are_told_apart(start: Start) -> None:
    async with start(saying("ab|cd")) as quern:
        word = (await complete(quern, stop=["|"])).json()
        limit = (await complete(quern, n_predict=2)).json()
        fields = (await complete(quern, response_fields=["content", "timings/predicted_n", "nothing"])).json()
    assert (word["content"], word["stop_type"], word["stopping_word"]) == ("ab", "word", "|")
    assert (limit["content"], limit["stop_type"]) == ("ab", "limit")
    assert fields == {"content": "ab|cd", "timings/predicted_n": 5}


async def test_what_silly_tavern_sends_is_answered(quern: Quern) -> None:
    response = await quern.client.post("/completion", json=SILLY_TAVERN)
    assert response.status_code == 200, response.text
    assert quern.engine.requests[-1].sampling.repetition_penalty == 1.1


@pytest.mark.parametrize("prompt", ["a", ["a", "b"]])
async def test_a_failure_in_mid_stream_is_the_last_frame(start: Start, prompt: Any) -> None:
    async with start(saying("abcdef", fail_after=3)) as quern:
        *_, last = frames(await complete(quern, prompt=prompt, stream=True))
        whole = await complete(quern, prompt=prompt)
    assert last["error"]["type"] == "server_error"
    assert whole.status_code == 500


async def test_a_header_of_conversations_is_refused(quern: Quern) -> None:
    headers = {"x-quern-conversation": "c"}
    assert (await quern.client.post("/completion", json={"prompt": "a"}, headers=headers)).status_code == 400


async def test_props_tell_what_is_served_and_no_path(quern: Quern) -> None:
    props = (await quern.client.get("/props")).json()
    info = quern.engine.info
    settings = props["default_generation_settings"]
    assert (props["total_slots"], props["model_alias"], props["model_path"]) == (info.parallel, "fake", "fake")
    assert (settings["n_ctx"], settings["params"]["temperature"]) == (info.context_length, 0.7)
    assert settings["is_processing"] is False
    assert "<|im_start|>" in props["chat_template"]
    assert props["chat_template_caps"]["supports_tools"] is True
    assert props["modalities"] == {"vision": False, "audio": False}


async def test_slots_show_the_callers_turns_while_they_run_and_never_their_text(start: Start) -> None:
    engine = FakeEngine(parallel=2, token_delay=0.01, vocabulary_size=CODEC.vocabulary_size)
    async with start(engine) as quern:
        idle = (await quern.client.get("/slots")).json()
        asking = asyncio.ensure_future(complete(quern, prompt="secret\n" * 100, n_predict=600))
        slots = idle
        while not any(slot["next_token"]["n_decoded"] > 10 for slot in slots):
            await asyncio.sleep(0.02)
            slots = (await quern.client.get("/slots")).json()
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)
    assert [slot["is_processing"] for slot in idle] == [False, False]
    assert [slot["is_processing"] for slot in slots] == [True, False]
    token = slots[0]["next_token"]
    assert token["n_decoded"] + token["n_remain"] == 600
    assert token["has_new_line"] is True
    assert slots[0]["params"]["n_predict"] == 600
    assert "secret" not in json.dumps(slots)


async def test_slots_fail_on_request_where_none_is_free(start: Start) -> None:
    engine = FakeEngine(parallel=1, token_delay=0.05, vocabulary_size=CODEC.vocabulary_size)
    async with start(engine) as quern:
        assert (await quern.client.get("/slots?fail_on_no_slot=1")).status_code == 200
        asking = asyncio.ensure_future(complete(quern, prompt="x" * 500))
        while not engine.requests:
            await asyncio.sleep(0.01)
        full = await quern.client.get("/slots?fail_on_no_slot=1")
        assert (await quern.client.get("/slots")).status_code == 200
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)
    assert full.status_code == 503
    assert "retry-after" in full.headers


@pytest.mark.parametrize("path", ["/props", "/slots", "/models"])
async def test_while_the_model_loads_they_are_a_503_with_the_time_to_wait(start: Start, path: str) -> None:
    engine = FakeEngine(load_delay=30, vocabulary_size=CODEC.vocabulary_size)
    async with start(engine, wait_until_loaded=False) as quern:
        response = await quern.client.get(path)
    assert response.status_code == 503
    assert "retry-after" in response.headers


async def test_models_are_listed_where_llamacpps_clients_look(quern: Quern) -> None:
    assert (await quern.client.get("/models")).json() == (await quern.client.get("/v1/models")).json()
