"""How a sequence's tokens are spread over steps, batches and KV blocks changes nothing.

Not a bit: every row is computed by the same operations in the same order whatever rows are beside it.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from quern.engine.cpu import _native

from .native_model import (
    BLOCK,
    INSTRUCTION_SETS,
    KvType,
    blocks_for,
    greedy,
    item,
    load,
    random_ids,
    step,
    teacher_forced,
)
from .random_models import Q, small_config, write_gguf
from .reference import ARCHITECTURES, Config, log_softmax

CONFIGS = {name: small_config(name) for name in ARCHITECTURES}


@pytest.fixture(scope="module", params=ARCHITECTURES)
def config(request: pytest.FixtureRequest) -> Config:
    return CONFIGS[request.param]


@pytest.fixture(scope="module")
def model(config: Config, tmp_path_factory: pytest.TempPathFactory) -> _native.Model:
    path = tmp_path_factory.mktemp(config.architecture) / "model.gguf"
    write_gguf(path, config, types=[Q.Q4_K, Q.Q8_0, Q.Q6_K])
    return load(path)


@pytest.mark.parametrize("chunks", [[1] * 70, [7] * 10, [33, 37], [BLOCK, BLOCK, 70 - 2 * BLOCK], [69, 1]], ids=str)
def test_a_prompt_in_chunks_is_to_the_bit_the_prompt_as_a_whole(
    model: _native.Model, config: Config, chunks: list[int]
) -> None:
    """Chunks of one token are decoding: what comes after a prefill is the same as teacher forcing."""
    ids = random_ids(config, 70)
    whole = teacher_forced(model, ids)
    starts = np.cumsum([0, *chunks]).tolist()
    blocks = blocks_for(len(ids), first=5)
    parts = [
        step(model, item(model, ids[start:end], position=start, blocks=blocks))[0] for start, end in pairwise(starts)
    ]
    np.testing.assert_array_equal(whole, np.concatenate(parts))


def test_sequences_in_one_step_change_no_bit_of_each_other(model: _native.Model, config: Config) -> None:
    """1, 7, 33 and 64 tokens; the last two go on from other positions than 0."""
    sequences = [random_ids(config, count, seed=count) for count in (1, 7, 43, 74)]
    alone = [teacher_forced(model, ids) for ids in sequences]
    tables = [blocks_for(len(ids), first=4 * number) for number, ids in enumerate(sequences)]
    for ids, blocks in zip(sequences[2:], tables[2:], strict=True):
        step(model, item(model, ids[:10], blocks=blocks))
    starts = (0, 0, 10, 10)
    together = step(
        model,
        *(
            item(model, ids[start:], position=start, blocks=blocks)
            for ids, start, blocks in zip(sequences, starts, tables, strict=True)
        ),
    )
    for right, start, said in zip(alone, starts, together, strict=True):
        np.testing.assert_array_equal(right[start:], said)


@pytest.mark.parametrize("count", [2, 8, 9, 16])
def test_decoding_many_sequences_at_once_gives_each_to_the_bit_what_it_gets_alone(
    model: _native.Model, config: Config, count: int
) -> None:
    sequences = [random_ids(config, 12 + number, seed=number) for number in range(count)]
    alone = [teacher_forced(model, ids)[-1:] for ids in sequences]
    step(model, *(item(model, ids[:-1], blocks=[number]) for number, ids in enumerate(sequences)))
    together = step(
        model,
        *(item(model, ids[-1:], position=len(ids) - 1, blocks=[number]) for number, ids in enumerate(sequences)),
    )
    for right, said in zip(alone, together, strict=True):
        np.testing.assert_array_equal(right, said)


@pytest.mark.parametrize("isa", INSTRUCTION_SETS)
@pytest.mark.parametrize("kv_type", ["bf16", "int8"])
def test_scattered_blocks_give_to_the_bit_what_those_in_a_row_give(tmp_path: Path, kv_type: KvType, isa: str) -> None:
    config = CONFIGS["qwen3"]
    path = tmp_path / "model.gguf"
    write_gguf(path, config, types=[Q.Q8_0])
    model = load(path, kv_type=kv_type, isa=isa)
    ids = random_ids(config, 5 * BLOCK - 3)
    scattered = np.random.default_rng(0).permutation(model.kv_blocks)[:5].tolist()
    assert scattered != sorted(scattered)
    in_a_row = teacher_forced(model, ids)
    np.testing.assert_array_equal(in_a_row, teacher_forced(model, ids, scattered))
    ahead = step(model, item(model, ids[:100], blocks=scattered), item(model, ids[:7], blocks=[_unused(scattered)]))[0]
    np.testing.assert_array_equal(in_a_row[:100], ahead)


def _unused(blocks: list[int]) -> int:
    return next(block for block in range(len(blocks) + 1) if block not in blocks)


def test_a_shared_prefix_is_to_the_bit_as_good_as_one_of_their_own_for_several_sequences(
    model: _native.Model, config: Config
) -> None:
    prefix = random_ids(config, BLOCK)
    endings = [random_ids(config, 9, seed=seed) for seed in (1, 2, 3)]
    alone = [teacher_forced(model, [*prefix, *ending])[BLOCK:] for ending in endings]
    step(model, item(model, prefix, blocks=[9]))
    together = step(
        model,
        *(item(model, ending, position=BLOCK, blocks=[9, number]) for number, ending in enumerate(endings)),
    )
    for right, said in zip(alone, together, strict=True):
        np.testing.assert_array_equal(right, said)


def test_a_step_samples_the_likeliest_token_and_tells_its_logprob(model: _native.Model, config: Config) -> None:
    """An item without a sampler gives nothing."""
    ids = random_ids(config, 20)
    logprobs = log_softmax(teacher_forced(model, ids))[-1]
    silent, [token] = model.forward(
        [
            _native.Item(ids, 0, [0]),
            _native.Item(ids, 0, [1], greedy(model, top_logprobs=3)),
        ]
    )
    assert silent == []
    assert token.id == logprobs.argmax()
    assert token.logprob == pytest.approx(logprobs.max(), abs=0.05)
    assert [entry[0] for entry in token.top] == np.argsort(-logprobs)[:3].tolist()
    assert [entry[1] for entry in token.top] == pytest.approx(np.sort(logprobs)[::-1][:3].tolist(), abs=0.05)


def continuation(model: _native.Model, ids: list[int], count: int, block: int) -> list[int]:
    """What the model writes, one token a step."""
    [[token]] = model.forward([_native.Item(ids, 0, [block], greedy(model))])
    written = [token.id]
    while len(written) < count:
        position = len(ids) + len(written) - 1
        [[token]] = model.forward([_native.Item(written[-1:], position, [block], greedy(model))])
        written.append(token.id)
    return written


def test_right_drafts_give_all_their_tokens_in_one_step(model: _native.Model, config: Config) -> None:
    ids = random_ids(config, 10)
    written = continuation(model, ids, 6, block=0)
    model.forward([_native.Item(ids, 0, [1])])
    [tokens] = model.forward([_native.Item(written[:5], 10, [1], greedy(model), 5)])
    assert [token.id for token in tokens] == written[1:]


@pytest.mark.parametrize("right", [0, 2, 3])
def test_sampling_stops_after_the_first_wrong_draft_and_goes_on_over_it(
    model: _native.Model, config: Config, right: int
) -> None:
    """The keys and values of rejected drafts are written over."""
    ids = random_ids(config, 10)
    written = continuation(model, ids, 8, block=0)
    drafts = [*written[1 : 1 + right], (written[1 + right] + 1) % config.vocabulary, *written[2 + right : 6]]
    model.forward([_native.Item(ids, 0, [1])])
    [tokens] = model.forward([_native.Item([written[0], *drafts], 10, [1], greedy(model), 1 + len(drafts))])
    assert [token.id for token in tokens] == written[1 : 2 + right]
    [[token]] = model.forward([_native.Item([written[1 + right]], 11 + right, [1], greedy(model))])
    assert token.id == written[2 + right]


def test_prompt_and_drafts_may_share_an_item(model: _native.Model, config: Config) -> None:
    ids = random_ids(config, 10)
    written = continuation(model, ids, 4, block=0)
    [tokens] = model.forward([_native.Item([*ids, *written[:3]], 0, [1], greedy(model), 4)])
    assert [token.id for token in tokens] == written


OUT_OF_RANGE: dict[str, Callable[[_native.Model], _native.Item]] = {
    "an id beyond the vocabulary": lambda model: _native.Item([1, model.vocabulary_size], 0, [0]),
    "a negative id": lambda _: _native.Item([-1], 0, [0]),
    "no tokens": lambda _: _native.Item([], 0, [0]),
    "a negative position": lambda _: _native.Item([1], -1, [0]),
    "a position beyond the context": lambda model: _native.Item(
        [1], model.context_length, [0] * (model.context_length // BLOCK + 1)
    ),
    "too few blocks": lambda _: _native.Item([1] * (BLOCK + 1), 0, [0]),
    "too few blocks for the position": lambda _: _native.Item([1], BLOCK, [0]),
    "a block that is not there": lambda model: _native.Item([1], 0, [model.kv_blocks]),
    "a negative block": lambda _: _native.Item([1], 0, [-1]),
    "no samples": lambda model: _native.Item([1, 2], 0, [0], greedy(model), 0),
    "more samples than tokens": lambda model: _native.Item([1, 2], 0, [0], greedy(model), 3),
}


@pytest.mark.parametrize("make", OUT_OF_RANGE.values(), ids=OUT_OF_RANGE.keys())
def test_what_is_out_of_range_is_refused_and_nothing_has_been_computed(
    model: _native.Model, config: Config, make: Callable[[_native.Model], _native.Item]
) -> None:
    ids = random_ids(config, 20)
    right = teacher_forced(model, ids, [3])[-1:]
    others = random_ids(config, 19, seed=9)
    for call in (model.forward, model.logits):
        with pytest.raises(ValueError, match=r"\w"):
            call([item(model, others, blocks=[3], samples=1), make(model)])
    np.testing.assert_array_equal(right, step(model, item(model, ids[-1:], position=19, blocks=[3]))[0])
