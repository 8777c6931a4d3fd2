"""`/v1/embeddings` on a model for embeddings, and what such a model refuses."""

from __future__ import annotations

import asyncio
import base64
import math
import struct
from collections.abc import AsyncIterator
from typing import Any

import httpx2
import openai
import pytest

from quern.engine.base import EmbedRequest, Priority
from quern.engine.fake import FakeEngine
from quern.prompt.codec import TextCodec
from quern.turns.embeddings import MOST_INPUTS

from .conftest import Quern, Start

LENGTH = 64
CODEC = TextCodec.builtin(embedding_length=LENGTH)
END = CODEC.tokenizer.special.control["<|endoftext|>"]
MESSAGES = [{"role": "user", "content": "hi"}]


def ids(text: str) -> tuple[int, ...]:
    return (*text.encode(), END)


@pytest.fixture
async def embedding(start: Start) -> AsyncIterator[Quern]:
    """An application whose model makes embeddings."""
    async with start(embedding_length=LENGTH) as running:
        yield running


async def embed(quern: Quern, **body: Any) -> httpx2.Response:
    return await quern.client.post("/v1/embeddings", json=body)


async def embedded(quern: Quern, **body: Any) -> list[list[float]]:
    response = await embed(quern, **body)
    assert response.status_code == 200, response.text
    data = response.json()["data"]
    assert [entry["index"] for entry in data] == list(range(len(data)))
    return [entry["embedding"] for entry in data]


async def test_an_answer_has_openais_shape_and_the_engines_vector(embedding: Quern) -> None:
    response = await embed(embedding, input="hello", model="fake")
    vector = await embedding.engine.embed(EmbedRequest(ids("hello")))
    assert response.json() == {
        "object": "list",
        "data": [{"object": "embedding", "index": 0, "embedding": vector.tolist()}],
        "model": "fake",
        "usage": {"prompt_tokens": 6, "total_tokens": 6},
    }


@pytest.mark.parametrize(
    ("given", "prompts"),
    [
        ("a", [ids("a")]),
        (["a", "bc", "a"], [ids("a"), ids("bc"), ids("a")]),
        ([97, 98], [ids("ab")]),
        ([[97], [98, 99, END]], [ids("a"), ids("bc")]),
        ("", [ids("")]),
        (["", "é"], [ids(""), ids("é")]),
        ("a<|endoftext|>", [ids("a")]),
        ("<|endoftext|>a<|im_end|>", [ids("<|endoftext|>a<|im_end|>")]),
    ],
)
async def test_every_form_of_input_is_read_and_ended_once(
    embedding: Quern, given: Any, prompts: list[tuple[int, ...]]
) -> None:
    vectors = await embedded(embedding, input=given)
    assert sorted(request.prompt for request in embedding.engine.embedded) == sorted(prompts)
    right = [(await embedding.engine.embed(EmbedRequest(prompt))).tolist() for prompt in prompts]
    assert vectors == right


@pytest.mark.parametrize("given", [[], {}, 7, None, ["a", 1], [["a"]], [[1], 2], [True], [1.5]])
async def test_what_is_no_input_is_refused_by_its_name(embedding: Quern, given: Any) -> None:
    response = await embed(embedding, input=given)
    assert (response.status_code, response.json()["error"]["param"]) == (400, "input")


REFUSED_IDS: list[tuple[Any, str]] = [
    ([[]], "input"),
    ([[1], []], "input.1"),
    ([-1], "input"),
    ([[5], [10**6]], "input.1"),
]


@pytest.mark.parametrize(("given", "field"), REFUSED_IDS)
async def test_ids_that_can_not_be_embedded_are_refused_by_their_place(
    embedding: Quern, given: Any, field: str
) -> None:
    response = await embed(embedding, input=given)
    assert (response.status_code, response.json()["error"]["param"]) == (400, field), response.text
    assert embedding.engine.embedded == []


async def test_a_missing_input_is_refused(embedding: Quern) -> None:
    response = await embed(embedding, model="fake")
    assert (response.status_code, response.json()["error"]["param"]) == (400, "input")


async def test_base64_is_little_endian_float32(embedding: Quern) -> None:
    (numbers,) = await embedded(embedding, input="x", encoding_format="float")
    response = await embed(embedding, input="x", encoding_format="base64")
    packed = base64.b64decode(response.json()["data"][0]["embedding"], validate=True)
    assert list(struct.unpack(f"<{LENGTH}f", packed)) == numbers


async def test_an_unknown_encoding_is_refused(embedding: Quern) -> None:
    response = await embed(embedding, input="x", encoding_format="int8")
    assert (response.status_code, response.json()["error"]["param"]) == (400, "encoding_format")


