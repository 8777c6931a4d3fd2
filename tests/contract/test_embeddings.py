"""What every engine promises of embeddings: the same cases against each of them, with a small random network whose
tokens are bytes.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import pytest_asyncio
from gguf import GGMLQuantizationType
from tests.model_folders import write_embedding_file, write_embedding_folder
from tests.native.reference import Array, Reference
from tests.unit.modelfiles.gguf_files import write_gguf

from quern.engine.base import EmbedRequest, EngineState, Priority, Vector
from quern.engine.engine_choice import ModelKind, choose, native_facts
from quern.errors import ContextExceeded, EngineFailed, EngineUnavailable
from quern.prompt.codec import TextCodec

from .engines import CONTEXT_LENGTH, RUNS_CPU, SETTINGS, Subject, collect, cpu_subject, make_subject, started

pytestmark = pytest.mark.asyncio(loop_scope="module")

LENGTH = 256
LEAST_COSINE = 0.999
REAL_ENGINES = [pytest.param("cpu", marks=RUNS_CPU), "llamacpp"]
"""Those that make embeddings."""
ENGINES = ["fake", *REAL_ENGINES]
TEXTS = ("def add(a, b):\n    return a + b\n", "a", "", "Instruct: Find code.\nQuery:sum of two", "日本語 🦀\r\n" * 40)


@dataclass
class Embedder:
    """A started engine with a model for embeddings."""

    subject: Subject
    exact: bool
    """Whether company and caches change no bit."""

    def request(self, text: str = TEXTS[0], *, tokens: int | None = None, salt: str = "") -> EmbedRequest:
        """A text, or so many tokens of it again and again."""
        ids = self.subject.codec.encode_whole(text)
        if tokens is not None:
            ids = (ids * (tokens // len(ids) + 1))[:tokens]
        return EmbedRequest(ids, cache_salt=salt)

    async def embed(self, request: EmbedRequest) -> Vector:
        return await self.subject.engine.embed(request)

    def alike(self, first: Vector, second: Vector) -> bool:
        return first == second if self.exact else float(np.dot(first, second)) > LEAST_COSINE


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def vocabulary(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file without weights that has the vocabulary."""
    return write_gguf(tmp_path_factory.mktemp("vocabulary") / "bytes.gguf")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def embedding_model(vocabulary: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("embedding") / "small.gguf"
    write_embedding_file(path, vocabulary)
    return path


@pytest_asyncio.fixture(scope="module", loop_scope="module", params=ENGINES)
async def each_engine(request: pytest.FixtureRequest, embedding_model: Path) -> AsyncGenerator[Embedder]:
    fake = TextCodec.builtin(embedding_length=LENGTH)
    async with started(make_subject(request.param, embedding_model, fake=fake)) as subject:
        yield Embedder(subject, exact=request.param != "llamacpp")


@pytest_asyncio.fixture(loop_scope="module")
async def embedder(each_engine: Embedder) -> AsyncGenerator[Embedder]:
    """The same, found idle after every case."""
    yield each_engine
    await each_engine.subject.assert_idle()


async def test_a_vector_has_the_models_length_and_the_length_one(embedder: Embedder) -> None:
    for text in TEXTS:
        vector = await embedder.embed(embedder.request(text))
        assert vector.typecode == "f"
        assert len(vector) == embedder.subject.codec.facts.embedding_length == LENGTH
        assert math.hypot(*vector) == pytest.approx(1, abs=1e-5)


async def test_many_at_once_are_each_what_they_are_alone(embedder: Embedder) -> None:
    """In the order that they were asked for, whatever their lengths."""
    requests = [embedder.request(text, salt=f"alone {index}") for index, text in enumerate(TEXTS)]
    requests += [embedder.request(tokens=tokens, salt=f"long {tokens}") for tokens in (700, 1, 33, 64)]
    alone = [await embedder.embed(request) for request in requests]
    again = [replace(request, cache_salt=f"together {index}") for index, request in enumerate(requests)]
    together = await asyncio.gather(*(embedder.embed(request) for request in again))
    for first, second in zip(alone, together, strict=True):
        assert embedder.alike(first, second)
    assert not embedder.alike(alone[0], alone[1])


async def test_a_prefix_that_was_computed_before_changes_nothing(embedder: Embedder) -> None:
    long = embedder.request(tokens=300, salt="shared")
    shorter = replace(long, prompt=long.prompt[:200])
    fresh = await embedder.embed(replace(shorter, cache_salt="fresh"))
    await embedder.embed(long)
    for request in (shorter, shorter):
        assert embedder.alike(await embedder.embed(request), fresh)


async def test_what_fills_the_context_is_embedded_and_one_token_more_is_refused_with_the_counts(
    embedder: Embedder,
) -> None:
    assert len(await embedder.embed(embedder.request(tokens=CONTEXT_LENGTH))) == LENGTH
    with pytest.raises(ContextExceeded, match=str(CONTEXT_LENGTH + 1)) as refused:
        await embedder.embed(embedder.request(tokens=CONTEXT_LENGTH + 1))
    assert (refused.value.prompt_tokens, refused.value.answer_tokens) == (CONTEXT_LENGTH + 1, 0)


@pytest.mark.parametrize("number", [2, 5])
async def test_those_who_are_cancelled_leave_at_once_running_or_waiting(embedder: Embedder, number: int) -> None:
    engine = embedder.subject.engine
    requests = [embedder.request(tokens=1500, salt=f"cancelled {index}") for index in range(number)]
    tasks = [asyncio.ensure_future(embedder.embed(request)) for request in requests]
    await embedder.subject.wait_until(lambda: engine.stats().running == 2)
    for task in tasks:
        task.cancel()
    ends = await asyncio.gather(*tasks, return_exceptions=True)
    assert {type(end) for end in ends} == {asyncio.CancelledError}
    await embedder.subject.wait_until_idle()
    assert len(await embedder.embed(embedder.request())) == LENGTH


async def test_who_is_waited_for_goes_before_who_works_in_the_background(embedder: Embedder) -> None:
    ended: list[str] = []

    async def embed(name: str, request: EmbedRequest) -> None:
        await embedder.embed(request)
        ended.append(name)

    background = [
        replace(embedder.request(tokens=1000, salt=f"behind {index}"), priority=Priority.BACKGROUND)
        for index in range(6)
    ]
    tasks = [asyncio.ensure_future(embed(f"background {index}", one)) for index, one in enumerate(background)]
    await embedder.subject.wait_until(lambda: embedder.subject.engine.stats().running == 2)
    await embed("waited for", embedder.request(salt="ahead"))
    assert len(ended) <= 3
    await asyncio.gather(*tasks)
    assert len(ended) == 7


async def test_a_crash_loses_who_runs_and_the_next_one_is_served(embedder: Embedder) -> None:
    running = asyncio.ensure_future(embedder.embed(embedder.request(tokens=2500, salt="crashed")))
    await embedder.subject.wait_until(lambda: embedder.subject.engine.stats().running == 1)
    await embedder.subject.crash()
    with pytest.raises((EngineFailed, EngineUnavailable)):
        await running
    await embedder.subject.wait_until(lambda: embedder.subject.engine.stats().state is EngineState.READY)
    assert len(await embedder.embed(embedder.request())) == LENGTH


@pytest.mark.parametrize("name", ENGINES)
async def test_an_engine_that_is_not_there_says_when_to_come_back(name: str, embedding_model: Path) -> None:
    subject = make_subject(name, embedding_model, fake=TextCodec.builtin(embedding_length=LENGTH))
    with pytest.raises(EngineUnavailable) as refused:
        await subject.engine.embed(EmbedRequest((1, 2)))
    assert refused.value.retry_after >= 1
    await subject.engine.start()
    running = asyncio.ensure_future(subject.engine.embed(EmbedRequest((1, 2) * 1200)))
    await subject.wait_until(lambda: subject.engine.stats().running == 1)
    await subject.engine.close()
    with pytest.raises((EngineFailed, EngineUnavailable)):
        await running
    subject.codec.close()


def right(reference: Reference, ids: Sequence[int]) -> Array:
    last = reference.hidden_states([ids])[0][-1]
    return last / np.linalg.norm(last)


@pytest.mark.parametrize("name", REAL_ENGINES)
@pytest.mark.parametrize("kind", [GGMLQuantizationType.F32, GGMLQuantizationType.Q8_0], ids=lambda kind: kind.name)
async def test_embeddings_point_where_the_reference_does(
    name: str, kind: GGMLQuantizationType, vocabulary: Path, tmp_path: Path
) -> None:
    reference = write_embedding_file(tmp_path / "small.gguf", vocabulary, kind)
    subject = make_subject(name, tmp_path / "small.gguf")
    await subject.engine.start()
    inputs = [subject.codec.encode_whole(text) for text in TEXTS]
    vectors = await asyncio.gather(*(subject.engine.embed(EmbedRequest(ids)) for ids in inputs))
    await subject.engine.close()
    subject.codec.close()
    for ids, vector in zip(inputs, vectors, strict=True):
        assert float(np.dot(vector, right(reference, ids))) > LEAST_COSINE


@RUNS_CPU
async def test_a_folder_as_qwen3_embedding_is_published_embeds(vocabulary: Path, tmp_path: Path) -> None:
    reference = write_embedding_folder(tmp_path, vocabulary)
    codec = TextCodec.load(tmp_path)
    kind = ModelKind(codec.facts.architecture, codec.quantisation, folder=True)
    assert choose(SETTINGS, native_facts(), kind).name == "cpu"
    subject = cpu_subject(tmp_path, codec)
    await subject.engine.start()
    ids = codec.encode_whole(TEXTS[0])
    vector = await subject.engine.embed(EmbedRequest(ids))
    await subject.engine.close()
    codec.close()
    assert ids[-1] == codec.tokenizer.special.control["<|endoftext|>"]
    assert float(np.dot(vector, right(reference, ids))) > LEAST_COSINE


@RUNS_CPU
async def test_on_cpu_answers_and_embeddings_share_steps_and_change_no_bit_of_each_other(
    embedding_model: Path,
) -> None:
    """Its numbers of a sequence don't depend on what the others are for."""
    subject = make_subject("cpu", embedding_model)
    await subject.engine.start()
    answer, texts = subject.endless(max_tokens=60), [EmbedRequest((9, 8, 7) * count) for count in (1, 20, 200)]
    alone = (await collect(subject.engine, answer)).ids, [await subject.engine.embed(text) for text in texts]
    mixed = asyncio.ensure_future(collect(subject.engine, replace(answer, cache_salt="another")))
    vectors = [await subject.engine.embed(replace(text, cache_salt="another")) for text in texts]
    assert ((await mixed).ids, vectors) == alone
    await subject.engine.close()
    subject.codec.close()
