"""Tokenising and its inverse, in llama.cpp's shape and in vLLM's."""

from __future__ import annotations

from typing import Any

import pytest

from quern.engine.fake import FakeEngine
from quern.prompt.codec import TextCodec

from .conftest import Quern, Start

SPECIAL = TextCodec.builtin().tokenizer.special.control
START, END = SPECIAL["<|im_start|>"], SPECIAL["<|im_end|>"]
JSON = {"content-type": "application/json"}
USER: list[dict[str, Any]] = [{"role": "user", "content": "你"}]
WEATHER: dict[str, Any] = {
    "type": "function",
    "function": {"name": "weather", "parameters": {"type": "object", "properties": {}}},
}


async def post(quern: Quern, path: str, **body: Any) -> Any:
    response = await quern.client.post(path, json=body)
    assert response.status_code == 200, response.text
    return response.json()


async def test_llamacpps_content_becomes_its_ids(quern: Quern) -> None:
    assert await post(quern, "/tokenize", content="你") == {"tokens": list("你".encode())}
    assert await post(quern, "/tokenize", content="") == {"tokens": []}


async def test_half_a_character_becomes_a_replacement_character_and_two_halves_are_joined(quern: Quern) -> None:
    for written, text in ((r"a\ud800b", "a\ufffdb"), (r"\ud83d\ude00", "😀")):
        response = await quern.client.post("/tokenize", content=f'{{"content": "{written}"}}', headers=JSON)
        assert response.json() == {"tokens": list(text.encode())}


async def test_pieces_are_text_where_they_are_whole_characters_and_else_bytes(quern: Quern) -> None:
    body = await post(quern, "/tokenize", content="a你", with_pieces=True, add_special=False)
    first, second, third = "你".encode()
    assert body["tokens"] == [
        {"id": 97, "piece": "a"},
        {"id": first, "piece": [first]},
        {"id": second, "piece": [second]},
        {"id": third, "piece": [third]},
    ]


@pytest.mark.parametrize("parse_special", [None, True, False])
async def test_the_text_of_special_tokens_stays_text_as_in_every_request(quern: Quern, parse_special: Any) -> None:
    text = "<|im_start|>user"
    assert (await post(quern, "/tokenize", content=text, parse_special=parse_special))["tokens"] == list(text.encode())
    assert (await post(quern, "/tokenize", prompt=text))["tokens"] == list(text.encode())


async def test_a_whole_frame_for_filling_in_the_middle_is_counted_as_completions_take_it(quern: Quern) -> None:
    frame = "<|fim_prefix|>a<|fim_suffix|>b<|fim_middle|>"
    ids = [SPECIAL["<|fim_prefix|>"], 97, SPECIAL["<|fim_suffix|>"], 98, SPECIAL["<|fim_middle|>"]]
    assert (await post(quern, "/tokenize", content=frame))["tokens"] == ids


async def test_vllms_prompt_becomes_its_ids_with_the_count_and_the_context(quern: Quern) -> None:
    body = await post(quern, "/tokenize", model="fake", prompt="ab", add_special_tokens=True)
    length = quern.engine.info.context_length
    assert body == {"count": 2, "max_model_len": length, "tokens": [97, 98], "token_strs": None}
    told = await post(quern, "/tokenize", prompt="ab", return_token_strs=True)
    assert told["token_strs"] == ["a", "b"]


async def test_vllms_messages_have_the_ids_of_the_chat_request(quern: Quern) -> None:
    for tools in (None, [WEATHER]):
        body = await post(
            quern, "/tokenize", messages=USER, tools=tools, add_generation_prompt=True, return_token_strs=True
        )
        await quern.client.post("/v1/chat/completions", json={"messages": USER, "tools": tools})
        assert tuple(body["tokens"]) == quern.engine.requests[-1].prompt
        assert body["count"] == len(body["tokens"])
        assert body["token_strs"][0] == "<|im_start|>"


async def test_ids_become_text_again_special_tokens_names_included(quern: Quern) -> None:
    ids = [START, *"你".encode(), END]
    assert await post(quern, "/detokenize", tokens=ids) == {
        "content": "<|im_start|>你<|im_end|>",
        "prompt": "<|im_start|>你<|im_end|>",
    }
    assert (await post(quern, "/detokenize", model="fake", tokens=[]))["prompt"] == ""
    assert (await post(quern, "/detokenize", tokens=["你".encode()[0]]))["content"] == "�"


async def test_a_conversation_is_rendered_with_the_models_template(quern: Quern) -> None:
    assert await post(quern, "/apply-template", messages=USER) == {
        "prompt": "<|im_start|>user\n你<|im_end|>\n<|im_start|>assistant\n"
    }
    assert "weather" in (await post(quern, "/apply-template", messages=USER, tools=[WEATHER]))["prompt"]


@pytest.mark.parametrize(
    ("path", "body", "param", "words"),
    [
        ("/tokenize", {}, "content", "one of content, prompt and messages"),
        ("/tokenize", {"content": "a", "prompt": "b"}, "content", "one of content, prompt and messages"),
        ("/tokenize", {"content": 1}, "content", "valid string"),
        ("/tokenize", {"messages": [{"role": "robot"}]}, "messages", "an object with a role and content"),
        ("/detokenize", {}, "tokens", "missing"),
        ("/detokenize", {"tokens": "a"}, "tokens", "valid list"),
        ("/detokenize", {"tokens": [-1]}, "tokens", "ids are 0 to"),
        ("/detokenize", {"tokens": [1, 99_999]}, "tokens", "ids are 0 to"),
        ("/apply-template", {}, "messages", "missing"),
        ("/apply-template", {"messages": []}, "messages", "missing"),
    ],
)
async def test_what_cannot_be_used_is_refused_by_name(
    quern: Quern, path: str, body: dict[str, Any], param: str, words: str
) -> None:
    response = await quern.client.post(path, json=body)
    error = response.json()["error"]
    assert response.status_code == 400, error
    assert (error["type"], error["param"]) == ("invalid_request_error", param)
    assert words in error["message"]


async def test_another_model_is_refused_and_a_loading_one_says_when_to_come_back(start: Start) -> None:
    async with start(FakeEngine(load_delay=30), wait_until_loaded=False) as quern:
        loading = await quern.client.post("/tokenize", json={"content": "a"})
    async with start() as quern:
        other = await quern.client.post("/tokenize", json={"model": "gpt-2", "prompt": "a"})
    assert (loading.status_code, loading.json()["error"]["code"]) == (503, "model_unavailable")
    assert int(loading.headers["retry-after"]) >= 1
    assert (other.status_code, other.json()["error"]["code"]) == (404, "model_not_found")