@pytest.mark.parametrize("dimensions", [1, 2, 33, LENGTH, None])
async def test_dimensions_cut_the_vector_and_its_length_is_one_again(embedding: Quern, dimensions: int | None) -> None:
    (whole,) = await embedded(embedding, input="x")
    (cut,) = await embedded(embedding, input="x", dimensions=dimensions)
    first = whole[:dimensions]
    assert cut == pytest.approx([value / math.hypot(*first) for value in first], abs=1e-6)
    assert math.hypot(*cut) == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("dimensions", [0, -1, LENGTH + 1, 10**9, "many"])
async def test_dimensions_that_the_model_does_not_have_are_refused(embedding: Quern, dimensions: Any) -> None:
    response = await embed(embedding, input="x", dimensions=dimensions)
    assert (response.status_code, response.json()["error"]["param"]) == (400, "dimensions")


async def test_an_input_that_does_not_fit_is_refused_with_the_counts_and_none_is_embedded(start: Start) -> None:
    engine = FakeEngine(context_length=300, vocabulary_size=CODEC.vocabulary_size)
    async with start(engine, embedding_length=LENGTH) as quern:
        assert (await embed(quern, input=["a" * 299])).status_code == 200
        engine.embedded.clear()
        response = await embed(quern, input=["short", "a" * 300])
    error = response.json()["error"]
    assert (response.status_code, error["code"], error["param"]) == (400, "context_length_exceeded", "input.1")
    assert error["message"].startswith("This model's maximum context length is 300 tokens.")
    assert "301 tokens" in error["message"]
    assert engine.embedded == []


async def test_as_many_inputs_as_openai_takes_are_taken_and_one_more_is_refused(start: Start) -> None:
    async with start(FakeEngine(parallel=8, vocabulary_size=300), embedding_length=LENGTH) as quern:
        texts = [str(number) for number in range(MOST_INPUTS)]
        vectors = await embedded(quern, input=texts, dimensions=2)
        refused = await embed(quern, input=[*texts, "one more"])
    assert len({tuple(vector) for vector in vectors}) == MOST_INPUTS
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "input")
    assert "2049" in refused.json()["error"]["message"]


async def test_one_input_goes_before_many(embedding: Quern) -> None:
    await embedded(embedding, input="a question")
    await embedded(embedding, input=["a", "file"])
    priorities = [request.priority for request in embedding.engine.embedded]
    assert priorities == [Priority.NORMAL, Priority.BACKGROUND, Priority.BACKGROUND]


async def test_a_request_of_many_inputs_keeps_nobody_waiting_for_all_of_them(start: Start) -> None:
    engine = FakeEngine(parallel=2, prefill_delay=0.02, vocabulary_size=300)
    async with start(engine, embedding_length=LENGTH) as quern:
        many = asyncio.ensure_future(embedded(quern, input=[f"file {number}" for number in range(100)]))
        while len(engine.embedded) < 2:
            await asyncio.sleep(0.001)
        await embedded(quern, input="a question")
        assert len(engine.embedded) <= 50
        assert not many.done()
        assert len(await many) == 100


async def test_a_client_that_goes_away_leaves_the_engine_idle(start: Start) -> None:
    engine = FakeEngine(parallel=2, prefill_delay=0.2, vocabulary_size=300)
    async with start(engine, live=True, embedding_length=LENGTH) as quern:
        with pytest.raises(httpx2.ReadTimeout):
            await quern.client.post("/v1/embeddings", json={"input": ["text"] * 500}, timeout=0.5)
        async with asyncio.timeout(10):
            while engine.stats().running or engine.stats().waiting:
                await asyncio.sleep(0.01)
        assert len(engine.embedded) < 20
        assert len(await embedded(quern, input="x")) == 1


async def test_too_many_requests_at_once_are_told_when_to_come_back(start: Start) -> None:
    engine = FakeEngine(parallel=1, prefill_delay=0.3, vocabulary_size=300)
    async with start(engine, embedding_length=LENGTH, turns={"max_queued": 2}) as quern:
        responses = await asyncio.gather(*(embed(quern, input="x") for _ in range(5)))
        assert sorted(response.status_code for response in responses) == [200, 200, 200, 503, 503]
        refused = next(response for response in responses if response.status_code == 503)
        assert refused.json()["error"]["code"] == "overloaded"
        assert int(refused.headers["retry-after"]) >= 1
        assert (await embed(quern, input="x")).status_code == 200


