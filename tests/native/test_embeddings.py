"""A sequence's embedding is its last token's hidden state after the output norm, divided by its length."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from quern.engine.cpu import _native

from .native_model import BLOCK, blocks_for, greedy, item, load, random_ids, step
from .random_models import Q, small_config, write_gguf, write_safetensors
from .reference import ARCHITECTURES, Array, Reference

LEAST_COSINE = 0.999


def embedded(model: _native.Model, ids: Sequence[int], *, chunks: Sequence[int] = (), first_block: int = 0) -> Array:
    """The vector of `ids`, computed in chunks that end before these places."""
    blocks = blocks_for(len(ids), first=first_block)
    embedding = _native.Embedding()
    for start, end in pairwise((0, *chunks, len(ids))):
        last = embedding if end == len(ids) else None
        assert model.forward([_native.Item(ids[start:end], start, blocks, embedding=last)]) == [[]]
    return values(embedding)


def values(embedding: _native.Embedding) -> Array:
    return np.frombuffer(embedding.values, np.float32)


def right(reference: Reference, ids: Sequence[int]) -> Array:
    last = reference.hidden_states([ids])[0][-1]
    return last / np.linalg.norm(last)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("kind", [Q.F32, Q.F16, Q.Q8_0], ids=lambda kind: kind.name)
def test_an_embedding_points_where_the_reference_does(architecture: str, kind: Q, tmp_path: Path) -> None:
    config = small_config(architecture)
    reference = write_gguf(tmp_path / "model.gguf", config, types=[kind])
    model = load(tmp_path / "model.gguf")
    assert model.embedding_length == config.hidden
    for count in (1, 2, 31, 70):
        ids = random_ids(config, count, seed=count)
        said = embedded(model, ids)
        assert said.shape == (config.hidden,)
        assert np.linalg.norm(said) == pytest.approx(1, abs=1e-6)
        assert said @ right(reference, ids) > LEAST_COSINE


@pytest.mark.parametrize("shards", [1, 3])
@pytest.mark.parametrize("architecture", ["qwen2", "qwen3"])
def test_a_folder_without_an_output_matrix_embeds(architecture: str, shards: int, tmp_path: Path) -> None:
    """As Qwen3-Embedding is published: with `tie_word_embeddings` false and without a `lm_head`."""
    config = small_config(architecture)
    reference = write_safetensors(tmp_path, config, without_head=True, shards=shards)
    ids = random_ids(config, 40)
    assert embedded(load(tmp_path), ids) @ right(reference, ids) > LEAST_COSINE


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> _native.Model:
    path = tmp_path_factory.mktemp("qwen3") / "model.gguf"
    write_gguf(path, small_config("qwen3"), types=[Q.Q8_0])
    return load(path)


@pytest.mark.parametrize("chunks", [[1, 2, 3], [BLOCK], [69], list(range(1, 70))], ids=str)
def test_an_embedding_in_chunks_is_to_the_bit_that_of_the_whole(model: _native.Model, chunks: list[int]) -> None:
    ids = random_ids(small_config("qwen3"), 70)
    np.testing.assert_array_equal(embedded(model, ids), embedded(model, ids, chunks=chunks, first_block=7))


def test_embeddings_and_answers_in_one_step_change_no_bit_of_each_other(model: _native.Model) -> None:
    config = small_config("qwen3")
    sequences = [random_ids(config, count, seed=count) for count in (1, 7, 43, 64)]
    tables = [blocks_for(len(ids), first=3 * number) for number, ids in enumerate(sequences)]
    alone = [embedded(model, ids) for ids in sequences[:3]]
    drawn = step(model, item(model, sequences[3]))[0][-1].argmax()
    embeddings = [_native.Embedding() for _ in alone]
    items = [
        _native.Item(ids, 0, blocks, embedding=embedding)
        for ids, blocks, embedding in zip(sequences[:3], tables[:3], embeddings, strict=True)
    ]
    items.insert(1, _native.Item(sequences[3], 0, tables[3], greedy(model)))
    first, answer, *others = model.forward(items)
    assert [token.id for token in answer] == [drawn]
    assert [first, *others] == [[], [], []]
    for wanted, embedding in zip(alone, embeddings, strict=True):
        np.testing.assert_array_equal(wanted, values(embedding))


def test_an_embedding_has_no_values_before_it_is_computed(model: _native.Model) -> None:
    embedding = _native.Embedding()
    assert embedding.values == b""
    with pytest.raises(ValueError, match="vocabulary"):
        model.forward([_native.Item([10**6], 0, [0], embedding=embedding)])
    assert embedding.values == b""


def test_an_item_has_one_end_and_shares_it_with_nobody(model: _native.Model) -> None:
    embedding = _native.Embedding()
    with pytest.raises(ValueError, match="a sampler and an embedding"):
        model.forward([_native.Item([1], 0, [0], greedy(model), embedding=embedding)])
    with pytest.raises(ValueError, match="embedding of another item"):
        model.forward([_native.Item([1], 0, [block], embedding=embedding) for block in (0, 1)])


def test_a_hidden_state_that_is_nothing_gives_no_vector(tmp_path: Path) -> None:
    """A damaged file: its last norm is all zeros, so the hidden state has no direction."""
    config = small_config("qwen3")
    write_gguf(tmp_path / "model.gguf", config)
    data = (tmp_path / "model.gguf").read_bytes()
    weights = Reference.from_gguf(tmp_path / "model.gguf").weights.get("output_norm.weight").tobytes()
    assert data.count(weights) == 1
    (tmp_path / "model.gguf").write_bytes(data.replace(weights, bytes(len(weights))))
    assert embedded(load(tmp_path / "model.gguf"), [1, 2, 3]).size == 0