async def test_a_vector_that_is_lost_is_a_500_and_the_next_one_is_served(start: Start) -> None:
    engine = FakeEngine(parallel=2, fail_after=0, vocabulary_size=300)
    async with start(engine, embedding_length=LENGTH) as quern:
        assert (await embed(quern, input=["a"] * 50)).status_code == 500
        assert len(engine.embedded) <= 3
        engine.fail_after = None
        assert (await embed(quern, input="a")).status_code == 200


async def test_while_the_model_loads_the_answer_is_503(start: Start) -> None:
    engine = FakeEngine(load_delay=30, vocabulary_size=300)
    async with start(engine, wait_until_loaded=False, embedding_length=LENGTH) as quern:
        response = await embed(quern, input="x")
    assert (response.status_code, response.json()["error"]["code"]) == (503, "model_unavailable")


async def test_another_models_name_is_a_404(embedding: Quern) -> None:
    assert (await embed(embedding, input="x", model="text-embedding-3-small")).status_code == 404


async def test_a_chat_model_says_what_to_serve_instead(quern: Quern) -> None:
    response = await embed(quern, input="x")
    error = response.json()["error"]
    assert (response.status_code, error["param"]) == (400, "model")
    assert "'fake'" in error["message"]
    assert "Qwen3-Embedding" in error["message"]
    assert "quern serve --model" in error["message"]
    assert quern.engine.embedded == []


CHAT_REQUESTS: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {"messages": MESSAGES},
    "/v1/completions": {"prompt": "def f():"},
    "/v1/responses": {"input": "hi"},
    "/v1/messages": {"messages": MESSAGES, "max_tokens": 10},
    "/v1/messages/count_tokens": {"messages": MESSAGES},
    "/infill": {"input_prefix": "a", "input_suffix": "b"},
    "/tokenize": {"messages": MESSAGES},
    "/apply-template": {"messages": MESSAGES},
}


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("path", CHAT_REQUESTS)
async def test_a_model_for_embeddings_writes_nothing_in_any_dialect(embedding: Quern, path: str, stream: bool) -> None:
    streamed = {"stream": True} if stream and "count" not in path and path.startswith(("/v1", "/infill")) else {}
    response = await embedding.client.post(path, json=CHAT_REQUESTS[path] | streamed)
    assert response.status_code == 400, response.text
    assert "/v1/embeddings" in response.json()["error"]["message"]
    assert embedding.engine.requests == []


@pytest.mark.parametrize("path", ["/v1/code/generate", "/v1/code/chat_stream"])
async def test_a_model_for_embeddings_writes_nothing_at_the_original_endpoints(embedding: Quern, path: str) -> None:
    response = await embedding.client.post(path, data={"prompt": "hi"})
    assert response.status_code == 422
    assert "/v1/embeddings" in response.text
    assert embedding.engine.requests == []


async def test_a_model_for_embeddings_still_tokenises(embedding: Quern) -> None:
    response = await embedding.client.post("/tokenize", json={"content": "ab"})
    assert response.json() == {"tokens": [97, 98]}


async def test_the_list_of_models_says_what_the_model_is_for(start: Start) -> None:
    async with start() as quern:
        chat = (await quern.client.get("/v1/models/fake")).json()
    assert (chat["capabilities"]["embeddings"], chat["embedding_length"]) == (False, None)
    async with start(embedding_length=LENGTH) as other:
        model = (await other.client.get("/v1/models")).json()["data"][0]
    assert model["embedding_length"] == LENGTH
    assert {name for name, able in model["capabilities"].items() if able is True} == {"embeddings"}
    assert {"supported": True} not in model["capabilities"].values()


async def test_openais_library_embeds_with_its_defaults_and_gets_floats(start: Start) -> None:
    """It asks for base64 by itself and unpacks that, though its own types don't allow it: not with `official`."""
    async with (
        start(live=True, embedding_length=LENGTH) as quern,
        openai.AsyncOpenAI(base_url=f"{quern.client.base_url}/v1", api_key="none", max_retries=0) as client,
    ):
        answer = await client.embeddings.create(model="fake", input=["a", "b"])
        plain = await client.embeddings.create(model="fake", input=["a", "b"], encoding_format="float")
        cut = await client.embeddings.create(model="fake", input="a", dimensions=8, user="somebody")
        with pytest.raises(openai.BadRequestError, match="dimensions"):
            await client.embeddings.create(model="fake", input="a", dimensions=LENGTH + 1)
    assert [entry.index for entry in answer.data] == [0, 1]
    assert [entry.embedding for entry in answer.data] == [pytest.approx(entry.embedding) for entry in plain.data]
    assert (answer.usage.prompt_tokens, answer.usage.total_tokens) == (4, 4)
    assert len(cut.data[0].embedding) == 8
